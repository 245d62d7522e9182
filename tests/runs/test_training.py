"""The command line programs end to end: train, stop, go on, finish, evaluate, and refuse."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import cifar100_wrn16_4
from nfnets_augmult import command_line
from nfnets_augmult.optim import freezing
from nfnets_augmult.runs import curves, network, run_page, summary, training, workdirs
from nfnets_augmult.runs.evaluating import evaluate
from nfnets_augmult.runs.exporting import export
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.training.run_log import DivergedError
from nfnets_augmult.training.watch import StopRequested
from nfnets_augmult.weights import param_files
from tests.shared_data import tfds_dir
from tests.toy_runs import TEST_IMAGES, TRAIN_IMAGES, stop_after, toy_config, train_run

ROOT = pathlib.Path(__file__).parents[2]


def _config(**changes):
  """With dropout, so that the keys of the steps matter."""
  return toy_config(**{'model__dropout_rate': 0.1, **changes})


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """A run of 12 steps that nothing interrupted: (work directory, state, result)."""
  workdir = str(tmp_path_factory.mktemp('finished'))
  return workdir, *train_run(_config(), workdir, command='python a')


def test_the_work_directory_is_complete(finished):
  """Config, versions, metrics, pictures, checkpoints, TensorBoard events and the result."""
  workdir, state, result = finished
  assert int(state.step) == result['step'] == 12
  config = records.read_json(os.path.join(workdir, 'config.json'))
  assert (config['augmult'], config['model.name']) == (4, 'toy')
  described = records.read_json(os.path.join(workdir, 'run.json'))
  assert described['versions']['jax'] == jax.__version__
  assert described['plan']['num_train_images'] == TRAIN_IMAGES
  assert described['plan']['total_steps'] == 12
  assert ['classes', '10'] in described['summary'] and described['commands'] == ['python a']
  page = pathlib.Path(run_page.write_run_page(workdir)).read_text(encoding='utf-8')
  assert 'Finished: step 12' in page and '<pre>python a</pre>' in page
  for name in ('contact_sheet.png', 'curves.png'):
    assert pathlib.Path(workdir, name).read_bytes().startswith(b'\x89PNG')
  assert os.listdir(os.path.join(workdir, 'tensorboard'))
  metrics = records.read_metrics(os.path.join(workdir, 'metrics.jsonl'))
  assert [r['step'] for r in metrics if 'train/loss' in r] == [3, 6, 9, 12]
  evaluated = [r for r in metrics if 'test/ema/top_1' in r]
  assert [r['step'] for r in evaluated] == [6, 12]
  assert evaluated[-1]['test/raw/count'] == TEST_IMAGES
  assert evaluated[-1]['train_raw/raw/count'] == 32
  assert evaluated[-1]['epoch'] == pytest.approx(12 * 16 / (4 * 1437))
  assert metrics[0]['temperature'] == pytest.approx(4 * metrics[0]['learning_rate'])


@pytest.mark.parametrize('calls', [3, 7])
def test_a_stopped_run_goes_on_bit_for_bit(finished, tmp_path, calls):
  """Stopped twice, between steps or inside an evaluation, it ends like one that never was."""
  _, state, result = finished
  workdir = str(tmp_path)
  stops = 0
  for _ in range(3):
    try:
      resumed, resumed_result = train_run(
        _config(), workdir, stop_requested=stop_after(calls if stops < 2 else 999)
      )
      break
    except StopRequested:
      stops += 1
  assert stops == 2
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(resumed), strict=True):
    np.testing.assert_array_equal(a, b)
  assert resumed_result == result
  steps = [r['step'] for r in records.read_metrics(os.path.join(workdir, 'metrics.jsonl'))]
  assert steps == sorted(steps)
  assert len(steps) == len([r for r in steps if r in (3, 6, 9, 12)])


def test_evaluations_by_the_clock_change_nothing_else(finished, tmp_path):
  """A clock that is always due: every step is evaluated and recorded, as in docs/evaluation.md."""
  _, state, result = finished
  config = _config(evaluation__every_minutes=1e-7, evaluation__train_images=0)
  evaluated, evaluated_result = train_run(config, str(tmp_path))
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(evaluated), strict=True):
    np.testing.assert_array_equal(a, b)
  for key, value in evaluated_result.items():
    assert value == result[key], key
  metrics = records.read_metrics(str(tmp_path / 'metrics.jsonl'))
  steps = [r['step'] for r in metrics if 'test/ema/top_1' in r]
  assert steps == list(range(13)), steps


def test_a_lost_checkpoint_costs_time_but_changes_nothing(finished, tmp_path):
  """As after kill -9: an old checkpoint, and metrics that are ahead of it."""
  _, state, result = finished
  workdir = str(tmp_path)
  with pytest.raises(StopRequested):
    train_run(_config(), workdir, stop_requested=stop_after(6))
  latest = max(int(p.name) for p in (tmp_path / 'checkpoints').iterdir() if p.is_dir())
  with open(tmp_path / 'metrics.jsonl', 'a') as metrics:
    metrics.write(json.dumps({'step': latest + 1, 'epoch': 0.0, 'train/loss': 9e9}) + '\n{"ste')
  resumed, resumed_result = train_run(_config(), workdir)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(resumed), strict=True):
    np.testing.assert_array_equal(a, b)
  assert resumed_result == result
  assert 9e9 not in [
    r.get('train/loss') for r in records.read_metrics(str(tmp_path / 'metrics.jsonl'))
  ]


def test_finished_run_says_so_and_another_config_is_refused(finished):
  workdir, _, result = finished
  assert workdirs.finished_result(_config(), workdir) == result
  assert workdirs.finished_result(_config(log_every_steps=7), workdir) == result  # a free key
  with pytest.raises(ValueError, match=r'differs in augmult \(4 there, 2 now\), seed'):
    workdirs.finished_result(_config(augmult=2, seed=3), workdir)


def test_a_run_from_before_a_key_existed_goes_on(finished, tmp_path):
  """A key that its config lacks has its default; another value is still another run."""
  whole = records.read_json(os.path.join(finished[0], 'config.json'))
  older = {key: value for key, value in whole.items() if not key.startswith(('sam.', 'runs.'))}
  records.write_json(str(tmp_path / 'config.json'), older)
  workdirs.check_workdir(_config(), str(tmp_path))
  with pytest.raises(ValueError, match=r'it differs in sam\.rho \(0\.0 there, 0\.05 now\)'):
    workdirs.check_workdir(_config(sam__rho=0.05), str(tmp_path))


def test_evaluate_agrees_with_the_run(finished):
  """On the test split at any batch size; the best checkpoint; and the training split."""
  workdir, _, result = finished
  for batch_size in (0, 56):
    means = evaluate(workdir, batch_size=batch_size)
    assert means['step'] == 12
    for name in ('raw', 'ema'):
      # Another batch size is another program, whose rounding may tip an image or two.
      assert means[name]['top_1'] == pytest.approx(
        result[f'test/{name}/top_1'], abs=2 / TEST_IMAGES
      )
      assert means[name]['cross_entropy'] == pytest.approx(
        result[f'test/{name}/cross_entropy'], rel=1e-5
      )
  assert evaluate(workdir, split='train')['raw']['count'] == TRAIN_IMAGES
  with Checkpoints(workdir, read_only=True) as checkpoints:
    best, metric = checkpoints.best_step, checkpoints.best_metric()
  assert evaluate(workdir, checkpoint='best')['ema']['top_1'] == pytest.approx(metric)
  assert evaluate(workdir, checkpoint='best')['step'] == best


def test_a_run_without_a_record_of_its_data_is_evaluated_with_a_warning(finished, tmp_path, caplog):
  """As earlier versions left them: with the data that the config names."""
  workdir, _, _ = finished
  old = tmp_path / 'old'
  shutil.copytree(workdir, old)
  facts = records.read_json(str(old / 'run.json'))
  del facts['data']
  records.write_json(str(old / 'run.json'), facts)
  assert evaluate(str(old)) == evaluate(workdir)
  assert 'the names of the classes of this run are not known' in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path):
  run = Run(_config(optimizer__learning_rate=1e9), str(tmp_path)).prepare()
  with pytest.raises(DivergedError, match='of step'):
    training.train([run])
  with Checkpoints(str(tmp_path), read_only=True) as checkpoints:
    assert checkpoints.latest_step is None
  assert not (tmp_path / 'result.json').exists()
  status, message = records.read_status(str(tmp_path))
  assert status == 'diverged'
  assert 'of step' in message


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'batch_size': 18, 'unique_images_per_batch': 0}, 'augmult=4 does not divide batch_size=18'),
    ({'unique_images_per_batch': 3}, '8 devices do not divide batch_size=12; use 8 or 16'),
    ({'augmult': 0}, 'augmult=0'),
    ({'augmult': -2}, 'augmult=-2 must be a whole number from 0'),
    ({'augmult': 32, 'batch_size': 16, 'unique_images_per_batch': 0}, 'larger than batch_size=16'),
    ({'batch_size': 16, 'augmult': 2}, 'state two of the three'),
    ({'unique_images_per_batch': 1000}, 'more than half of the 1437'),
    ({'placement': 'behind'}, "placement='behind' must be one of within, neighbouring"),
    ({'dataset__name': 'nonesuch'}, "dataset.data_dir='' is missing"),
    ({'dataset__name': 'nonesuch', 'dataset__data_dir': '.'}, "unknown data set .*'nonesuch'"),
    ({'dataset__name': 'cifar10', 'dataset__data_dir': '.'}, 'download_and_prepare'),
    ({'dataset__test_split': 'validation'}, "no split 'validation'; it has train, test"),
    ({'dataset__image_size': 32}, 'dataset.image_size=32'),
    ({'model__name': 'resnet'}, "model.name='resnet' is no model; there is"),
    ({'model__name': 'wrn_11_1'}, 'depth=11'),
    ({'model__name': 'nfnet_f0'}, "'nfnet_f0' does not take images of 8 x 8 x 1"),
    ({'model__dropout_rate': 1.0}, 'dropout_rate=1.0'),
    ({'total_steps': 0}, 'total_steps=0'),
    ({'optimizer__learning_rate': 0.0}, 'optimizer.learning_rate=0.0 must be a finite number'),
    ({'optimizer__learning_rate': float('nan')}, 'optimizer.learning_rate=nan'),
    ({'optimizer__schedule': 'step'}, "schedule='step' must be one of cosine, halving"),
    ({'optimizer__warmup_steps': 100}, 'optimizer.warmup_steps'),
    ({'optimizer__momentum': 1.0}, 'optimizer.momentum=1.0'),
    ({'augmentation__pad_mode': 'mirrored'}, "pad_mode='mirrored' must be one of mirror"),
    ({'augmentation__pad': 8, 'augmentation__pad_mode': 'mirror'}, 'augmentation.pad=8'),
    ({'augmentation__crop': 'centre'}, "augmentation.crop='centre' must be one of"),
    ({'augmentation__inception__area': (0.5, 2.0)}, 'augmentation.inception.area'),
    ({'augmentation__mixup__share': 1.5}, 'augmentation.mixup.share=1.5'),
    ({'augmentation__randaugment__behaviour': 'timm'}, "randaugment.behaviour='timm'"),
    ({'augmentation__randaugment__layers': 2}, 'RandAugment is for colour images, not for 1'),
    (
      {'augmentation__randaugment__layers': 2, 'input': 'device'},
      'RandAugment is for colour images, not for 1',
    ),
    (
      {'augmentation__cutmix__share': 0.5, 'augmult': 4, 'unique_images_per_batch': 1},
      'unique_images_per_batch=1: Mixup and CutMix need',
    ),
    ({'evaluation__crop': 'middle'}, "evaluation.crop='middle'"),
    ({'compute_dtype': 'half'}, "compute_dtype='half'"),
    ({'optimizer__clipping': -0.1}, 'optimizer.clipping=-0.1'),
    ({'sam__rho': -1.0}, 'sam.rho=-1.0'),
    ({'sam__ascent_fraction': 0.0}, 'sam.ascent_fraction=0.0'),
    ({'dataset__on_bad_image': 'ignore'}, "on_bad_image='ignore' must be one of fail, skip"),
    ({'seed': -1}, 'seed=-1'),
    ({'log_every_steps': 0}, 'log_every_steps=0'),
    ({'checkpoint__keep': 0}, 'checkpoint.keep=0'),
    ({'evaluation__batch_size': 0}, 'evaluation.batch_size=0'),
  ],
)
def test_bad_configs_are_refused_before_anything_is_written(changes, words, tmp_path):
  """The message names the key and, as a rule, the remedy."""
  workdir = tmp_path / 'run'
  with pytest.raises(ValueError, match=words):
    Run(_config(**changes), str(workdir)).prepare()
  assert not workdir.exists()


def _run_command(*arguments):
  return subprocess.run(
    [sys.executable, '-m', *arguments], cwd=ROOT, capture_output=True, text=True, check=False
  )


def test_a_work_directory_has_one_process(tmp_path):
  """While another process trains there, the program ends with an error and writes nothing."""
  workdir = tmp_path / 'run'
  with records.lock_workdir(str(workdir)) as is_ours:
    assert is_ours
    done = _run_command(
      'nfnets_augmult.train',
      '--config=experiments/quickstart_digits.py',
      '--config.input=device',
      f'--workdir={workdir}',
    )
    assert done.returncode == 1
    assert f'another process is training in {workdir}' in done.stderr
    assert [path.name for path in workdir.iterdir()] == ['.lock']
  with records.lock_workdir(str(workdir)) as is_ours:
    assert is_ours


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (
      ['--config.optimizer.learning_rate=-1'],
      'optimizer.learning_rate=-1.0 must be a finite number above 0',
    ),
    (['stray'], "unexpected argument 'stray'"),
  ],
)
def test_the_command_line_refuses_with_one_line_and_a_status(arguments, words, tmp_path):
  """After the flags are parsed; what parsing refuses is in test_command_line.py."""
  done = _run_command(
    'nfnets_augmult.train',
    '--config=experiments/quickstart_digits.py',
    f'--workdir={tmp_path / "run"}',
    *arguments,
  )
  assert done.returncode == 1
  assert done.stderr.startswith('error: ')
  assert words in done.stderr
  assert len(done.stderr.splitlines()) == 1
  assert not (tmp_path / 'run').exists()


def test_a_config_file_that_is_not_there(tmp_path):
  done = _run_command('nfnets_augmult.train', '--config=experiments/nonesuch.py')
  assert done.returncode == 1
  assert 'experiments/nonesuch.py cannot be read' in done.stderr


def test_default_workdir_is_named_for_the_config():
  assert (
    command_line.default_workdir('experiments/quickstart_digits.py') == 'runs/quickstart_digits'
  )
  assert command_line.default_workdir('experiments/nfnet.py:f5,n=16') == 'runs/nfnet-f5-n=16'


@pytest.mark.extended
@pytest.mark.parametrize(
  'changes',
  [
    {'augmult': 4},
    {'placement': 'neighbouring', 'augmult': 4},
    {'batch_size': 0, 'unique_images_per_batch': 8, 'augmult': 2},
  ],
)
def test_cifar100_learns_with_every_scheme(changes, tmp_path):
  """Real CIFAR-100, a narrow network, fixed and growing batch, both placements."""
  config = cifar100_wrn16_4.get_config()
  config.dataset.data_dir = tfds_dir()
  config.dataset.train_split = 'test[:32]'  # few enough to be learnt by heart soon
  config.dataset.test_split = 'test[-32:]'
  config.model.name = 'wrn_10_1'
  config.batch_size = 16
  config.total_epochs = 0.0
  config.total_steps = 40
  config.log_every_steps = 10
  config.evaluation.train_images = 0
  config.evaluation.every_epochs = 1000.0
  config.augmentation.pad = 0
  config.optimizer.learning_rate = 0.05
  config.update(changes)
  train_run(config, str(tmp_path))
  losses = [
    r['train/loss']
    for r in records.read_metrics(str(tmp_path / 'metrics.jsonl'))
    if 'train/loss' in r
  ]
  assert losses[-1] < 0.9 * losses[0]


def test_init_from_a_run_and_from_its_export(finished, tmp_path):
  """A run's directory and the .npz of it start another run from the same averaged parameters."""
  workdir, state, _ = finished
  file = str(tmp_path / 'params.npz')
  assert export(file, workdir=workdir) == sum(leaf.size for leaf in jax.tree.leaves(state.params))
  for source in (workdir, file):
    run = Run(_config(init_from=source), str(tmp_path / 'run')).prepare()
    start, report = network.first_state(run.network, run.parameters_key, run.initial_params)
    assert report.kept_fresh == ()
    for tree in (start.params, start.ema_params):
      for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(state.ema_params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_first_state_is_the_same_jitted(tmp_path):
  """Drawn shape by shape it equals that of one program, and has the shapes of `eval_shape`."""
  run = Run(_config(), str(tmp_path)).prepare()
  made = run.network
  first, _ = network.first_state(made, run.parameters_key)
  jitted = jax.jit(made.initial_state)(run.parameters_key)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, jitted)
  shapes = made.abstract_state
  jax.tree.map(
    lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), first, shapes
  )


