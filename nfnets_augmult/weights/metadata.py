"""What a parameter file says of itself, such as the names of the classes: small JSON."""

import json
from collections.abc import Mapping
from typing import Any

# The 21,841 classes of all of ImageNet take a tenth of it.
MAX_CHARACTERS = 2**22


def to_json(metadata: Mapping[str, Any]) -> str:
  """Returns ASCII.

  Raises:
    ValueError: a value cannot be JSON, or there is too much.
  """
  try:
    text = json.dumps(dict(metadata), allow_nan=False)
  except (TypeError, RecursionError) as error:
    raise ValueError(f'metadata cannot be written: {error}') from error
  if len(text) > MAX_CHARACTERS:
    raise ValueError(f'metadata of {len(text):,} characters; at most {MAX_CHARACTERS:,} fit')
  return text


def from_json(text: str) -> dict[str, Any]:
  """Returns what `to_json` was given.

  Raises:
    ValueError: it is no JSON object.
  """
  try:
    metadata = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError('the metadata are no JSON') from error
  if not isinstance(metadata, dict):
    raise ValueError('the metadata are no JSON object')
  return metadata


def to_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
  """Returns the values as text, which is all that a `.safetensors` keeps.

  Printable text stays as it is, unless it could be taken for JSON; other values become JSON.
  """
  return {
    key: value if _is_plain(value) else json.dumps(value)
    for key, value in from_json(to_json(metadata)).items()
  }


def from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
  """Returns what `to_texts` was given."""
  return {key: _parsed(text) for key, text in texts.items()}


def _is_plain(value: Any) -> bool:
  return isinstance(value, str) and value.isprintable() and _parsed(value) is value


def _parsed(text: str) -> Any:
  """The value that `text` is the JSON of, or `text` itself."""
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    return text
