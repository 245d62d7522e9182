"""The page of a run: `run.html` in its work directory, drawn from its records alone.

It can be drawn at any time, of a run that goes on, was stopped, failed or diverged, and of one that
an earlier version has trained: what is not recorded is left out.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from nfnets_augmult import configs
from nfnets_augmult.assessment.calibration import scaling_helps
from nfnets_augmult.ops import files
from nfnets_augmult.pages import document, plots
from nfnets_augmult.pages.document import shown
from nfnets_augmult.training import records

NAME = 'run.html'
# What keeps the page short, whatever is recorded.
_MOST_CLASSES = 1000
_MOST_LISTED = 50
_MOST_COMMANDS = 10
_MOST_TEXT = 3000


def holds_run(workdir: str) -> bool:
  """Whether there is a run in `workdir` itself, not in folders below it."""
  config = records.read_json(os.path.join(workdir, 'config.json'))
  is_config = isinstance(config, dict) and 'model.name' in config
  return is_config and not any(config.get(key) for key in configs.RETIRED)


def write_run_page(workdir: str) -> str:
  """Writes `run.html` into the work directory of a run, which needs no other file.

  Returns:
    Its path; '' if Bokeh is not installed, which the log says.

  Raises:
    ValueError: there is no run in `workdir`, or its config or its metrics are damaged.
    OSError: the page cannot be written.
  """
  if not document.is_available(NAME):
    return ''
  if not holds_run(workdir):
    raise ValueError(f'workdir={workdir!r}: there is no run in it')
  config = records.read_object(os.path.join(workdir, 'config.json'))
  notes: list[str] = []
  facts = _read(os.path.join(workdir, 'run.json'), notes)
  metrics = records.read_metrics(os.path.join(workdir, 'metrics.jsonl'))
  pictures = {
    name: os.path.join(workdir, folder, f'{name}.png')
    for name, folder in (
      ('contact_sheet', ''),
      ('worst', 'evaluation'),
      ('least_sure', 'evaluation'),
    )
  }
  name = os.path.basename(os.path.abspath(workdir))
  page = document.render(
    'run.html',
    {name: files.read(path) for name, path in pictures.items() if files.exists(path)},
    title=shown(f'{name}: {config["model.name"]} on {config.get("dataset.name", "")}'),
    **_outcome(workdir, facts, metrics, notes),
    **_curves(workdir, metrics),
    test=_assessment(workdir, notes),
    **_description(facts, config),
    notes=notes,
  )
  path = os.path.join(workdir, NAME)
  files.write_whole(path, page)
  return path


def _read(path: str, notes: list[str]) -> dict[str, Any]:
  """Returns an object; {} if it is not there, or is damaged, which is noted."""
  try:
    return records.read_object(path) or {}
  except records.DamagedError as error:
    notes.append(shown(error))
    return {}


def _outcome(
  workdir: str,
  facts: Mapping[str, Any],
  metrics: Sequence[Mapping[str, Any]],
  notes: list[str],
) -> dict[str, Any]:
  """How the run stands, and its last evaluation."""
  status, message = records.read_status(workdir)
  last = metrics[-1] if metrics else {'step': 0, 'epoch': 0.0}
  reached = f'step {last["step"]:,}, epoch {last["epoch"]:.2f}'
  plan = facts.get('plan')
  total = plan.get('total_steps') if isinstance(plan, dict) else None
  text = {
    'finished': f'Finished: {reached}.',
    'diverged': f'Diverged: {message}.',
    'failed': f'Failed, {reached}: {message}',
  }.get(status, f'Not finished: {reached}' + (f', of {total:,} steps.' if total else '.'))
  evaluated = next((r for r in reversed(metrics) if 'test/raw/top_1' in r), None)
  if status == 'finished':
    evaluated = _read(os.path.join(workdir, 'result.json'), notes) or evaluated
  rows = []
  for split, name in (('test', 'test'), ('train_raw', 'training, without augmentation')):
    for key, parameters in (('raw', 'last'), ('ema', 'averaged')):
      values = {
        metric: (evaluated or {}).get(f'{split}/{key}/{metric}')
        for metric in ('top_1', 'top_5', 'cross_entropy', 'count')
      }
      if values['top_1'] is not None:
        rows.append(
          {
            'images': name,
            'parameters': parameters,
            'top-1': _percent(values['top_1']),
            'top-5': _percent(values['top_5']),
            'cross entropy': _number(values['cross_entropy']),
            'number of images': '' if values['count'] is None else f'{values["count"]:,.0f}',
          }
        )
  return {
    'status': shown(text, _MOST_TEXT),
    'is_bad': status in ('diverged', 'failed'),
    'accuracy': rows,
  }


def _curves(workdir: str, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  from nfnets_augmult.runs import page_plots

  figures, is_thinned = page_plots.draw_curves(metrics, records.read_divergence(workdir))
  note = f'{plots.HELP} A gap is a value that is not finite.'
  if is_thinned:
    note += (
      f' Of each of {plots.STRETCHES} equal stretches of a long curve the smallest and the largest '
      'value are drawn; metrics.jsonl has all.'
    )
  return {'curves': [plots.to_json(figure) for figure in figures], 'curves_note': note}


def _assessment(workdir: str, notes: list[str]) -> dict[str, Any] | None:
  """What `evaluation/assessment.json` says of the test images; None without it."""
  path = os.path.join(workdir, 'evaluation', 'assessment.json')
  found = _read(path, notes)
  if not found:
    return None
  try:
    return _assessed(found)
  except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
    notes.append(
      shown(
        f'{path} is of another version or damaged, and left out: {type(error).__name__}: {error}'
      )
    )
    return None


def _assessed(found: Mapping[str, Any]) -> dict[str, Any]:
  from nfnets_augmult.runs import page_plots

  classes = found['classes']
  calibration = found['calibration']
  text = f'The expected calibration error is {_percent(calibration["expected_calibration_error"])}'
  if scaled := calibration['scaled']:
    text += (
      f', and {_percent(scaled["expected_calibration_error"])} after scaling by the temperature '
      f'{calibration["temperature"]:.3g}, where the cross entropy is '
      f'{_number(scaled["cross_entropy"])} instead of {_number(found["cross_entropy"])}'
    )
    text += '' if scaling_helps(found) else ', so do without'
  if (chance := calibration.get('error_by_chance')) is not None:
    text += (
      f'. If all probabilities were true, the error of {found["images"]:,} images would be '
      f'{_percent(chance)} on average, by chance'
    )
  if how := calibration.get('temperature_text'):
    text += f'. {how[0].upper()}{how[1:]}.'
  confusion = page_plots.draw_confusion([c['name'] for c in classes], found['confusion'])
  confusion_note = 'Blue is right, orange wrong; darker is a larger share of the true class.'
  if confusion.num_shown < len(classes):
    confusion_note += (
      f' Of {len(classes):,} classes, the {confusion.num_shown} with most errors are shown; '
      'evaluation/confusion.csv has all.'
    )
  listed = classes
  if len(classes) > _MOST_CLASSES:
    listed = sorted(classes, key=lambda c: 2.0 if c['accuracy'] is None else c['accuracy'])
  sheets = (
    ('worst', 'Worst images', 'The true class has the smallest probabilities here.'),
    ('least_sure', 'Least sure images', 'The predicted class has the smallest probabilities here.'),
  )
  skipped = f', and {n:,} that do not decode' if (n := found.get('skipped_images')) else ''
  return {
    'summary': shown(
      f'{found["images"]:,} images of the split {found["split"]!r}{skipped}, {found["parameters"]} '
      f'parameters of step {found["step"]:,}: top-1 {_percent(found["accuracy"])}, top-5 '
      f'{_percent(found["top_5"])}, cross entropy {_number(found["cross_entropy"])}.'
    ),
    'calibration': shown(text, _MOST_TEXT),
    'reliability': plots.to_json(page_plots.draw_reliability(calibration)),
    'classes': [
      {
        'class': shown(c['name'], 100),
        'images': c['images'],
        'right': c['correct'],
        'accuracy': '' if c['accuracy'] is None else _percent(c['accuracy']),
        'predicted': c['predicted'],
      }
      for c in listed[:_MOST_CLASSES]
    ],
    'classes_note': f'The {_MOST_CLASSES:,} least accurate of {len(classes):,} classes; '
    'evaluation/classes.csv has all.' * (len(classes) > _MOST_CLASSES),
    'confusion': plots.to_json(confusion.plot),
    'confusion_width': confusion.width,
    'confusion_note': confusion_note,
    'top_confusions': [shown(c['text']) for c in found['top_confusions'][:_MOST_LISTED]],
    'sheets': [
      {
        'name': name,
        'title': title,
        'note': note,
        'rows': [
          {
            'image': shown(image['image']),
            'true': shown(image['true'], 100),
            'predicted': shown(image['predicted'], 100),
            'probability of the true class': _percent(image['probability_true']),
            'of the predicted class': _percent(image['probability_predicted']),
          }
          for image in found[name][:_MOST_LISTED]
        ],
      }
      for name, title, note in sheets
      if found[name]
    ],
  }


def _description(facts: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
  """Command, plan, config and versions."""
  plan = facts.get('plan', {})
  rows = facts.get('summary') or (
    # Earlier versions recorded the plan as text.
    plan.items() if isinstance(plan, dict) else [('plan', plan)]
  )
  defaults = configs.flatten(configs.default_config())
  changed = {k: v for k, v in config.items() if k not in defaults or v != defaults[k]}
  return {
    'commands': [shown(c, _MOST_TEXT) for c in facts.get('commands', [])[:_MOST_COMMANDS]],
    'plan': _shown_rows(rows),
    'changed': _shown_rows(changed.items()),
    'config': _shown_rows(config.items()),
    'versions': _shown_rows(facts.get('versions', {}).items()),
  }


def _shown_rows(rows: Any) -> list[tuple[str, str]]:
  return [(shown(name, 100), shown(value)) for name, value in list(rows)[:200]]


def _percent(share: float | None) -> str:
  return 'not finite' if share is None else f'{100 * share:.2f} %'


def _number(value: float | None) -> str:
  return 'not finite' if value is None else f'{value:.4f}'