def test_init_from_refuses_what_does_not_fit(finished, tmp_path):
  workdir, _, _ = finished
  with pytest.raises(ValueError, match=r"(?s)init_from='.*missing in the file: wide_res_net"):
    Run(_config(init_from=workdir, model__name='wrn_16_1'), str(tmp_path)).prepare()
  with pytest.raises(ValueError, match='does not exist'):
    Run(_config(init_from='nowhere.npz'), str(tmp_path)).prepare()


def test_frozen_groups_stay_as_they_were(finished, tmp_path):
  """With SAM and decay the classifier alone moves, and the average of the others stays, too."""
  workdir, _, _ = finished
  config = _config(init_from=workdir, freeze='stem,stages', sam__rho=0.05)
  run = Run(config, str(tmp_path / 'run')).prepare()
  start, _ = network.first_state(run.network, run.parameters_key, run.initial_params)
  state = training.train([run]).state
  groups = freezing.param_groups(start.params)
  for module, group in groups.items():
    for name, before in start.params[module].items():
      is_same = np.array_equal(state.params[module][name], before)
      assert is_same == (group != 'classifier'), f'{module}/{name}'
      if is_same:
        np.testing.assert_allclose(state.ema_params[module][name], before, rtol=1e-6)


def test_what_starts_anew_cannot_be_frozen(finished, tmp_path):
  """The classifier of a file for other classes is not loaded, and would stay random."""
  _, state, _ = finished
  file = str(tmp_path / 'other.npz')
  param_files.write_npz(file, state.params, {'class_names': [f'class {k}' for k in range(10)]})
  with pytest.raises(ValueError, match=r"^init_from=.*it has no .*classifier.*freeze='classifier'"):
    Run(_config(init_from=file, freeze='classifier'), str(tmp_path / 'run')).prepare()
  Run(_config(init_from=file, freeze='stem'), str(tmp_path / 'run')).prepare()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'freeze': 'stm'},
      r"^freeze='stm' is no group of this network; there is: classifier, stem",
    ),
    ({'freeze': 'stem,stages,classifier'}, 'leaves nothing to train'),
    ({'freeze': 'stem', 'init_from': ''}, 'would keep random values'),
    ({'freeze_steps': 3}, r"^freeze_steps=3 needs freeze='GROUP,GROUP'"),
    ({'freeze': 'stem', 'freeze_steps': -1}, '^freeze_steps=-1 must be a whole number'),
    ({'freeze': 'stem', 'unfreeze': 'gradually'}, "^unfreeze='gradually' needs freeze_steps=STEPS"),
  ],
)
def test_wrong_freezing(changes, message, finished, tmp_path):
  workdir, _, _ = finished
  with pytest.raises(ValueError, match=message):
    Run(_config(**{'init_from': workdir, **changes}), str(tmp_path / 'run')).prepare()
  assert not (tmp_path / 'run').exists()


