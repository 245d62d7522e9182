"""The arithmetic of a run."""

import pytest

from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.training.plan import Cadence, make_plan, solve_batch


def _multiplicity(unique, augmult, num_images=50_000, placement='within'):
  return Multiplicity(num_images, unique, augmult, seed=0, placement=placement)


def test_growing_batch_of_section_2():
  """64 unique images and n = 16: a batch of 1,024; an epoch takes as many steps as with n = 1."""
  plan = make_plan(_multiplicity(64, 16), learning_rate=0.1, total_epochs=128, device_count=8)
  assert plan.multiplicity.batch_size == 1024
  assert plan.multiplicity.steps_per_epoch == 50_000 / 64
  assert plan.total_steps == 100_000  # 128 * 50,000 / 64
  assert plan.total_epochs == 128
  assert plan.batch_size_per_device == 128
  assert plan.temperature == pytest.approx(1.6)


def test_fixed_batch_of_section_3():
  """Batch 1,024 and n = 16: 64 unique images, and sixteen times the steps per epoch of n = 1."""
  plan = make_plan(_multiplicity(64, 16), learning_rate=0.1, total_steps=400_000)
  one = make_plan(_multiplicity(1024, 1), learning_rate=0.1, total_steps=400_000)
  assert plan.multiplicity.batch_size == one.multiplicity.batch_size
  assert plan.multiplicity.steps_per_epoch == 16 * one.multiplicity.steps_per_epoch
  assert one.total_epochs == pytest.approx(8192)  # 400,000 * 1,024 / 50,000


def test_headline_run_of_the_paper():
  """Introduction: 168,900 steps at batch 4,096 and n = 16 are 34 epochs of ImageNet."""
  plan = make_plan(_multiplicity(256, 16, 1_281_167), learning_rate=0.8, total_steps=168_900)
  assert round(plan.total_epochs) == 34
  assert make_plan(
    _multiplicity(4096, 1, 1_281_167), learning_rate=1.6, total_epochs=360
  ).total_steps == pytest.approx(112_600, rel=1e-4)  # Section 5: 360 epochs are 112,600 updates


@pytest.mark.parametrize('augmult', [1, 4, 16])
def test_both_placements_take_the_same_steps_per_epoch(augmult):
  within = _multiplicity(1024 // augmult, augmult)
  neighbouring = _multiplicity(1024, augmult, placement='neighbouring')
  assert within.batch_size == neighbouring.batch_size
  assert within.steps_per_epoch == neighbouring.steps_per_epoch


def test_rounds_up_to_whole_groups():
  """100 images, 33 in a batch: 3.03 batches an epoch, 4 for one epoch, 7 for two."""
  plan = [make_plan(_multiplicity(33, 2, 100), learning_rate=1, total_epochs=e) for e in (1, 2)]
  assert [p.total_steps for p in plan] == [4, 7]
  neighbouring = _multiplicity(33, 2, 100, 'neighbouring')
  assert make_plan(neighbouring, learning_rate=1, total_epochs=2).total_steps == 14


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ({}, ['total_epochs', 'total_steps', 'exactly one']),
    ({'total_epochs': 1, 'total_steps': 1}, ['exactly one']),
    ({'total_steps': -1}, ['total_steps=-1 must be a whole number']),
    ({'total_steps': 1, 'host_count': 3}, ['3 hosts', 'batch_size=64', '63 or 66']),
    ({'total_steps': 1, 'device_count': 5}, ['5 devices', '60 or 65']),
  ],
)
def test_errors_name_key_and_remedy(arguments, words):
  with pytest.raises(ValueError) as error:
    make_plan(_multiplicity(16, 4), learning_rate=0.1, **arguments)
  assert all(word in str(error.value) for word in words)


def test_rows_have_every_number_with_its_unit():
  plan = make_plan(
    _multiplicity(16, 4, 1000), learning_rate=0.1, total_epochs=2, host_count=2, device_count=8
  )
  text = '\n'.join(f'{name}: {value}' for name, value in plan.rows())
  for part in (
    'n: 4 copies',
    'U: 16',
    'B: 64 ',
    'per host: 32',
    'per device: 8',
    '62.50',
    '125 st',
  ):
    assert part in text
  assert 'temperature: 0.4' in text


