"""One HTML file that holds all that it shows, and in which nothing comes from the network.

Names of classes and files, messages and config values are text that anybody may have written: the
template escapes them, plots are JSON that is not executed, and the page's own policy allows its own
scripts alone, by their digests, and no connections.
"""

import base64
import hashlib
import importlib.util
import io
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from absl import logging

from nfnets_augmult.ops import paths

MOST_BYTES = 5_000_000
_FOLDER = pathlib.Path(__file__).parent / 'templates'
_LEAST_PIXELS = 16


def is_available(name: str) -> bool:
  """Returns whether Bokeh is installed; if not, the log says that there is no page `name`."""
  if importlib.util.find_spec('bokeh'):
    return True
  logging.info('%s is not drawn: Bokeh is not installed (pip install bokeh)', name)
  return False


def shown(value: Any, most: int = 300) -> str:
  """Returns a value as text of at most `most` characters, without the passwords of URLs."""
  text = paths.without_credentials(str(value))
  return text if len(text) <= most else f'{text[: most - 1]}…'


def render(template: str, pictures: Mapping[str, bytes], **values: Any) -> bytes:
  """Returns the page, in less than `MOST_BYTES`.

  Args:
    template: file name in `templates/`.
    pictures: PNG files by name. Those that are not readable are left out; where they are too large
      together, they become JPEG, and smaller.
    **values: that the template shows. It depends on them to be short, see `shown`.
  """
  import jinja2
  import markupsafe
  from bokeh.resources import Resources

  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['code'] = _code
  library = Resources(mode='inline', components=['bokeh'], log_level='warn').js_raw
  scripts = ['\n'.join(library), (_FOLDER / 'page.js').read_text(encoding='utf-8')]
  # Browsers compute the digest of what is between the tags, with these line ends.
  scripts = [text.replace('\r\n', '\n').replace('\r', '\n') for text in scripts]

  def page(embedded: Mapping[str, str]) -> bytes:
    text = environment.get_template(template).render(
      scripts=[markupsafe.Markup(text) for text in scripts],
      digests=[base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts],
      pictures=embedded,
      **values,
    )
    return text.encode('utf-8', 'replace')  # names of files need not be Unicode

  budget = MOST_BYTES - len(page(dict.fromkeys(pictures, ''))) - 1000
  embedded = {}
  for number, (name, content) in enumerate(pictures.items()):
    if uri := _data_uri(content, budget // (len(pictures) - number)):
      embedded[name] = uri
      budget -= len(uri)
  return page(embedded)


def _code(text: str) -> Any:
  """Returns text as HTML, with what is between backticks as code."""
  import markupsafe

  return markupsafe.Markup(re.sub('`(.*?)`', r'<code>\1</code>', str(markupsafe.escape(text))))


def _data_uri(content: bytes, most: int) -> str:
  """Returns a PNG file as a data URI of at most `most` characters; '' if that cannot be."""
  from PIL import Image

  try:
    kind, picture = 'png', Image.open(io.BytesIO(content), formats=['PNG']).convert('RGB')
  except (OSError, ValueError, Image.DecompressionBombError):
    return ''
  # Base64 makes four characters of three bytes.
  while 4 * len(content) > 3 * (most - 30):
    if kind == 'jpeg':
      picture.thumbnail((picture.width * 3 // 4, picture.height * 3 // 4))
    if min(picture.size) < _LEAST_PIXELS:
      return ''
    buffer = io.BytesIO()
    picture.save(buffer, format='jpeg', quality=85)
    kind, content = 'jpeg', buffer.getvalue()
  return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
