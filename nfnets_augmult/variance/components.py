"""What follows from the two parts of the gradient's variance: intervals, predictions, advice.

A mini-batch of U images, drawn without replacement from N, with n augmented copies of each has a
gradient whose variance about the gradient of the whole training set is

    (1 - U / N) image / U  +  augmentation / (U n)

with the parts of `gradient_variance.BlockVariance`; the first factor is the correction for a finite
population. At a growing batch, U fixed, larger n lowers the second term alone; at a fixed batch,
B = U n fixed, it raises the first, as there are fewer images, and leaves the second as it is. The
numbers here are sums over parameters: the total over all of them, or the paper's mean over layers.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

# By name, functions of variances [R, L] and sizes [L] of L layers that return a number a block [R].
AGGREGATES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  'total': lambda by_layer, sizes: by_layer.sum(axis=-1),
  # Appendix A: the mean over the parameters of a layer, then over layers.
  'layer_mean': lambda by_layer, sizes: (by_layer / sizes).mean(axis=-1),
}
_CONFIDENCE = 0.95
_MANY_COPIES = 10**9
# The largest share of the sum over blocks that one of many may have without a warning.
_LARGEST_BLOCK_SHARE = 0.25
# With a wider interval of the augmentation's share there is no advice.
_WIDEST_SHARE_INTERVAL = 0.5


class Estimate(NamedTuple):
  """A number with the ends of its 95 % confidence interval."""

  value: float
  low: float
  high: float

  def shown(self) -> 'Estimate':
    """Returns the estimate with its value moved into its interval.

    An unbiased estimate of a small variance may be negative; its interval is not.
    """
    return Estimate(min(max(self.value, self.low), self.high), self.low, self.high)


def jackknife(
  statistic: Callable[..., float], *columns: np.ndarray, most: float = math.inf
) -> Estimate:
  """Returns `statistic` of the means of `columns`, with an interval from leaving out each block.

  For a linear statistic this is the Student interval of a mean.

  Args:
    statistic: smooth function of as many numbers as there are columns.
    *columns: float `[R]` each, one entry for each block of images, R at least 2.
    most: the largest value that the statistic can have; the interval, but not the value, is cut to
      `[0, most]`.

  Source: Tukey 1958; degrees of freedom R - 1.
  """
  blocks = len(columns[0])
  value = statistic(*(column.mean() for column in columns))
  without_one = np.array(
    [statistic(*(np.delete(column, r).mean() for column in columns)) for r in range(blocks)]
  )
  error = math.sqrt((blocks - 1) * without_one.var())
  margin = stats.t.ppf((1 + _CONFIDENCE) / 2, blocks - 1) * error
  return Estimate(float(value), max(float(value - margin), 0.0), min(float(value + margin), most))


@dataclasses.dataclass(frozen=True)
class Components:
  """The two parts of the variance of the gradient of one sample.

  Attributes:
    image: float64 `[R]`, unbiased estimates of the part from sampling images, by block.
    augmentation: float64 `[R]`, likewise of the part from sampling augmentations.
    num_images: N, images in the training set.
  """

  image: np.ndarray
  augmentation: np.ndarray
  num_images: int

  def estimate(self, statistic: Callable[[float, float], float]) -> Estimate:
    """Returns the value of a non-negative function of (image, augmentation), with its interval."""
    return jackknife(statistic, self.image, self.augmentation)

  def is_zero(self) -> bool:
    """Whether there is no variance, so that the parts have no shares."""
    return not self.image.mean() + self.augmentation.mean() > 0

  def few_images_dominate(self) -> bool:
    """Whether one block has so much of the variance that the intervals cannot be trusted.

    Then gradients are heavy-tailed: a few images, which the network still gets wrong, make up most
    of the variance, and samples without them underestimate it.
    """
    by_block = self.image + self.augmentation
    return bool(by_block.max() > max(_LARGEST_BLOCK_SHARE, 4 / len(by_block)) * by_block.sum())

  def augmentation_share(self) -> Estimate:
    """Returns the augmentation's share of the variance of one sample's gradient."""
    return jackknife(
      lambda image, augmentation: _quotient(augmentation, image + augmentation),
      self.image,
      self.augmentation,
      most=1.0,
    )

  def minibatch(self, *, unique_images: int, augmult: int) -> Estimate:
    """Returns the variance of the gradient of a mini-batch; see the module's docstring."""
    return self.estimate(lambda *parts: sum(self._terms(*parts, unique_images, augmult)))

  def augmentation_term(self, *, unique_images: int, augmult: int) -> Estimate:
    """Returns the part of `minibatch` that comes from augmentation."""
    return self.estimate(lambda *parts: self._terms(*parts, unique_images, augmult)[1])

  def ratio(self, batch: tuple[int, int], reference: tuple[int, int]) -> Estimate:
    """Returns the variance at `batch` divided by that at `reference`, both (U, n)."""
    return self.estimate(
      lambda *parts: _quotient(
        sum(self._terms(*parts, *batch)), sum(self._terms(*parts, *reference))
      )
    )

  def can_be_drawn(self, unique_images: int) -> bool:
    """Whether a batch can have this many different images; see `Multiplicity`."""
    return unique_images <= self.num_images // 2 or unique_images == self.num_images

  def _terms(
    self, image: float, augmentation: float, unique_images: int, augmult: int
  ) -> tuple[float, float]:
    finite_population = 1 - unique_images / self.num_images
    return finite_population * image / unique_images, augmentation / (unique_images * augmult)


