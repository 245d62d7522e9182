"""An input of PyTorch for a folder of photographs, measured on request, without this package.

    python benchmarks/torch_input.py FOLDER OPTIONS

A `DataLoader` with worker processes, timm's `ImageDataset`, which decodes with Pillow, its training
transforms, and its collation to bytes. Images are shuffled, and each comes n times in a row, as
from timm's sampler for repeated augmentation. OPTIONS are a JSON object, see
`input_benchmark.torch_input`. Each line `measure SECONDS` of the standard input is answered with a
line `RESULT JSON`, of `images_per_second` and `processor_seconds`, those of all processes for one
image.
"""

import json
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator

import timm.data
import torch
from timm.data.loader import fast_collate

_TICKS = os.sysconf('SC_CLK_TCK')


class _Repeated(torch.utils.data.Sampler):
  """All images in random order without end, each `copies` times in a row."""

  def __init__(self, count: int, copies: int):
    self._count = count
    self._copies = copies

  def __iter__(self) -> Iterator[int]:
    order = list(range(self._count))
    while True:
      random.shuffle(order)
      for index in order:
        yield from [index] * self._copies


def _processor_seconds() -> float:
  """Of this process and its workers."""
  total = time.process_time()
  for child in multiprocessing.active_children():
    with open(f'/proc/{child.pid}/stat', encoding='utf-8') as file:
      fields = file.read().rpartition(')')[2].split()
    total += (int(fields[11]) + int(fields[12])) / _TICKS
  return total


def _wait_until_idle() -> None:
  """Until the workers have filled their queues."""
  before = -1.0
  while (now := _processor_seconds()) > before + 0.02:
    before = now
    time.sleep(0.2)


def main() -> None:
  """Answers commands until the standard input ends."""
  folder, options = sys.argv[1], json.loads(sys.argv[2])
  layers, mixup, cutmix = options['layers'], options['mixup'], options['cutmix']
  transform = timm.data.create_transform(
    options['image_size'],
    is_training=True,
    use_prefetcher=True,  # bytes, which the device normalises
    scale=options['area'],
    ratio=options['aspect'],
    hflip=0.5 if options['flip'] else 0.0,
    color_jitter=None,
    auto_augment=f'rand-m{options["magnitude"]:g}-n{layers}' if layers else None,
    interpolation='bicubic',
  )
  collate = fast_collate
  if mixed := mixup + cutmix:
    collate = timm.data.FastCollateMixup(
      mixup_alpha=options['mixup_alpha'] if mixup else 0.0,
      cutmix_alpha=1.0 if cutmix else 0.0,
      prob=mixed,
      switch_prob=cutmix / mixed,
      mode='elem',
      num_classes=options['classes'],
    )
  images = timm.data.ImageDataset(folder, transform=transform)
  loader = torch.utils.data.DataLoader(
    images,
    batch_size=options['batch_size'],
    sampler=_Repeated(len(images), options['augmult']),
    num_workers=options['workers'],
    collate_fn=collate,
    drop_last=True,
  )
  batches = iter(loader)
  for line in sys.stdin:
    seconds = float(line.split()[1])
    count = 0
    # What the workers have prepared in the meantime was not made in the time that is measured.
    for _ in range(2 + loader.prefetch_factor * loader.num_workers):
      next(batches)
    start, processor = time.perf_counter(), _processor_seconds()
    while (elapsed := time.perf_counter() - start) < seconds:
      count += len(next(batches)[0])
    answer = {
      'images_per_second': count / elapsed,
      'processor_seconds': (_processor_seconds() - processor) / count,
      'versions': {'torch': torch.__version__, 'timm': timm.__version__},
    }
    _wait_until_idle()  # else they would slow down what is measured next
    print('RESULT', json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
