"""Nats per token in the other units a language model is judged by."""

import math

from data_pipeline.image_shape import Kind
from hierlm import metric_names


def perplexity(loss: float) -> float:
    """Of nats per token; as large as a float can be where the loss is larger."""
    return math.exp(min(loss, 700.0))


def bits(loss: float, *, tokens_per_byte: float, kind: Kind = "text") -> dict[str, float]:
    """Nats per token as bits per source byte; of images, where a byte is a dimension, the same under that name too."""
    per_byte = loss * tokens_per_byte / math.log(2)
    per_dimension = {metric_names.BITS_PER_DIMENSION: per_byte} if kind == "images" else {}
    return {metric_names.BITS_PER_BYTE: per_byte, **per_dimension}