def _quotient(part: float, whole: float) -> float:
  return part / whole if whole > 0 else math.nan


class BatchVariance(NamedTuple):
  """One row of the table: a batch, and what is predicted of its gradient.

  Attributes:
    scheme: `'growing'` (Section 2) or `'fixed'` (Section 3).
    augmult: n.
    unique_images: U.
    variance: of the mini-batch gradient.
    augmentation: the part of `variance` that comes from augmentation.
    ratio: `variance` divided by that of n = 1 in the same scheme; None if the data set has too few
      images for a batch with n = 1.
  """

  scheme: str
  augmult: int
  unique_images: int
  variance: Estimate
  augmentation: Estimate
  ratio: Estimate | None


def batches_to_compare(
  components: Components, augmults: Sequence[int], *, unique_images: int, batch_size: int
) -> list[tuple[str, int, int]]:
  """Returns (scheme, n, U) of each batch in the table.

  Growing batches have `unique_images` images, fixed ones `batch_size` samples if n divides that;
  batches for which the data set has too few images are left out.
  """
  growing = [('growing', n, unique_images) for n in augmults]
  fixed = [('fixed', n, batch_size // n) for n in augmults if batch_size % n == 0]
  return [row for row in growing + fixed if components.can_be_drawn(row[2])]


def table(
  components: Components, augmults: Sequence[int], *, unique_images: int, batch_size: int
) -> list[BatchVariance]:
  """Returns what n does to the variance of the mini-batch gradient at growing and fixed batch.

  Args:
    components: of one aggregate.
    augmults: values of n.
    unique_images: U of the growing batch.
    batch_size: B of the fixed batch.
  """
  ordinary = {'growing': (unique_images, 1), 'fixed': (batch_size, 1)}
  rows = []
  for scheme, n, unique in batches_to_compare(
    components, augmults, unique_images=unique_images, batch_size=batch_size
  ):
    reference = ordinary[scheme]
    has_reference = components.can_be_drawn(reference[0])
    batch = {'unique_images': unique, 'augmult': n}
    rows.append(
      BatchVariance(
        scheme,
        n,
        unique,
        components.minibatch(**batch),
        components.augmentation_term(**batch),
        components.ratio((unique, n), reference) if has_reference else None,
      )
    )
  return rows


def format_table(rows: Sequence[BatchVariance]) -> str:
  """Returns the table in Markdown, its columns aligned for a terminal."""
  lines = [('scheme', 'n', 'U', 'B', 'variance (95 % interval)', 'augm. part', 'x of n = 1')]
  for row in rows:
    variance = row.variance.shown()
    share = min(_quotient(row.augmentation.shown().value, variance.value), 1.0)
    sizes = row.augmult, row.unique_images, row.unique_images * row.augmult
    ratio = '' if row.ratio is None else _with_interval(row.ratio.shown(), '.3g')
    shown = _with_interval(variance, '.4g')
    lines.append((row.scheme, *map(str, sizes), shown, f'{share:.1%}', ratio))
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  lines.insert(1, tuple('-' * width for width in widths))
  return '\n'.join(f'| {" | ".join(map(str.ljust, line, widths))} |' for line in lines)


def _with_interval(estimate: Estimate, digits: str) -> str:
  return f'{estimate.value:{digits}} ({estimate.low:{digits}} to {estimate.high:{digits}})'


def advice(
  components: Components,
  *,
  unique_images: int,
  batch_size: int,
  screened_images: int,
  augmult: int = 4,
) -> list[str]:
  """Returns sentences on what n does to the variance, and to the learning rate that goes with it.

  Args:
    components: of the total over parameters.
    unique_images: U of the growing batch.
    batch_size: B of the fixed batch, which is left out if `augmult` does not divide it.
    screened_images: how many images each block was drawn from.
    augmult: the n of the examples, above 1.
  """
  if components.is_zero():
    return ['The gradients do not vary: there is no variance to split.']
  if components.few_images_dominate():
    more = (
      f'look at more images in each block, --screened_images={components.num_images} for all'
      if screened_images < components.num_images
      else 'raise --images_per_block, --copies and --blocks'
    )
    return [
      'A few images make most of this variance, and one block has most of them. Intervals would be '
      f'too narrow, and the variance is probably larger than it looks, so no more is said: {more}.'
    ]
  share = components.augmentation_share().shown()
  if share.high - share.low > _WIDEST_SHARE_INTERVAL:
    return [
      f"Augmentation makes {share.low:.0%} to {share.high:.0%} of the variance of one sample's "
      'gradient (95 % interval): these are too few images to say more. Raise --blocks.',
    ]
  sentences = [
    "Of the variance of one sample's gradient, augmentation makes "
    f'{share.value:.1%} (95 % interval {share.low:.1%} to {share.high:.1%}), and the choice of '
    'images the rest.'
  ]
  ordinary = (unique_images, 1)
  removed = _removed(components.ratio((unique_images, augmult), ordinary))
  most = _removed(components.ratio((unique_images, _MANY_COPIES), ordinary))
  growing = (
    f'Growing batch of {unique_images:,} images: n = {augmult} removes {removed.value:.1%} '
    f'({removed.low:.1%} to {removed.high:.1%}) of the variance of the mini-batch gradient, and no '
    f'n can remove more than {most.value:.1%}.'
  )
  if components.can_be_drawn(augmult * unique_images):
    by_images = _removed(components.ratio((augmult * unique_images, 1), ordinary))
    growing += (
      f' The same compute spent on {augmult} times as many images would remove '
      f'{by_images.value:.1%}.'
    )
  sentences.append(growing)
  if batch_size % augmult == 0 and components.can_be_drawn(batch_size):
    factor = components.ratio((batch_size // augmult, augmult), (batch_size, 1))
    # Fewer images never have less variance, though unbiased estimates may.
    factor = Estimate(*(max(end, 1.0) for end in factor))
    sentences.append(
      f'Fixed batch of {batch_size:,} samples: n = {augmult} multiplies the variance by '
      f'{factor.value:.2f} ({factor.low:.2f} to {factor.high:.2f}), because there are {augmult} '
      f'times fewer images. A learning rate divided by {factor.value:.2f} keeps learning rate '
      f"times variance; one divided by {augmult}, the paper's equal temperature, keeps the noise "
      f'from images and divides that from augmentation by {augmult}.'
    )
  return sentences


def _removed(ratio: Estimate) -> Estimate:
  """One minus a ratio of variances, clipped to [0, 1]."""
  ends = (1 - ratio.value, 1 - ratio.high, 1 - ratio.low)
  return Estimate(*(min(max(end, 0.0), 1.0) for end in ends))


def to_json(rows: Sequence[BatchVariance]) -> list[dict[str, Any]]:
  """Returns the rows as JSON values."""
  return [
    {key: list(value) if isinstance(value, Estimate) else value for key, value in row.items()}
    for row in (row._asdict() for row in rows)
  ]
