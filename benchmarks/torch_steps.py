"""Training steps of a network in PyTorch, taken on request, without JAX or this package.

    python benchmarks/torch_steps.py MODEL BATCH_SIZE IMAGE_SIZE CLASSES

MODEL is a name of timm, as dm_nfnet_f0, or wrn_DEPTH_WIDTH for the paper's Wide-ResNet,
which timm lacks. It reads commands from its standard input, one a line, and answers each with one
line `RESULT JSON`, where an error is `{"error": MESSAGE}`:

    prepare WAY       makes network and optimiser ready, and takes two steps
    steps WAY COUNT   takes COUNT steps and waits for them: their `seconds` together, and
                      `processor_seconds` of all threads

WAY is `eager`, `contiguous` (channels before rows), or `compile`, the network under
`torch.compile`; all but `contiguous` in `channels_last`. The step of an NFNet is that of its
recipe: loss with smoothed labels, gradient, adaptive clipping of all but the classifier, SGD with
Nesterov momentum and weight decay, and a moving average of the parameters. That of a Wide-ResNet
has neither smoothing nor clipping, as in the paper. The images lie on the device as uint8, and are
normalised in the step. On a GPU the network runs under autocast to bfloat16; on CPU in float32, on
as many threads as this process may use processors.
"""

import json
import os
import sys
import time
import traceback
from typing import Any

import timm
import torch
import torch_wide_resnet
from timm.utils import agc, model_ema


class Steps:
  """The network of one way, and its training."""

  def __init__(self, model: str, batch_size: int, image_size: int, classes: int, way: str):
    self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.manual_seed(0)
    self._is_wide_resnet = model.startswith('wrn_')
    if self._is_wide_resnet:
      network = torch_wide_resnet.WideResNet(*map(int, model.split('_')[1:]), classes)
    else:
      network = timm.create_model(model, num_classes=classes, drop_path_rate=0.25)
    layout = torch.contiguous_format if way == 'contiguous' else torch.channels_last
    network = network.to(self.device, memory_format=layout).train()
    self.parameters = sum(parameter.numel() for parameter in network.parameters())
    with torch.no_grad():  # gains of branches start at zero, and zeros are quicker to multiply
      for name, parameter in network.named_parameters():
        if name.endswith('skipinit_gain'):
          parameter.fill_(1)
    self._clipped = []
    if not self._is_wide_resnet:
      head = {id(parameter) for parameter in network.get_classifier().parameters()}
      self._clipped = [p for p in network.parameters() if id(p) not in head]
    self._network = network
    self._call = torch.compile(network) if way == 'compile' else network
    self._optimizer = torch.optim.SGD(
      network.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=2e-5
    )
    ema = getattr(model_ema, 'ModelEmaV3', model_ema.ModelEmaV2)
    self.average = ema(network, decay=0.99999)
    self._loss = torch.nn.CrossEntropyLoss(label_smoothing=0.0 if self._is_wide_resnet else 0.1)
    shape = (batch_size, image_size, image_size, 3)
    self._images = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)
    self._labels = torch.randint(0, classes, (batch_size,), device=self.device)

  def take(self, count: int) -> dict[str, float]:
    """Takes steps, waits for them and returns the seconds by the clock and of all threads."""
    self.wait()
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
      self._step()
    self.wait()
    return {
      'seconds': time.perf_counter() - start,
      'processor_seconds': time.process_time() - processor,
    }

  def wait(self) -> None:
    """Waits for the device."""
    if self.device.type == 'cuda':
      torch.cuda.synchronize()

  def _step(self) -> None:
    images = (self._images.permute(0, 3, 1, 2).float() - 127.5) / 64
    is_gpu = self.device.type == 'cuda'
    with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_gpu):
      logits = self._call(images)
    loss = self._loss(logits.float(), self._labels)
    self._optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if self._clipped:
      agc.adaptive_clip_grad(self._clipped, clip_factor=0.01)
    self._optimizer.step()
    self.average.update(self._network)


def main() -> None:
  """Answers commands until the standard input ends."""
  model, batch_size, image_size, classes = sys.argv[1], *map(int, sys.argv[2:5])
  torch.backends.cudnn.benchmark = True
  if hasattr(os, 'sched_getaffinity'):
    torch.set_num_threads(len(os.sched_getaffinity(0)))
  ready: dict[str, Steps] = {}
  for line in sys.stdin:
    verb, way, *rest = line.split()
    try:
      answer: dict[str, Any] = {}
      start = time.perf_counter()
      if verb == 'prepare':
        ready.clear()  # only one at a time is in memory
        if torch.cuda.is_available():
          torch.cuda.empty_cache()
        ready[way] = Steps(model, batch_size, image_size, classes, way)
        ready[way].take(2)
        answer['prepare_seconds'] = time.perf_counter() - start
        answer['versions'] = {'torch': torch.__version__, 'timm': timm.__version__}
        answer['average'] = type(ready[way].average).__name__
        answer['parameters'] = ready[way].parameters
        answer['threads'] = torch.get_num_threads()
        answer['dtype'] = 'bfloat16' if torch.cuda.is_available() else 'float32'
      else:
        answer |= ready[way].take(int(rest[0]))
      if torch.cuda.is_available():
        answer['peak_bytes'] = torch.cuda.max_memory_allocated()
    except Exception as error:
      traceback.print_exc()
      answer = {'error': f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'}
    print('RESULT', json.dumps(answer), flush=True)


if __name__ == '__main__':
  main()
