"""The page of a run, drawn from records that were written by hand."""

import json
import re

import pytest

from nfnets_augmult import configs
from nfnets_augmult.pages import document
from nfnets_augmult.runs import run_page
from nfnets_augmult.training import records
from tests import browser
from tests.runs import assessments
from tests.toy_runs import toy_config

# Of classes, of files and in the config.
_HOSTILE = (
  '</script><script>document.title = "broken"</script>"\'&\u2028<img src=x onerror=alert(1)>'
)


def _write_run(workdir, *, num_records=12, names=(), **changes):
  """A finished run, with an assessment if there are names of classes."""
  flat = {**configs.flatten(toy_config()), **changes}
  records.write_json(f'{workdir}/config.json', flat)
  facts = {
    'plan': {'total_steps': num_records},
    'summary': [['classes', str(len(names))]],
    'versions': {'jax': '0.1'},
    'commands': ['python -m nfnets_augmult.train --config=a.py', 'python -m b'],
  }
  records.write_json(f'{workdir}/run.json', facts)
  lines = [
    {'step': step, 'epoch': step / 4, 'train/loss': 2 / step, 'learning_rate': 0.1}
    for step in range(1, num_records + 1)
  ]
  lines[num_records // 2]['train/loss'] = None
  evaluated = {
    f'test/{key}/{name}': value
    for key in ('raw', 'ema')
    for name, value in (('top_1', 0.75), ('top_5', 1.0), ('cross_entropy', 0.5), ('count', 64.0))
  }
  lines.append({'step': num_records, 'epoch': num_records / 4, **evaluated})
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (workdir / 'metrics.jsonl').write_text(text, encoding='utf-8')
  records.write_json(f'{workdir}/result.json', lines[-1])
  if names:
    assessments.write_assessment(str(workdir), assessments.make_assessment(names))


def _draw(workdir):
  path = run_page.write_run_page(str(workdir))
  page = (workdir / 'run.html').read_bytes()
  assert path == str(workdir / 'run.html') and len(page) <= document.MOST_BYTES
  return page.decode()


def test_a_page_on_a_phone(tmp_path):
  """Everything is drawn without an error and without the network, and tables can be sorted."""
  names = ['cat', _HOSTILE, 'dog', 'a bird with a long name ' * 5]
  _write_run(tmp_path, names=names, **{'dataset.data_dir': _HOSTILE})
  text = _draw(tmp_path)
  assert _HOSTILE not in text
  found = browser.open_page(
    tmp_path / 'run.html',
    """
    const column = () => texts('.sortable tbody td:nth-child(4)');
    const button = document.querySelectorAll('.sortable th button')[3];
    const before = column();
    button.click();
    const up = column();
    button.click();
    const tips = () => everywhere('.bk-tooltip-content').map((tip) => tip.textContent);
    const tap = async (target, clientX, clientY) => {
      const place = { clientX, clientY, view: window, bubbles: true, composed: true };
      target.dispatchEvent(new PointerEvent('click', { ...place, pointerType: 'touch' }));
      await pause(200);
      return tips().join();
    };
    const tapped = [];
    for (const view of [...Bokeh.index].filter((view) => view.model.renderers)) {
      const drawn = view.model.renderers.filter((one) => one.name).at(-1);
      const { x, y } = drawn.data_source.data;
      const { x_scale, y_scale } = view.frame;
      view.el.scrollIntoView();
      const { left, top } = view.el.getBoundingClientRect();
      const [area] = everywhere('.bk-events', view.el.shadowRoot);
      const place = [left + x_scale.compute(x[0]), top + y_scale.compute(y[0])];
      tapped.push(await tap(area, place[0] + 7, place[1] + 7));
    }
    const aside = await tap(document.body, 1, 1);
    return { tapped, aside, before, up, down: column(), title: document.title, names: texts('td'),
             pictures: [...document.images].map((image) => image.naturalWidth) };
    """,
    width=390,
    height=844,
  )
  assert found['problems'] == found['fetched'] == []
  assert found['plots'] == found['drawn'] == 5
  assert found['overflow'] <= 0
  texts = ('value: 0.5', 'value: 75', 'value: 0.1', 'confidence: ', 'share of the class: ')
  for tapped, text in zip(found['tapped'], texts, strict=True):
    assert [text for text in texts if text in tapped] == [text], 'not that of the last tap alone'
  assert found['aside'] == ''
  assert found['title'] == f'{tmp_path.name}: toy on digits'
  assert document.shown(_HOSTILE, 100) in found['names'] and _HOSTILE in found['names']
  shares = [float(text.rstrip('% ')) for text in found['up'] if text]
  assert len(shares) == 3 and shares == sorted(shares) and found['up'][-1] == ''
  assert found['down'] == [*found['up'][-2::-1], '']
  assert sorted(found['before']) == sorted(found['up'])
  assert found['pictures'] == [300, 300]


def test_a_page_says_what_is_recorded(tmp_path):
  _write_run(tmp_path, names=('cat', 'dog', 'bird'), augmult=7)
  text = _draw(tmp_path)
  for part in (
    'Finished: step 12, epoch 3.00.',
    '<td>75.00 %</td>',
    '<pre>python -m nfnets_augmult.train --config=a.py</pre>',
    'Started again with:',
    'are taken for',
    'were true, the error of 80 images would be 3.45 % on average, by chance. Fitted',
    'split &#39;test&#39;, and 2 that do not decode, averaged parameters of step 270',
    '<th>augmult</th><td>7</td>',
  ):
    assert part in text, part
  assert _draw(tmp_path) == text, 'the same records are another page'


@pytest.mark.parametrize('status', ['diverged', 'failed', 'unfinished'])
def test_a_page_of_a_run_without_a_result(status, tmp_path):
  """One that diverged shows its last losses, whether or not there are metrics."""
  _write_run(tmp_path)
  (tmp_path / 'result.json').unlink()
  facts = {'step': 14, 'learning_rate': 9.0, 'last_losses': [3.0, 40.0, None]}
  if status != 'unfinished':
    records.write_status(str(tmp_path), status, 'the <loss> is nan', facts)
  text = _draw(tmp_path)
  if status == 'unfinished':
    assert 'Not finished: step 12, epoch 3.00, of 12 steps.' in text
  else:
    assert f'{status.capitalize()}' in text and 'the &lt;loss&gt; is nan' in text
  marks = ('diverged at step 14', 'last 3 losses, 1 not finite')
  assert all((mark in text) == (status == 'diverged') for mark in marks)
  if status == 'diverged':
    (tmp_path / 'metrics.jsonl').unlink()
    text = _draw(tmp_path)
    assert all(mark in text for mark in marks)


def test_what_is_not_recorded_or_damaged_is_left_out(tmp_path):
  """Of a run that has just begun, or that an earlier version has trained."""
  flat = configs.flatten(toy_config())
  records.write_json(f'{tmp_path}/config.json', {k: v for k, v in flat.items() if k != 'input'})
  records.write_json(f'{tmp_path}/run.json', {'plan': 'n = 4 and so on'})
  assert 'n = 4 and so on' in _draw(tmp_path)
  (tmp_path / 'evaluation').mkdir()
  records.write_json(f'{tmp_path}/evaluation/assessment.json', {'classes': []})
  (tmp_path / 'run.json').write_text('{', encoding='utf-8')
  (tmp_path / 'contact_sheet.png').write_bytes(b'\x89PNG, a part of it')
  text = _draw(tmp_path)
  assert 'run.json is damaged' in text
  assert 'assessment.json is of another version or damaged, and left out: KeyError' in text
  with pytest.raises(ValueError, match='there is no run in it'):
    run_page.write_run_page(str(tmp_path / 'evaluation'))


def test_a_long_run_of_many_classes_is_a_short_page(tmp_path):
  """100,000 records, 3,000 classes with long names of any script, and sheets of 9 MB each."""
  names = [f'class {i} 漢' * 40 for i in range(3000)]
  _write_run(tmp_path, num_records=100_000)
  assessment = assessments.make_assessment(names, images_per_class=8)
  assessments.write_assessment(str(tmp_path), assessment, pixels=1700)
  text = _draw(tmp_path)
  for part in (
    'metrics.jsonl has all',
    'The 1,000 least accurate of 3,000',
    'Of 3,000 classes, the 60',
  ):
    assert part in text, part
  # The least accurate ones are first.
  shares = re.findall(r'<td>([\d.]+) %</td><td>\d+</td></tr>', text)
  assert len(shares) == 1000 and float(shares[0]) == min(map(float, shares))


def test_without_bokeh_there_is_no_page(tmp_path, monkeypatch):
  _write_run(tmp_path)
  monkeypatch.setattr(document.importlib.util, 'find_spec', lambda name: None)
  assert run_page.write_run_page(str(tmp_path)) == ''
  assert not (tmp_path / 'run.html').exists()
