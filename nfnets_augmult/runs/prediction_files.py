"""Predictions as a table in a CSV file that grows, and is completed after an interruption."""

import contextlib
import csv
import fcntl
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from nfnets_augmult.ops import files
from nfnets_augmult.runs.predictor import Predictor
from nfnets_augmult.training import records


class Row(NamedTuple):
  """The prediction of an image file.

  Attributes:
    path: as the file system has it.
    top: the most probable classes, as (name, probability); empty if it cannot be read.
    error: why it cannot be read, or ''.
  """

  path: bytes
  top: Sequence[tuple[str, float]]
  error: str


class PredictionFile:
  """A CSV file with a row per image, and beside it a `.json` that says what its rows follow from.

  Rows are appended, and each write ends with a whole row; a row that was cut off by a crash is
  dropped when the file is opened again.

  Attributes:
    rows: those that were there, and those written since, by path.
  """

  def __init__(self, path: str, *, facts: Mapping[str, Any], description: str, top: int):
    """Opens a file, or makes it.

    Args:
      path: of the file; `path.json` is written, too.
      facts: what the rows follow from, as JSON values; those in the file must be equal.
      description: of the parameters, for messages.
      top: classes per row.

    Raises:
      ValueError: it cannot be written, is not of this kind, or its rows follow from other facts.
    """
    self._path, self._top = path, top
    facts = {**facts, 'top': top}
    header = ['path']
    header += [f'{what}_{k}' for k in range(1, top + 1) for what in ('name', 'probability')]
    header.append('error')
    if files.is_url(path):
      raise ValueError(f'output={path!r}: rows cannot be appended to a file in a bucket')
    with _explained(path):
      self._file = open(path, 'ab+')  # noqa: SIM115
    self._lock()
    with _explained(path):
      if os.path.getsize(path):
        self._check_facts(facts, description)
      else:  # before any row, so that none is without it
        records.write_json(f'{path}.json', {'parameters': description, 'facts': facts})
      self.rows = self._read(header)
      if not self._file.tell():
        self._append([header])

  def _check_facts(self, facts: dict[str, Any], description: str) -> None:
    """Checks that the rows in the file follow from `facts`."""
    other = 'give another name, or remove it and its .json to begin anew'
    there = records.read_object(f'{self._path}.json')
    if there is None or not isinstance(there.get('facts'), dict):
      raise ValueError(
        f'output={self._path!r} is there, and nothing says that these are predictions: {other}'
      )
    was = there['facts']
    differ = [
      f'{key} ({was.get(key)!r} there, {facts.get(key)!r} now)'
      if key in ('top', 'copies', 'seed', 'compute_dtype')
      else key
      for key in dict.fromkeys([*was, *facts])
      if was.get(key) != facts.get(key)
    ]
    if differ:
      raise ValueError(
        f'output={self._path!r} has predictions of {there.get("parameters")}, and would go on with '
        f'those of {description}, which differ in {", ".join(differ)}: {other}'
      )

  def _lock(self) -> None:
    """Refuses to write while another process does; where there are no locks, it trusts."""
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(f'output={self._path!r} is being written by another process') from error
    except OSError:
      pass

  def _read(self, header: Sequence[str]) -> dict[bytes, Row]:
    """Reads the rows, and removes what follows the last whole one."""
    self._file.seek(0)
    end = _end_of_records(self._file)
    self._file.seek(0)
    text = self._file.read(end).decode('utf-8', 'surrogateescape')
    try:
      table = csv.reader(io.StringIO(text, newline=''), strict=True)
      found = next(table, header)
      if found != header:
        raise ValueError(f'its first line is not {",".join(header)}')
      rows = {row.path: row for row in map(_row, table)}
    except (csv.Error, ValueError) as error:
      raise ValueError(
        f'output={self._path!r} is no table of predictions, or damaged: {error}'
      ) from error
    self._file.truncate(end)
    self._file.seek(0, os.SEEK_END)
    return rows

  def append(self, rows: Iterable[Row]) -> None:
    """Writes rows; they are in the file when this returns."""
    rows = list(rows)
    self._append(
      [
        row.path.decode('utf-8', 'surrogateescape'),
        *(cell for name, probability in row.top for cell in (name, f'{probability:.6g}')),
        *([''] * 2 * (self._top - len(row.top))),
        row.error,
      ]
      for row in rows
    )
    self.rows |= {row.path: row for row in rows}

  def _append(self, table: Iterable[Sequence[str]]) -> None:
    text = io.StringIO(newline='')
    csv.writer(text).writerows(table)
    with _explained(self._path):
      self._file.write(text.getvalue().encode('utf-8', 'surrogateescape'))
      self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def predict_files(
  predictor: Predictor,
  paths: Sequence[bytes],
  *,
  top: int,
  copies: int = 0,
  seed: int = 0,
  table: PredictionFile | None = None,
) -> Iterator[list[Row]]:
  """Yields the rows of the next few files, in their order, after they were written to the table.

  Args:
    predictor: of the classes.
    paths: of the files.
    top: classes per row.
    copies: see `Predictor`.
    seed: see `Predictor`.
    table: to append to; None to write nothing.
  """
  rest = iter(paths)
  for predictions in predictor.stream(paths, copies=copies, seed=seed):
    rows = [
      Row(next(rest), classes, error)
      for classes, error in zip(predictions.top(top), predictions.errors, strict=True)
    ]
    if table is not None:
      table.append(rows)
    yield rows


def _row(cells: Sequence[str]) -> Row:
  path, *top, error = cells
  named = [
    (name, float(probability))
    for name, probability in zip(top[::2], top[1::2], strict=True)
    if probability
  ]
  return Row(path.encode('utf-8', 'surrogateescape'), named, error)


def _end_of_records(file: BinaryIO) -> int:
  """The number of bytes up to the end of the last whole record."""
  place = end = quotes = 0
  for line in file:
    place += len(line)
    quotes += line.count(b'"')
    # The end of a line within quotes, of which there is then an odd number, is part of a path.
    if line.endswith(b'\n') and quotes % 2 == 0:
      end = place
  return end


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise ValueError(f'output={path!r} cannot be written: {error.strerror}') from error
