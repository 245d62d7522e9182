"""Metadata of parameter files, such as the names of the classes, as small JSON."""

import json
from collections.abc import Mapping
from typing import Any

# The names of the 21,841 classes of ImageNet-21k take a tenth of this.
MAX_CHARACTERS = 2**22


def to_json(metadata: Mapping[str, Any]) -> str:
  """Returns `metadata` as JSON in ASCII.

  Raises:
    ValueError: a value cannot be JSON, or the text is too long.
  """
  try:
    text = json.dumps(dict(metadata), allow_nan=False)
  except (TypeError, RecursionError) as error:
    raise ValueError(f'metadata cannot be written: {error}') from error
  if len(text) > MAX_CHARACTERS:
    raise ValueError(f'metadata of {len(text):,} characters; at most {MAX_CHARACTERS:,} fit')
  return text


def from_json(text: str) -> dict[str, Any]:
  """Inverts `to_json`.

  Raises:
    ValueError: `text` is not a JSON object.
  """
  try:
    metadata = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError('the metadata is not JSON') from error
  if not isinstance(metadata, dict):
    raise ValueError('the metadata is not a JSON object')
  return metadata


def to_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
  """Returns the values as strings, as a `.safetensors` needs them.

  Printable strings that do not parse as JSON stay as they are; other values become JSON.
  """
  return {
    key: value if _is_plain(value) else json.dumps(value)
    for key, value in from_json(to_json(metadata)).items()
  }


def from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
  """Inverts `to_texts`."""
  return {key: _parsed(text) for key, text in texts.items()}


def _is_plain(value: Any) -> bool:
  return isinstance(value, str) and value.isprintable() and _parsed(value) is value


def _parsed(text: str) -> Any:
  """Parses `text` as JSON, or returns it unchanged."""
  try:
    return json.loads(text)
  except (ValueError, RecursionError):
    return text
