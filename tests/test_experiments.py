"""The config files: complete, consistent, and the paper's numbers."""

import pathlib
import runpy

import pytest

from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.runs import settings
from nfnets_augmult.training.plan import make_plan, solve_batch

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(p for p in (ROOT / 'experiments').glob('*.py') if p.name != '__init__.py')
IMAGENET_IMAGES = 1_281_167


def _load(name, *arguments):
  return runpy.run_path(str(ROOT / 'experiments' / f'{name}.py'))['get_config'](*arguments)


def _plan(config):
  sizes = config.batch_size, config.unique_images_per_batch, config.augmult
  keys = ('batch_size', 'unique_images_per_batch', 'augmult')
  _, unique, augmult = solve_batch(**dict(zip(keys, sizes, strict=True)))
  return make_plan(
    Multiplicity(IMAGENET_IMAGES, unique, augmult, config.seed),
    learning_rate=config.optimizer.learning_rate,
    total_epochs=config.total_epochs,
    total_steps=config.total_steps,
  )


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_every_config_is_valid_and_locked(file):
  config = _load(file.stem)
  if config.freeze:  # to be fine-tuned from parameters that only the user has
    with pytest.raises(ValueError, match='would keep random values: set init_from'):
      settings.read(config)
    config.init_from = 'parameters.npz'
  settings.read(config)
  with pytest.raises(AttributeError):
    config.augmlt = 3
  with pytest.raises(AttributeError):
    config.model.widht = 3


def test_the_headline_run():
  """NFNet-F5, SAM, n = 16: 168,900 updates at batch 4,096 are 34 epochs, at 416 pixels."""
  config = _load('nfnet_f5_sam')
  plan = _plan(config)
  assert (config.model.name, config.sam.ascent_fraction) == ('nfnet_f5', 0.2)
  assert (plan.multiplicity.batch_size, plan.multiplicity.augmult) == (4096, 16)
  assert round(plan.total_epochs) == 34
  assert (config.dataset.image_size, config.dataset.test_image_size) == (416, 544)
  assert plan.learning_rate == pytest.approx(0.8)
  # 5 epochs of n = 1.
  assert config.optimizer.warmup_steps == round(5 * IMAGENET_IMAGES / 4096)


def test_arguments_of_the_general_nfnet():
  config = _load('nfnet', 'f1,n=1,sam')
  assert (config.model.name, config.augmult, config.sam.rho) == ('nfnet_f1', 1, 0.05)
  assert config.optimizer.learning_rate == pytest.approx(1.6)
  assert _load('nfnet', 'f2_plus').augmult == 16
  assert _load('nfnet').sam.rho == 0
  for wrong in ('f9', 'f1,m=2', 'f1,n=two'):
    with pytest.raises(ValueError, match=r'f9|neither n=N nor sam'):
      _load('nfnet', wrong)


@pytest.mark.parametrize(
  ('images', 'steps', 'magnitude'), [(100, 500, 5.0), (5000, 2343, 10.0), (50_000, 23_437, 15.0)]
)
def test_fine_tuning_by_the_number_of_images(images, steps, magnitude):
  """Length and strength follow it; the classifier trains alone for a tenth, at any n."""
  for augmult in (1, 4):
    config = _load('finetune', f'f1,n={augmult},images={images}')
    assert (config.total_steps, config.augmult) == (steps, augmult)
    assert config.augmentation.randaugment.magnitude == magnitude
    assert config.freeze_steps == config.optimizer.warmup_steps == steps // 10
    assert config.dataset.image_size == 224


@pytest.mark.parametrize('arguments', ['f0,m=4', 'f0,n=0', 'f0,images=many', 'f0,n'])
def test_wrong_arguments_of_fine_tuning(arguments):
  with pytest.raises(ValueError, match='is neither n=N nor images=N'):
    _load('finetune', arguments)
