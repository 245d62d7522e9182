"""Importing TensorFlow leaves Keras out, and only then."""

import importlib
import sys

import pytest

from nfnets_augmult.data import quiet_tensorflow

# What TensorFlow tries to import, and does without; the rest of Keras is imported by it.
OPTIMIZERS = 'keras.src.optimizers'


def test_keras_cannot_be_imported_meanwhile(monkeypatch):
  monkeypatch.delitem(sys.modules, OPTIMIZERS, raising=False)
  with quiet_tensorflow._without_keras(), pytest.raises(ImportError, match='halted'):
    importlib.import_module(OPTIMIZERS)
  assert OPTIMIZERS not in sys.modules


def test_keras_that_is_there_stays(monkeypatch):
  monkeypatch.setitem(sys.modules, OPTIMIZERS, sys)
  with quiet_tensorflow._without_keras():
    assert importlib.import_module(OPTIMIZERS) is sys
  assert sys.modules[OPTIMIZERS] is sys
