"""What all pages have in common: escaping, size, and the same bytes for the same content."""

import io
import json

import numpy as np
from PIL import Image

from nfnets_augmult.pages import document, plots


def _png(pixels):
  noise = np.random.default_rng(0).integers(0, 256, (pixels, pixels, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(noise).save(buffer, format='png', compress_level=0)
  return buffer.getvalue()


def _plot(label='a curve'):
  plot = plots.new_figure('epochs', 'loss', y_axis_type='log')
  columns = {'x': np.arange(3.0), 'y': np.array([1, np.nan, 0.1])}
  plots.add_hover(plot, plots.add_curve(plot, columns, label=label, color='#000000'), [('y', '@y')])
  plots.place_legend(plot)
  return plots.to_json(plot)


def test_the_same_plot_is_the_same_text():
  """Also later in a process, where Bokeh has counted on; every reference is to an object there."""
  assert _plot() == _plot()
  text = _plot()

  def ids(value, is_object):
    if isinstance(value, list):
      return [i for part in value for i in ids(part, is_object)]
    if not isinstance(value, dict):
      return []
    own = [value['id']] if 'id' in value and ('type' in value) == is_object else []
    return own + [i for part in value.values() for i in ids(part, is_object)]

  item = json.loads(text)
  objects = ids(item, True)
  assert len(set(objects)) == len(objects) > 20
  assert set(ids(item, False)) | {item['root_id']} <= set(objects)


def test_names_in_a_plot_do_not_end_its_script():
  label = '</script><script>alert(1)</script><!--\u2028"'
  text = _plot(label)
  assert '<' not in text
  assert label in json.dumps(json.loads(text), ensure_ascii=False).replace('\\"', '"')


def test_a_long_curve_keeps_its_peaks_and_gaps():
  values = np.random.default_rng(0).normal(size=100_000)
  values[54_321], values[777], values[40_000] = 99, -99, np.nan
  kept = plots.thinned(values)
  assert len(kept) < 3 * plots.STRETCHES
  assert {0, 777, 40_000, 54_321, 99_999} <= set(kept.tolist())
  assert plots.thinned(values[:100]).tolist() == list(range(100))
  assert len(plots.thinned(np.full(5000, np.nan))) < 3 * plots.STRETCHES


def _render(pictures):
  empty = {'sections': [], 'runs': [{'run': 'a'}], 'charts_note': '', 'runs_notes': []}
  charts = [{'name': name, 'title': name, 'plots': []} for name in pictures]
  return document.render('sweep.html', pictures, title='A <b>title</b>', charts=charts, **empty)


def test_pictures_shrink_until_the_page_is_short_enough():
  """Small ones stay as they are; what is no picture is left out."""
  small = _png(30)
  page = _render({'small': small, 'large': _png(1500), 'larger': _png(2000), 'broken': b'no'})
  assert 2_000_000 < len(page) <= document.MOST_BYTES
  text = page.decode()
  assert text.count('src="data:image/png') == 1 and text.count('src="data:image/jpeg') == 2
  assert 'alt="broken"' not in text


def test_a_page_fetches_nothing_and_runs_nothing_else():
  """The policy has the digests of its scripts, and text is escaped."""
  text = _render({}).decode()
  head = text[: text.index('<style>')]
  assert "default-src 'none'" in head and head.count("'sha256-") == 2
  assert '<h1>A &lt;b&gt;title&lt;/b&gt;</h1>' in text
  markup = text[: text.index('<script>')]
  assert not any(word in markup for word in ('src="http', 'href="http', 'url('))


def test_text_is_cut_and_has_no_passwords():
  assert document.shown('x' * 500, 10) == 'xxxxxxxxx…'
  assert document.shown('s3://key:secret@host/a?token=1 b') == 's3://host/a b'
