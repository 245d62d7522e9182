"""The stand-alone server of the docs, beside no file of this package."""

import http.client
import io
import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from nfnets_augmult.ops.param_names import is_classifier
from nfnets_augmult.runs.exporting import export
from nfnets_augmult.runs.predicting import load_predictor
from nfnets_augmult.weights.param_files import read_metadata, read_params, write_npz
from tests import real_images, session
from tests.runs import predicted_runs
from tests.test_documentation import ROOT


@pytest.fixture(scope='module', name='params')
def _params(tmp_path_factory):
  """A file of the toy run on photographs, whose probabilities are made to differ widely."""
  path = str(tmp_path_factory.mktemp('params') / 'a.npz')
  export(path, workdir=str(predicted_runs.photos() / 'run'))
  values, said = read_params(path), read_metadata(path)
  (classifier,) = (module for module in values if is_classifier(module))
  values[classifier]['w'] *= 100
  write_npz(path, values, said)
  return path


@pytest.fixture(scope='module', name='url')
def _url(params, tmp_path_factory):
  """Of a server, in a folder without this package."""
  tmp_path = tmp_path_factory.mktemp('server')
  export(str(tmp_path / 'a.stablehlo'), params=params)
  shutil.copy(ROOT / 'docs' / 'serve.py', tmp_path)
  process = subprocess.Popen(
    [sys.executable, 'serve.py', 'a.stablehlo', '0'],
    cwd=tmp_path,
    env={k: v for k, v in session.one_device().items() if k != 'PYTHONPATH'},
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  yield process.stdout.readline().strip()
  process.terminate()
  process.wait()
  process.stdout.close()


def _post(url, content):
  with urllib.request.urlopen(urllib.request.Request(url, content), timeout=60) as answer:
    return json.load(answer)


def _encoded(pixels, **options):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, **options)
  return file.getvalue()


def test_it_answers_as_predict_does(url, params, tmp_path):
  """To 1e-4, but for JPEGs that are decoded at their full size: their decoders differ."""
  assert url.startswith('http://127.0.0.1:')
  small, _ = real_images.photos(2, 90, 121)
  _, large = real_images.photos(2, 400, 601)
  exif = Image.Exif()
  exif[274] = 6  # turned by a quarter
  files = {
    'small.png': (_encoded(small, format='PNG'), 1e-4),
    'grey.png': (_encoded(small[..., 0], format='PNG'), 1e-4),
    'turned.png': (_encoded(small, format='PNG', exif=exif), 1e-4),
    'small.jpg': (_encoded(small[:30, :40], format='JPEG', quality=95), 0.02),
    'large.jpg': (_encoded(large, format='JPEG', quality=95), 1e-4),
    'turned.jpg': (_encoded(large, format='JPEG', quality=95, exif=exif), 1e-4),
  }
  predictor = load_predictor(params=params, batch_size=8)
  for name, (content, tolerance) in files.items():
    (tmp_path / name).write_bytes(content)
    expected = dict(predictor(str(tmp_path / name)).top(2)[0])
    found = dict(_post(url, content))
    assert found.keys() == expected.keys() == {'china', 'flower'}
    for key, probability in expected.items():
      assert found[key] == pytest.approx(probability, abs=tolerance), name


def _answer(url, head, body=b''):
  """The status of the answer to a request that ends early; 0 if there is none."""
  host, port = url.removeprefix('http://').rstrip('/').split(':')
  with socket.create_connection((host, int(port)), timeout=20) as connection:
    connection.sendall(head + b'\r\n\r\n' + body)
    connection.shutdown(socket.SHUT_WR)
    words = connection.makefile('rb').readline().split()
  return int(words[1]) if words else 0


def test_it_refuses_politely_and_goes_on(url):
  long = _encoded(np.zeros((1, 2**14 + 1), np.uint8), format='PNG')
  cut = _encoded(np.zeros((30, 30, 3), np.uint8), format='PNG')[:60]
  for content, status in (
    (b'no image', 400),
    (b'', 400),
    (long, 400),
    (cut, 400),
    (bytes(21 * 2**20), 413),
  ):
    with pytest.raises(urllib.error.HTTPError) as caught:
      _post(url, content)
    assert caught.value.code == status
    caught.value.close()
  address = url.removeprefix('http://').rstrip('/')
  connection = http.client.HTTPConnection(address, timeout=60)
  connection.putrequest('POST', '/')
  connection.endheaders()
  assert connection.getresponse().status == 411
  connection.close()
  for length, status in (('-5', 400), ('9' * 5000, 400), ('9' * 17, 413), ('500', 400)):
    assert _answer(url, f'POST / HTTP/1.1\r\nContent-Length: {length}'.encode(), b'abc') == status
  assert _answer(url, b'GET / HTTP/1.1') == 501
  assert len(_post(url, _encoded(np.zeros((30, 30, 3), np.uint8), format='PNG'))) == 2
