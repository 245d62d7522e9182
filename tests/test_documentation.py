"""What the README and the docs say can be done: their commands, their links, their snippets."""

import json
import os
import pathlib
import re
import runpy
import shlex
import subprocess

import pytest

from experiments import quickstart_digits
from nfnets_augmult import configs
from nfnets_augmult.runs.run import Run

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
FLAGS = {
  'train': {'config', 'workdir', 'multi_host', 'coordinator', 'num_hosts', 'host_index', 'check'},
  'evaluate': {
    *('workdir', 'split', 'checkpoint', 'data_dir', 'batch_size', 'output', 'map_classes_by_name'),
    *('report', 'report_dir', 'parameters'),
  },
  'predict': {
    *('workdir', 'params', 'config', 'class_names', 'checkpoint', 'parameters', 'batch_size'),
    *('output', 'top', 'sheet', 'copies', 'seed', 'on_bad_image'),
  },
  'find_learning_rate': {
    *('config', 'workdir', 'seeds', 'ramp_steps', 'check_steps', 'lowest', 'highest', 'safety')
  },
  'sweep': {
    *('config', 'workdir', 'shard', 'together', 'list'),
    *('multi_host', 'coordinator', 'num_hosts', 'host_index'),
  },
  'reproduce': {'config', 'workdir', 'hours', 'processes', 'until'},
  'report': {'workdir', 'output', 'metric'},
  'export': {'workdir', 'params', 'output', 'format'},
  'convert': {'config', 'output', 'classes', 'image_size'},
  'index': {'folder'},
  'models.table': set(),
  'variance': {
    *('config', 'workdir', 'checkpoint', 'data_dir', 'draw_only'),
    *('blocks', 'images_per_block', 'screened_images', 'copies', 'augmults', 'minibatches'),
  },
  'benchmarks.input': {
    *('config', 'random_images', 'augmults', 'seconds', 'input'),
    *('torch', 'torch_python', 'torch_workers'),
  },
  'benchmarks.step': {'config', 'conv_algorithm', 'num_classes', 'steps', 'breakdown', 'limits'},
  'benchmarks.step_vs_timm': {
    *('config', 'torch_python', 'ways', 'num_classes', 'rounds', 'seconds')
  },
  'benchmarks.device_input': {'config', 'steps'},
  'benchmarks.device_augmentation': {'config', 'peak_share'},
  'benchmarks.memory': {'config', 'topology', 'batch_sizes', 'effort', 'estimate', 'records'},
  'benchmarks.pod': {
    *('config', 'chips', 'kinds', 'seconds', 'peak_share', 'link_gigabytes', 'write_gigabytes')
  },
}


def _commands():
  """Every command of a bash block, continuation lines joined."""
  for page in PAGES:
    for block in re.findall(r'```bash\n(.*?)```', page.read_text(encoding='utf-8'), re.DOTALL):
      for line in block.replace('\\\n', ' ').splitlines():
        if line.strip():
          yield pytest.param(shlex.split(line), id=f'{page.name}: {line[:60]}')


@pytest.mark.parametrize('words', _commands())
def test_commands_name_things_that_exist(words):
  """Programs, config files, flags and config keys."""
  if words[0].startswith('./'):
    assert os.access(ROOT / words[0], os.X_OK)
    return
  if words[0] == 'python' and words[1].endswith('.py'):
    assert (ROOT / words[1]).exists()
    return
  if words[:2] != ['python', '-m']:
    assert words[0] in {
      'tensorboard',
      'gcloud',
      'ssh-keygen',
      'ssh-add',
      'extras=cuda',
      'sbatch',
      'xpk',
    }
    return
  assert words[2].split('.')[0] in {'nfnets_augmult', 'benchmarks'}
  program = words[2].removeprefix('nfnets_augmult.')
  path = ROOT / words[2].replace('.', '/')
  assert path.with_suffix('.py').exists() or (path / '__main__.py').exists()
  names = [word[2:].split('=')[0] for word in words[3:] if word.startswith('--')]
  known = set()
  for word in words:
    if word.startswith('--config='):
      path, _, argument = word.removeprefix('--config=').partition(':')
      get_config = runpy.run_path(str(ROOT / path))['get_config']
      config = get_config(*[argument] * bool(argument))
      groups = ('config', 'grid') if program == 'sweep' else ('config',)
      known = {f'{group}.{key}' for group in groups for key in configs.flatten(config)}
  assert set(names) <= FLAGS[program] | known


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
  for target in re.findall(r'\]\(([^)#]+)\)', page.read_text(encoding='utf-8')):
    if '://' not in target:
      assert (page.parent / target).exists(), target


def test_the_table_of_places_is_true():
  """Every file that the README's last table names is there."""
  table = (
    (ROOT / 'README.md').read_text(encoding='utf-8').split('## Where things are')[1].split('## ')[0]
  )
  places = re.findall(r'`([\w./]+)`(?=,| \|)', table.split('Imports point')[0])
  assert len(places) > 5
  for place in places:
    assert (ROOT / 'nfnets_augmult' / place).exists(), place


def test_the_snippets_run(capsys):
  """The Python blocks of the docs, training loops for a few steps."""
  blocks = [
    block
    for page in PAGES
    for block in re.findall(r'```python\n(.*?)```', page.read_text(encoding='utf-8'), re.DOTALL)
  ]
  assert blocks
  for block in blocks:
    block = re.sub(r'^total_steps = \d+$', 'total_steps = 8', block, flags=re.MULTILINE)
    exec(compile(block, 'snippet', 'exec'), {})
  output = capsys.readouterr().out
  assert '(64, 8, 8, 1)' in output
  assert re.search(r'step 0, epoch 0.00: loss 2\.\d+\ntest accuracy 0\.\d+\n', output)


def test_the_quickstart_is_as_long_as_the_readme_says():
  plan = Run(quickstart_digits.get_config()).plan
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  assert f'{plan.total_steps:,} steps = {plan.total_epochs:.2f} epochs\n' in text
  assert f'\nFinished after {plan.total_steps:,} steps, {plan.total_epochs:.2f} epochs.\n' in text


@pytest.mark.long
def test_the_quickstart_learns_the_digits_and_repeats_in_no_time(tmp_path):
  """README, command 1, for a third of its epochs: at least 98 % on the test images."""
  environment = {key: value for key, value in os.environ.items() if not key.startswith('XLA')}
  command = [
    str(ROOT / 'launch' / 'quickstart.sh'),
    f'--workdir={tmp_path}',
    '--config.total_epochs=5',
  ]

  def start():
    return subprocess.run(
      command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout

  assert 'Finished after 450 steps, 5.01 epochs' in start()
  result = json.loads((tmp_path / 'result.json').read_text(encoding='utf-8'))
  assert result['test/raw/top_1'] >= 0.98
  assert result['test/ema/top_1'] >= 0.98
  assessment = tmp_path / 'evaluation' / 'assessment.json'
  found = assessment.read_bytes()
  assert json.loads(found)['accuracy'] == pytest.approx(result['test/ema/top_1'])
  assessment.unlink()  # as if the run had been killed between its result and this
  again = start()
  assert 'This run is finished' in again and 'top confusions' in again
  assert assessment.read_bytes() == found
