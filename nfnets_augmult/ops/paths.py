"""Expanding and checking paths."""

import os
import re

from nfnets_augmult.ops import files

_VARIABLE = re.compile(r'\$(?:([A-Za-z_]\w*)|\{([^}]*)\})')


def expand(path: str) -> str:
  """Returns `path` with `~`, `~user`, `$NAME` and `${NAME}` expanded.

  A URL such as `gs://bucket/folder` keeps its `~`. An empty path stays empty.

  Raises:
    ValueError: there is no such variable, or no such user.
  """

  def value_of(match: re.Match[str]) -> str:
    name = match[1] if match[1] is not None else match[2]
    if not os.environ.get(name):
      what = 'is empty' if name in os.environ else 'is not set'
      raise ValueError(f'the environment variable {name or match[0]!r} {what}')
    return os.environ[name]

  expanded = os.path.expanduser(_VARIABLE.sub(value_of, path))
  if expanded.startswith('~') and path.startswith('~'):
    user = path.split('/')[0]
    raise ValueError(
      f'there is no user {user[1:]!r}; for a folder of that name say ./{user}'
      if len(user) > 1
      else 'it is not known which folder ~ is: HOME is not set'
    )
  return expanded


def without_credentials(text: str) -> str:
  """Returns a text with users, passwords and queries left out of the URLs in it.

  Example:
    >>> without_credentials('--data_dir=s3://key:secret@host/data?token=1')
    '--data_dir=s3://host/data'
  """
  return re.sub(r"""(\w+://)(?:[^\s/@'"]*@)?([^\s?'"]*)(?:\?[^\s'"]*)?""", r'\1\2', text)


def check_writable(key: str, folder: str) -> None:
  """Raises ValueError unless `folder` is writable or can be created; writes nothing.

  Of a folder in a bucket it checks nothing: only writing shows that.
  """
  if files.is_url(folder):
    return
  place = os.path.abspath(folder)
  while not os.path.lexists(place):
    place = os.path.dirname(place)
  if not os.path.exists(place):
    raise ValueError(f'{key}={folder!r}: {place} is a link that leads nowhere')
  if not os.path.isdir(place):
    raise ValueError(f'{key}={folder!r}: {place} is a file, not a directory')
  if not os.access(place, os.W_OK | os.X_OK):
    raise ValueError(f'{key}={folder!r}: no files can be made in {place}; choose another place')