def test_the_record_states_the_numbers():
  """Two copies of each of 8 images in a batch, 100 images, four devices on two hosts."""
  plan = make_plan(
    Multiplicity(100, 8, 2, 0), learning_rate=0.1, total_epochs=2, host_count=2, device_count=4
  )
  assert plan.to_json() == {
    'num_train_images': 100,
    'augmult': 2,
    'placement': 'within',
    'unique_images_per_batch': 8,
    'copies_per_batch': 2,
    'batch_size': 16,
    'batch_size_per_host': 8,
    'batch_size_per_device': 4,
    'num_hosts': 2,
    'num_devices': 4,
    'steps_per_epoch': 12.5,
    'total_steps': 25,
    'total_epochs': 2.0,
    'peak_learning_rate': 0.1,
    'peak_temperature': 0.2,
  }


def test_when_things_happen():
  """The next of logging, saving and evaluating; evaluations are regular, and never just before
  the last.
  """
  cadence = Cadence(log=3, save=5, evaluate=6)
  assert [cadence.next_stop(step) for step in (0, 3, 5, 6, 9)] == [3, 5, 6, 9, 10]
  with pytest.raises(ValueError, match='save=0 must be a whole number of at least 1'):
    Cadence(save=0)
  plan = make_plan(
    _multiplicity(10, 1, 100), learning_rate=0.1, total_steps=44, evaluate_every_epochs=1.0
  )
  assert plan.cadence.evaluate == 10
  assert [step for step in range(45) if plan.is_evaluation_due(step)] == [10, 20, 30, 44]


@pytest.mark.parametrize(
  ('given', 'placement', 'solved'),
  [
    # within: B = U n, from any two, or all three.
    ((64, None, 4), 'within', (64, 16, 4)),
    ((None, 16, 4), 'within', (64, 16, 4)),
    ((64, 16, None), 'within', (64, 16, 4)),
    ((64, 16, 4), 'within', (64, 16, 4)),
    ((64, 0, 1), 'within', (64, 64, 1)),
    ((0, 1, 16), 'within', (16, 1, 16)),
    # neighbouring: B = U, whatever n.
    ((64, None, 4), 'neighbouring', (64, 64, 4)),
    ((None, 64, 4), 'neighbouring', (64, 64, 4)),
    ((64, 64, 3), 'neighbouring', (64, 64, 3)),
  ],
)
def test_solve_batch(given, placement, solved):
  """Any two of B, U and n determine the third."""
  keys = ('batch_size', 'unique_images_per_batch', 'augmult')
  assert solve_batch(**dict(zip(keys, given, strict=True)), placement=placement) == solved


@pytest.mark.parametrize(
  ('given', 'placement', 'key_and_remedy'),
  [
    ((64, None, 4), 'beside', "placement='beside' must be one of within, neighbouring"),
    ((-64, None, 4), 'within', 'batch_size=-64 must be a whole number of at least 0'),
    ((64, -1, None), 'within', 'unique_images_per_batch=-1 must be a whole number of at least 0'),
    ((64, None, -2), 'neighbouring', 'augmult=-2 must be a whole number from 0'),
    ((64, None, None), 'within', 'batch_size=64, unique_images_per_batch=0, augmult=0: state two'),
    ((0, 0, 0), 'neighbouring', 'augmult=0: state two of the three'),
    ((64, 64, None), 'neighbouring', 'placement=neighbouring needs augmult'),
    (
      (64, 32, 2),
      'neighbouring',
      'batch_size=64 and unique_images_per_batch=32 must be equal .* leave one of them out',
    ),
    ((4, None, 8), 'within', 'augmult=8 is larger than batch_size=4; lower it or raise batch_size'),
    ((4, 8, None), 'within', 'unique_images_per_batch=8 is larger than batch_size=4; lower it'),
    (
      (64, None, 3),
      'within',
      'augmult=3 does not divide batch_size=64; use batch_size 63 or 66, or set '
      'unique_images_per_batch and leave batch_size out',
    ),
    (
      (64, 5, None),
      'within',
      'unique_images_per_batch=5 does not divide batch_size=64; use batch_size 60 or 65$',
    ),
    (
      (64, 8, 4),
      'within',
      r'batch_size=64 is not unique_images_per_batch \* augmult = 8 \* 4 = 32; state two',
    ),
  ],
)
def test_solve_batch_refuses(given, placement, key_and_remedy):
  """Too little, too much or impossible: the message names the key, the value and a way out."""
  keys = ('batch_size', 'unique_images_per_batch', 'augmult')
  with pytest.raises(ValueError, match=key_and_remedy):
    solve_batch(**dict(zip(keys, given, strict=True)), placement=placement)
