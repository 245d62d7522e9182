"""Serves a `.stablehlo` with nothing but JAX, NumPy and Pillow: copy this file, and change it.

    python serve.py photos.stablehlo 8000
    curl --data-binary @portrait.jpg http://127.0.0.1:8000/

The answer is JSON: the five most probable classes. docs/serving.md says what is in the file.
"""

import http.server
import io
import json
import sys
import threading

import jax.export
import numpy as np
from PIL import Image, ImageOps

MOST_BYTES = 20 * 2**20  # of a request
MOST_SIDE = 2**14  # pixels; the weights that scale an image take memory in proportion
at_once = threading.Semaphore(2)  # images; one of `max_pixels` takes about 1 GB

file = np.load(sys.argv[1])  # arrays alone: NumPy refuses pickles
said = json.loads(str(file['__metadata__']))
how = said['program']['preprocessing']
program = jax.jit(jax.export.deserialize(bytearray(file['__program__'])).call)
params = {}
for name in (name for name in file.files if '/' in name):
  module, _, parameter = name.rpartition('/')
  params.setdefault(module, {})[parameter] = jax.device_put(file[name])


def bicubic(length: int, size: int) -> np.ndarray:
  """Weights `[size, length]` that scale a line of pixels; Keys' kernel."""
  scale = length / size
  distance = np.abs((np.arange(size)[:, None] + 0.5) * scale - 0.5 - np.arange(length))
  d = distance / max(scale, 1) if how['options']['antialias'] else distance
  near, far = (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
  weights = np.where(d < 1, near, np.where(d < 2, far, 0))
  return weights / weights.sum(axis=1, keepdims=True)


def prepare(encoded: bytes) -> np.ndarray:
  """What the network gets of a file, uint8 `[H, W, C]`."""
  image = Image.open(io.BytesIO(encoded), formats=['JPEG', 'PNG', 'WEBP'])
  options, crop, shape = how['options'], how['crop'], how['image_shape']
  if image.width * image.height > options['rules']['max_pixels'] or max(image.size) > MOST_SIDE:
    raise ValueError('the image has too many pixels')
  is_inner, size, padding = crop['kind'] == 'crop_then_resize', shape[0], crop['padding']
  scaled = size if is_inner else size + padding
  side = max(1, min(image.size) * size // (size + padding)) if is_inner else min(image.size)
  whole = image.size
  if options['jpeg_scaling'] and not how['is_of_arrays']:  # decode a large JPEG at a fraction
    fraction = max(d for d in (1, 2, 4, 8) if d == 1 or side >= 2 * d * scaled)
    image.draft(None, (image.width // fraction, image.height // fraction))
  ratio = np.array(image.size[::-1]) / whole[::-1]
  image = image.convert('L' if shape[-1] == 1 else 'RGB')
  if options['rules']['apply_orientation']:
    turned = ImageOps.exif_transpose(image)
    whole, ratio = (whole, ratio) if turned.size == image.size else (whole[::-1], ratio[::-1])
    image = turned
  if how['is_of_arrays']:
    return np.asarray(ImageOps.fit(image, shape[1::-1], Image.Resampling.BICUBIC)).reshape(shape)
  height_width = np.array(whole[::-1])
  begin = (height_width - side + 1) // 2 if is_inner else np.zeros(2)
  end = begin + side if is_inner else height_width
  (top, left), (bottom, right) = np.rint([begin * ratio, end * ratio]).astype(int)
  part = np.asarray(image, np.float32)[top:bottom, left:right]
  columns = bicubic(right - left, scaled)
  part = np.einsum('yh,hwc,xw->yxc', bicubic(bottom - top, scaled), part, columns, optimize=True)
  border = (scaled - size + 1) // 2
  part = part[border : border + size, border : border + size]
  return np.clip(part + 0.5, 0, 255).astype(np.uint8)


def predict(image: np.ndarray) -> list[tuple[str, float]]:
  """The five most probable classes of an image uint8 `[H, W, C]`."""
  (probabilities,) = np.asarray(program(params, image[None]))
  best = np.argsort(-probabilities, kind='stable')[:5]
  return [(said['class_names'][label], float(probabilities[label])) for label in best]


class Handler(http.server.BaseHTTPRequestHandler):
  """Answers a POST of an image file."""

  timeout = 30  # seconds

  def do_POST(self) -> None:
    """Keeps no more than `MOST_BYTES` in memory."""
    length = self.headers.get('Content-Length', '')
    if not length.isdecimal() or len(length) > 18:
      self.send_error(411 if length == '' else 400)
      return
    left = int(length)
    if left > MOST_BYTES:
      left = min(left, 10 * MOST_BYTES)
      while left and (part := self.rfile.read(min(2**16, left))):  # clients read after sending all
        left -= len(part)
      self.send_error(413)
      return
    encoded = self.rfile.read(left)
    try:
      with at_once:
        found = predict(prepare(encoded))
    except Exception as error:  # Pillow raises all kinds of errors
      self.send_error(400, 'no image that can be read', str(error))
      return
    answer = json.dumps(found).encode()
    self.send_response(200)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Content-Length', str(len(answer)))
    self.end_headers()
    self.wfile.write(answer)


predict(np.zeros(how['image_shape'], np.uint8))  # compiles
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[2])), Handler)
print(f'http://127.0.0.1:{server.server_port}/', flush=True)
server.serve_forever()
