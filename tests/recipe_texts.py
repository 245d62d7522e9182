"""Every experiment as text, to be held against `tests/golden_configs`.

    python -m tests.recipe_texts

writes the files anew after a recipe was changed on purpose; the difference is then to be reviewed.
"""

import hashlib
import json
import pathlib
import runpy
from collections.abc import Iterator
from typing import Any

from nfnets_augmult import configs

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / 'tests' / 'golden_configs'

# What is asked of a file after the colon of --config, besides nothing.
_ARGUMENTS = {
  'nfnet': ('f1,n=1', 'f3', 'f5,n=4,sam', 'f6_plus'),
  'fig9_variance': ('small', 'tiny'),
  'finetune': ('f1,n=1,images=1000',),
  'equal_updates': ('small', 'tiny'),
}


def texts() -> Iterator[tuple[str, str]]:
  """Yields name and text of each config and sweep below `experiments`, and of the defaults."""
  defaults = configs.flatten(configs.default_config())
  yield 'default_config', _lines(defaults)
  files = sorted((ROOT / 'experiments').rglob('*.py'))
  for file in (file for file in files if file.name != '__init__.py'):
    members = runpy.run_path(str(file))
    is_sweep = 'get_sweep' in members
    variants = tuple(name for name in ('small', 'tiny') if is_sweep and name in members)
    for argument in ('', *_ARGUMENTS.get(file.stem, variants)):
      arguments = [argument] * bool(argument)
      base = configs.flatten(members['get_config'](*arguments))
      changed = {key: value for key, value in base.items() if defaults.get(key, ...) != value}
      text = f'# What differs from default_config.txt.\n{_lines(changed)}'
      if is_sweep:
        text += _sweep_lines(members['get_sweep'](*arguments))
      yield '-'.join([file.stem, *arguments]), text


def _sweep_lines(sweep: Any) -> str:
  """The points by the values of each key; a digest stands for their combination and order."""
  points = json.dumps([list(point.items()) for point in sweep.points])
  axes: dict[str, list[Any]] = {}
  for point in sweep.points:
    for key, value in point.items():
      if value not in axes.setdefault(key, []):
        axes[key].append(value)
  rest = {
    'title': sweep.title,
    'expected': sweep.expected,
    'metric': sweep.metric,
    'accelerator_hours': sweep.accelerator_hours,
    'is_small': sweep.is_small,
    'points': len(sweep.points),
    'points_digest': hashlib.sha256(points.encode()).hexdigest()[:16],
  }
  published = [
    f'# {number.top_1} +- {number.standard_error} for {dict(number.keys)}: {number.source}\n'
    for number in sweep.published
  ]
  return f'\n# The points.\n{_lines(axes)}\n{_lines(rest)}{"".join(published)}'


def _lines(values: dict[str, Any]) -> str:
  return ''.join(f'{key} = {value!r}\n' for key, value in sorted(values.items()))


if __name__ == '__main__':
  FOLDER.mkdir(exist_ok=True)
  for file in FOLDER.glob('*.txt'):
    file.unlink()
  for name, text in texts():
    (FOLDER / f'{name}.txt').write_text(text, encoding='utf-8')
