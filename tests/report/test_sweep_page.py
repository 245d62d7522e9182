"""The page of a sweep."""

import dataclasses

from nfnets_augmult.pages import document
from nfnets_augmult.report import sweep_page, tables, writing
from tests import browser
from tests.report.records_of_runs import METRIC, make_run

_HOSTILE = '<script>document.title = "?"</script>'


def _runs(seeds, rates=(0.1, 0.2, 0.4), lengths=(8.0, 16.0)):
  """Of three n; the largest learning rate diverges for n = 1, and one run has failed."""
  return [
    make_run(
      0.5 + 0.01 * seed + 0.1 * rate + 0.005 * n,
      status='diverged' if (rate, n) == (rates[-1], 1) else 'finished',
      loss=1 / (n + seed + 1),
      augmult=n,
      seed=seed,
      optimizer__learning_rate=rate,
      total_epochs=length,
    )
    for n in (1, 4, 16)
    for rate in rates
    for length in lengths
    for seed in range(seeds)
  ] + [dataclasses.replace(make_run(status='failed', seed=seeds), message=_HOSTILE)]


def _draw(runs, pictures=None):
  rows = tables.summary_rows(runs, METRIC)
  charts = writing.find_charts(runs, METRIC)
  sections = tables.sections([], runs, rows, 'a', METRIC)
  title = f'A sweep {_HOSTILE}'
  run_rows = tables.run_rows(runs, 'a')
  page = sweep_page.draw(title, sections, charts, pictures or {}, run_rows)
  assert len(page) <= document.MOST_BYTES
  return page


def test_a_page_of_a_sweep_on_a_phone(tmp_path):
  """Figures are drawn, the runs sorted and filtered."""
  page = _draw(_runs(seeds=2))
  (tmp_path / 'sweep.html').write_bytes(page)
  assert _HOSTILE not in page.decode()
  found = browser.open_page(
    tmp_path / 'sweep.html',
    """
    const table = document.getElementById('all_runs');
    const heads = [...table.tHead.rows[0].cells];
    const place = heads.findIndex((head) => head.textContent === 'learning rate');
    const shown = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
    heads[place].querySelector('button').click();
    const rates = shown().map((row) => row.cells[place].textContent);
    const field = document.querySelector('input');
    const all = field.nextElementSibling.textContent;
    field.value = 'DIVERGED 0.4';
    field.dispatchEvent(new Event('input'));
    return { rates, all, some: field.nextElementSibling.textContent, left: shown().length,
             title: document.title, text: document.body.textContent };
    """,
    width=390,
    height=844,
  )
  assert found['problems'] == found['fetched'] == []
  # Accuracy and loss against epochs and updates; for each length, learning rate and temperature.
  assert found['plots'] == found['drawn'] == 4 + 2 * 2
  assert found['overflow'] <= 0
  assert found['title'] == f'A sweep {_HOSTILE}' and _HOSTILE in found['text']
  assert found['rates'] == sorted(found['rates'], key=float) and len(found['rates']) == 37
  assert (found['all'], found['some'], found['left']) == ('37 of 37', '4 of 37', 4)


def test_only_what_was_repeated_has_an_error():
  """A single run says nothing of how exact it is."""
  for seeds, text, other in ((1, ', of one run', ' ± '), (2, ' ± ', ', of one run')):
    page = _draw(_runs(seeds=seeds)).decode()
    assert text in page and other not in page


def test_a_page_of_many_runs_is_short():
  """500 runs are all there; of more the first 1,000; and of too many panels there are pictures."""
  rates = tuple(0.001 * 2**k for k in range(11))
  runs = _runs(seeds=8, rates=rates)
  page = _draw(runs).decode()
  assert len(runs) == 529
  assert page.count('<td>diverged</td>') == 16 and 'runs.csv has all' not in page
  lengths = [float(epochs) for epochs in range(1, 42)]
  many = [make_run(0.5, total_epochs=length, seed=s) for length in lengths for s in range(24)]
  many += [make_run(0.6, total_epochs=length, optimizer__learning_rate=0.3) for length in lengths]
  text = _draw(many, {'accuracy_learning_rate': b''}).decode()
  assert 'The first 1,000 of 1,025 runs; runs.csv has all.' in text
  assert text.count('class="plot"') == 4
