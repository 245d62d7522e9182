"""Every class equally often: counts, turns of the images, seeds, hosts, devices, resuming."""

import types

import chex
import numpy as np
import pytest

from nfnets_augmult.data import pipeline, sources
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.class_balance import balanced_images, describe_imbalance
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.multiplicity import PLACEMENTS, Multiplicity
from nfnets_augmult.runs import images
from nfnets_augmult.runs.run import Run
from tests import real_images
from tests.toy_runs import toy_config

# 40 images in classes of 25, 12 and 3; one class in between has none.
_LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [25, 12, 3]).astype(np.int32))


def _epochs(count, labels=_LABELS, seed=0):
  return np.stack([balanced_images(labels, seed=seed, epoch=epoch) for epoch in range(count)])


def test_classes_have_equal_shares_of_every_epoch():
  """40 / 3 entries of each, rounded; over three epochs exactly as many."""
  counts = np.stack([np.bincount(_LABELS[epoch], minlength=4) for epoch in _epochs(3)])
  assert set(counts[:, [0, 1, 3]].ravel()) == {13, 14}
  assert counts.sum(axis=0).tolist() == [40, 40, 0, 40]


def test_images_of_a_class_take_turns():
  """All of them once before any comes again, in another order each time."""
  drawn = _epochs(12).ravel()
  for label, size in ((0, 25), (1, 12), (3, 3)):
    of_class = drawn[_LABELS[drawn] == label]
    rounds = of_class[: len(of_class) // size * size].reshape(-1, size)
    assert len(rounds) >= 6
    assert (np.sort(rounds) == np.flatnonzero(label == _LABELS)).all()
    assert len(np.unique(rounds, axis=0)) > 1
  assert not np.array_equal(_epochs(2), _epochs(2, seed=1))


def test_more_classes_than_an_epoch_has_turns():
  """As many classes as images: each once per epoch."""
  drawn = _epochs(2, labels=np.arange(7))
  assert (np.sort(drawn) == np.arange(7)).all()


@pytest.mark.parametrize('placement', PLACEMENTS)
def test_batches_of_any_hosts_from_any_step(placement):
  """Shares over an epoch, different copies of an image that comes twice, and the same batches."""
  photos = real_images.photos(len(_LABELS), 8, 8)
  source = sources.ArraySource(photos, _LABELS, tuple('abcd'), 'photos')
  multiplicity = Multiplicity(40, 8, 2, 0, placement, labels=_LABELS)
  stop_step = multiplicity.steps_for_epochs(1)

  def batches(start_step, host_index=0, host_count=1):
    return list(
      pipeline.train_batches(
        source,
        multiplicity,
        augmentation=Augmentation(crop=CropFlip(pad=2)),
        start_step=start_step,
        stop_step=stop_step,
        host_index=host_index,
        host_count=host_count,
      )
    )

  whole = batches(0)
  epoch = {key: np.concatenate([batch[key] for batch in whole]) for key in whole[0]}
  assert set(np.bincount(epoch['label'])) == {0, 13 * 2, 14 * 2}
  np.testing.assert_array_equal(epoch['label'], _LABELS[epoch['image_index']])
  assert len(np.unique(epoch['image_index'])) < 40
  assert len(np.unique(epoch['seed'], axis=0)) == 40 * 2
  chex.assert_trees_all_equal(batches(3), whole[3:])
  halves = [batches(0, host_index, 2) for host_index in range(2)]
  for batch, *parts in zip(whole, *halves, strict=True):
    joined = {key: np.concatenate([part[key] for part in parts]) for key in batch}
    chex.assert_trees_all_equal(joined, batch)


def test_the_key_balances_a_run():
  """The plan says so; a source that does not know its labels is refused."""
  run = Run(toy_config(dataset__balance='classes'))
  np.testing.assert_array_equal(run.plan.multiplicity.labels, run.data.train.labels)
  assert '1,437 images, of every class equally many' in dict(run.plan.rows())['steps per epoch']
  assert Run(toy_config(), data=run.data).plan.multiplicity.labels is None
  records = types.SimpleNamespace(description='photos/train')
  with pytest.raises(ValueError, match=r"^dataset.balance='classes' needs the label of every"):
    images.balanced_labels(records, 'classes')
  with pytest.raises(ValueError, match=r'labels must be \[4\], one of each image, not \[3\]'):
    Multiplicity(4, 2, 1, 0, labels=np.zeros(3))


def test_what_is_said_of_classes_of_different_size():
  names = ('cat', 'dog', 'cow')
  assert describe_imbalance([10, 15, 12], names) == ''
  assert describe_imbalance([10, 2500, 12], names) == (
    'from 10 training images (cat) to 2,500 (dog), 250.0 times as many'
  )
  assert describe_imbalance([10, 0, 12], names) == 'from 0 training images (dog) to 12 (cow)'