def test_clipping_sam_and_averaging_together(tmp_path):
  """A run with AGC and SAM on a fraction of the images stays finite and records its evaluation."""
  config = _config(
    optimizer__clipping=0.01, optimizer__nesterov=True, sam__rho=0.05, sam__ascent_fraction=0.5
  )
  _, result = train_run(config, str(tmp_path))
  assert result['step'] == 12
  assert np.isfinite(result['test/ema/cross_entropy'])


def test_a_last_update_that_is_too_long_is_a_divergence(tmp_path):
  """Its loss is finite and its parameters are not: nothing is saved, and there is no result."""
  config = _config(
    total_steps=1,
    optimizer__learning_rate=1e38,
    optimizer__weight_decay=1e3,
    optimizer__warmup_steps=0,
  )
  with pytest.raises(DivergedError, match=r'parameters after step 1 .* last 1 losses: \d'):
    train_run(config, str(tmp_path))
  assert not (tmp_path / 'result.json').exists()
  assert records.read_status(str(tmp_path))[0] == 'diverged'
  with Checkpoints(str(tmp_path), read_only=True) as checkpoints:
    assert checkpoints.latest_step is None


def test_a_divergence_is_recorded_and_drawn(tmp_path):
  """Step, learning rate and the last losses are in the message, in the record and in the figure."""
  config = _config(optimizer__learning_rate=1e9, optimizer__warmup_steps=0, log_every_steps=100)
  with pytest.raises(DivergedError) as raised:
    train_run(config, str(tmp_path), page_after_error=True)
  assert 'Diverged: the ' in (tmp_path / 'run.html').read_text(encoding='utf-8')
  facts = records.read_divergence(str(tmp_path))
  assert facts['learning_rate'] == pytest.approx(1e9, rel=0.1)
  assert len(facts['last_losses']) == facts['step'] < 12
  assert f'of step {facts["step"]}' in str(raised.value) and 'at learning rate' in str(raised.value)
  figure = curves.draw_curves(
    records.read_metrics(str(tmp_path / 'metrics.jsonl')), title='', divergence=facts
  )
  labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
  assert f'diverged at step {facts["step"]}' in labels
  assert any(label.startswith(f'last {facts["step"]} losses') for label in labels)


def test_all_commands_that_started_a_run_are_recorded_once(tmp_path):
  run = Run(_config(), str(tmp_path))
  for command in ('python b', 'python a', '', 'python b'):
    summary.write_description(run, command)
  facts = records.read_json(str(tmp_path / 'run.json'))
  assert facts['commands'] == ['python b', 'python a']


def test_a_checkpoint_needs_no_init_from(finished, tmp_path):
  """The initial parameter file may be gone when the run is resumed or evaluated."""
  workdir, _, _ = finished
  file = tmp_path / 'params.npz'
  export(str(file), workdir=workdir)
  config, own = _config(init_from=str(file)), str(tmp_path / 'run')
  with pytest.raises(StopRequested):
    train_run(config, own, stop_requested=stop_after(6))
  file.unlink()
  _, result = train_run(config, own)
  assert result['step'] == 12
  assert evaluate(own)['step'] == 12
  with pytest.raises(ValueError, match='does not exist'):
    Run(config, str(tmp_path / 'other')).prepare()
