"""Crop, bicubic scaling, rounding and flip of uint8 images, as TensorFlow graph operations."""

import tensorflow as tf


def resize_boxes(
  pixels: tf.Tensor,
  boxes: tf.Tensor,
  flips: tf.Tensor | None,
  *,
  size: int,
  antialias: bool = False,
) -> tf.Tensor:
  """Returns boxes of one image, scaled to squares.

  Args:
    pixels: uint8 `[H, W, C]`.
    boxes: int32 `[M, 4]`: top, left, height and width.
    flips: bool `[M]`, which of them are mirrored left to right; None for none.
    size: S, pixels.
    antialias: whether to widen the bicubic kernel when scaling down. The published networks were
      trained without.

  Returns:
    uint8 `[M, S, S, C]`.
  """
  shape = [boxes.shape[0], size, size, pixels.shape[-1]]
  if boxes.shape[0] == 1:
    part = _round(_scale(_cut(pixels, boxes[0]), size, antialias) + 0.5)
    return tf.ensure_shape(_flip(part, None if flips is None else flips[0])[tf.newaxis], shape)
  # Conversion, and the half with which the final cast rounds, once for all boxes.
  source = tf.cast(pixels, tf.float32) + 0.5
  if flips is None:
    flips = tf.zeros(tf.shape(boxes)[:1], tf.bool)

  def make(box_and_flip: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    box, flip = box_and_flip
    return _flip(_round(_scale(_cut(source, box), size, antialias)), flip)

  return tf.ensure_shape(tf.map_fn(make, (boxes, flips), fn_output_signature=tf.uint8), shape)


def _cut(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
  return tf.slice(pixels, [box[0], box[1], 0], [box[2], box[3], -1])


def _scale(pixels: tf.Tensor, size: int, antialias: bool) -> tf.Tensor:
  """Float32 `[S, S, C]`; the kernel may overshoot 0..255."""
  if antialias:
    return tf.image.resize(pixels, [size, size], 'bicubic', antialias=True)
  return tf.raw_ops.ResizeBicubic(
    images=pixels[tf.newaxis], size=[size, size], half_pixel_centers=True
  )[0]


def _round(values: tf.Tensor) -> tf.Tensor:
  """Rounds to uint8, given values plus a half."""
  # One operation; tf.clip_by_value is two.
  return tf.cast(
    tf.raw_ops.ClipByValue(t=values, clip_value_min=0.0, clip_value_max=255.5), tf.uint8
  )


def _flip(part: tf.Tensor, flip: tf.Tensor | None) -> tf.Tensor:
  if flip is None:
    return part
  return tf.cond(flip, lambda: tf.reverse(part, [1]), lambda: part)
