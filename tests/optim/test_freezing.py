"""Groups of parameters, and updates that leave some of them as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.models import make_model, table
from nfnets_augmult.optim import freezing
from nfnets_augmult.optim.sgd import sgd


@pytest.mark.parametrize(
  ('model', 'blocks'),
  [('nfnet_f1', (2, 4, 12, 6)), ('nf_resnet50', (3, 4, 6, 3)), ('wrn_16_1', (2, 2, 2))],
)
def test_groups_of_every_kind_of_network(model, blocks):
  """Stages have the blocks of the published tables; every module is in one group."""
  params = table.abstract_params(make_model(model, num_classes=10), 64)
  groups = freezing.param_groups(params)
  assert set(groups) == set(params)
  for stage, count in enumerate(blocks, start=1):
    modules = [module for module, group in groups.items() if group == f'stage_{stage}']
    top = {module.split('/')[2 if '~' in module else 1] for module in modules}
    assert len(top) == count
  others = set(groups.values()) - {f'stage_{stage + 1}' for stage in range(len(blocks))}
  assert others == {'stem', 'classifier'} | ({'final_conv'} if 'nfnet' in model else set())
  stems = [module for module, group in groups.items() if group == 'stem']
  assert len(stems) == (4 if 'nfnet' in model else 1)


_PARAMS = {
  'net/stem': {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)},
  'net/stage_0_block_0/conv_0': {'w': jnp.ones((2, 2))},
  'net/stage_1_block_0/conv_0': {'w': jnp.ones((2, 2))},
  'net/classifier': {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)},
}


def _frozen_modules(*names):
  tree = freezing.frozen(_PARAMS, names)
  assert jax.tree.structure(tree) == jax.tree.structure(_PARAMS)
  return {module.split('/')[1] for module, values in tree.items() if all(values.values())}


def test_stages_are_all_of_them():
  assert _frozen_modules('stage_1') == {'stage_0_block_0'}
  assert _frozen_modules('stem', 'stages') == {'stem', 'stage_0_block_0', 'stage_1_block_0'}
  assert _frozen_modules() == set()


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (['stem', 'stge'], "freeze='stge' is no group .* classifier, stage_1, stage_2, stem, and"),
    (['final_conv'], "freeze='final_conv' is no group"),
    (['stem', 'stages', 'classifier'], 'leaves nothing to train'),
  ],
)
def test_wrong_groups(names, message):
  with pytest.raises(ValueError, match=message):
    freezing.frozen(_PARAMS, names)


def _train(steps, **options):
  optimizer = sgd(momentum=0.9, weight_decay=0.1, **options)
  params, state = _PARAMS, optimizer.init(_PARAMS)

  @jax.jit
  def update(params, state):
    direction, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    return jax.tree.map(lambda p, d: p - 0.1 * d, params, direction), state

  history = []
  for _ in range(steps):
    params, state = update(params, state)
    history.append(params)
  return history


def test_frozen_parameters_stay_and_others_move_as_without():
  """Decay included."""
  plain, held = _train(3)[-1], _train(3, freeze=('stem', 'stages'))[-1]
  for module, values in held.items():
    for name, value in values.items():
      expected = plain if module == 'net/classifier' else _PARAMS
      np.testing.assert_array_equal(value, expected[module][name])


def test_after_the_given_updates_all_are_trained_from_no_momentum():
  """From update three on the stem moves as it does at the start."""
  plain, held = _train(2), _train(4, freeze=('stem',), freeze_steps=2)
  stems = [params['net/stem']['w'] for params in held]
  np.testing.assert_array_equal(stems[:2], [_PARAMS['net/stem']['w']] * 2)
  np.testing.assert_array_equal(stems[2:], [params['net/stem']['w'] for params in plain])


def test_groups_are_released_one_by_one():
  """Of three, the one nearest to the classifier after 2 of 6 updates; the update is one program."""
  options = {'freeze': ('stem', 'stages'), 'freeze_steps': 6, 'unfreeze': 'gradually'}
  history, plain = [_PARAMS, *_train(8, **options)], [_PARAMS, *_train(8)]
  released = {'classifier': 0, 'stage_1_block_0': 2, 'stage_0_block_0': 4, 'stem': 6}
  for step in range(8):
    for module, values in history[step + 1].items():
      trained = max(0, step + 1 - released[module.split('/')[1]])
      for name, value in values.items():
        assert np.all(value == history[step][module][name]) == (not trained)
        # As from the start: without momentum and decay of the steps before.
        np.testing.assert_array_equal(value, plain[trained][module][name])


def test_steps_of_release():
  """Of every kind of group, from the output to the input; the last has the given number."""
  params = table.abstract_params(make_model('nfnet_f1', num_classes=10), 64)
  names = ('final_conv', 'stem', 'stages')
  steps = freezing.release_steps(params, names, steps=100, unfreeze='gradually')
  assert list(steps.items()) == [
    *(('final_conv', 17), ('stage_4', 33), ('stage_3', 50), ('stage_2', 67), ('stage_1', 83)),
    ('stem', 100),
  ]
  at_once = freezing.release_steps(params, ('stem', 'stage_2'), steps=9, unfreeze='at_once')
  assert at_once == {'stage_2': 9, 'stem': 9}
  with pytest.raises(ValueError, match=r"^unfreeze='gradually' needs freeze_steps=STEPS"):
    freezing.hold(('stem',), unfreeze='gradually')
