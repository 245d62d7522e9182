"""Executes the notebooks, and writes them beside their sources.

    python -m notebooks.building [--output=DIR] [NAME ...]

`launch/notebooks.sh` does this in the environment of the checkout. A source is `N_NAME.py`, in the
percent format of Jupytext. Each is executed in a fresh kernel; an error in it ends the program. The
same source gives the same file, byte for byte, when it is executed again on the same machine.

The address of the repository is the `repository-code` of CITATION.cff. While there is none, the
lists of notebooks in README.md and docs/README.md have no badges; the first cells cannot install
the package.
"""

import argparse
import pathlib
import re
import sys
import time
from collections.abc import Sequence

import jupytext
import nbclient
import nbformat

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / 'notebooks'
# The pages with a list of the notebooks.
PAGES = ('README.md', 'docs/README.md')
_LIST = re.compile(r'(?<=<!-- notebooks -->\n).*?(?=<!-- /notebooks -->)', re.DOTALL)
_ADDRESS = re.compile(r"(?<=^REPOSITORY = ').*(?='$)", re.MULTILINE)
_COLAB = 'https://colab.research.google.com'


def sources() -> list[pathlib.Path]:
  """Returns the sources of the notebooks, in order."""
  return sorted(FOLDER.glob('[0-9]_*.py'))


def read(source: pathlib.Path) -> nbformat.NotebookNode:
  """Returns the notebook of a source, without outputs, and with fixed metadata and cell ids."""
  notebook = jupytext.read(source, fmt='py:percent')
  notebook.metadata = nbformat.from_dict(
    {
      'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
      'language_info': {'name': 'python'},
    }
  )
  for number, cell in enumerate(notebook.cells):
    cell.id, cell.metadata = f'cell-{number:02}', nbformat.from_dict({})
  return notebook


def execute(notebook: nbformat.NotebookNode, folder: pathlib.Path) -> nbformat.NotebookNode:
  """Returns the notebook with its outputs, executed in a fresh kernel in `folder`.

  Raises:
    CellExecutionError: a cell raised an exception; the message has its traceback.
  """
  executed = nbclient.NotebookClient(
    notebook,
    timeout=None,
    kernel_name='python3',
    record_timing=False,
    coalesce_streams=True,
    resources={'metadata': {'path': str(folder)}},
  ).execute()
  executed.metadata['language_info'] = nbformat.from_dict({'name': 'python'})
  return executed


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
  """Returns the notebook without warnings, which are printed here, and with one copy of pictures.

  Warnings say where files are on this machine, or how busy it was.
  """
  for cell in notebook.cells:
    for output in cell.get('outputs', []):
      if output.get('name') == 'stderr':
        print(f'{cell.id}: {output.text}', file=sys.stderr, flush=True)
      if 'image/png' in output.get('data', {}):
        output.data.pop('image/jpeg', None)
    if 'outputs' in cell:
      cell.outputs = [output for output in cell.outputs if output.get('name') != 'stderr']
  return notebook


def repository() -> str:
  """Returns the address of the repository; '' while it has none."""
  text = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
  found = re.search(r'^repository-code: *[\'"]?(https://[^\'"\s]+)', text, re.MULTILINE)
  return found[1].rstrip('/') if found else ''


def with_address(text: str, address: str) -> str:
  """Returns the text of a source with the address of the repository in its first cell."""
  return _ADDRESS.sub(address, text)


def with_list(text: str, page: str, address: str) -> str:
  """Returns the text of a page with the list of the notebooks between its two marks.

  Args:
    text: of the page.
    page: its path from the root of the repository.
    address: of the repository; '' for no badges.
  """
  up = '../' * page.count('/')
  lines = []
  for source in sources():
    title, sentence = _introduction(source)
    path = f'notebooks/{source.stem}.ipynb'
    line = f'* [{title}]({up}{path}): {sentence}'
    if address:
      place = address.removeprefix('https://github.com/')
      target = f'{_COLAB}/github/{place}/blob/main/{path}'
      line += f' [![Open in Colab]({_COLAB}/assets/colab-badge.svg)]({target})'
    lines.append(f'{line}\n')
  return _LIST.sub(lambda match: ''.join(lines), text)


def _introduction(source: pathlib.Path) -> tuple[str, str]:
  """Returns the title of a notebook, and what it says the reader will see."""
  title, sentence, *_ = read(source).cells[0].source.split('\n\n')
  return title.removeprefix('# '), ' '.join(sentence.split()).removeprefix('You will see ')


def main(arguments: Sequence[str] | None = None) -> None:
  """Executes and writes the notebooks."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--output', type=pathlib.Path, default=FOLDER, help='folder of the .ipynb')
  parser.add_argument('names', nargs='*', help='parts of names; default: all notebooks')
  args = parser.parse_args(arguments)
  for name in args.names:
    if not any(name in source.stem for source in sources()):
      parser.error(f'no notebook has {name!r} in its name')
  args.output.mkdir(parents=True, exist_ok=True)
  address = repository()
  for source in sources():
    if args.names and not any(name in source.stem for name in args.names):
      continue
    text = source.read_text(encoding='utf-8')
    if text != (changed := with_address(text, address)):
      source.write_text(changed, encoding='utf-8')
    start = time.monotonic()
    executed = cleaned(execute(read(source), FOLDER))
    path = args.output / f'{source.stem}.ipynb'
    path.write_text(nbformat.writes(executed) + '\n', encoding='utf-8')
    print(
      f'{path}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 1e3:.0f} kB', flush=True
    )
  for page in PAGES:
    path = ROOT / page
    text = path.read_text(encoding='utf-8')
    if text != (changed := with_list(text, page, address)):
      path.write_text(changed, encoding='utf-8')


if __name__ == '__main__':
  main()
