"""The batch of the objective of language models, and what an evaluation by it says."""

import math
from typing import NamedTuple

import torch

from data_pipeline.image_shape import Kind
from data_pipeline.read.loader import Rows
from hierlm.nn.inputs import DOCUMENTS
from hierlm.objectives.next_token import Config, Totals, batch


class Made(NamedTuple):
    tokens_per_byte: float = 1.0
    kind: Kind = "text"


def test_the_target_of_a_token_is_the_one_behind_it_and_none_past_the_end_of_a_row() -> None:
    rows = Rows(torch.arange(10).reshape(2, 5), torch.arange(2), valid=torch.tensor([4, 2]))
    made = batch(rows, Config(), seed=0)
    assert made.tokens.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert made.targets.clamp(min=-1).tolist() == [[1, 2, 3, 4], [6, 7, -1, -1]]
    assert made.weights is None and list(made.inputs) == ["tokens"]


def test_documents_are_numbered_where_the_rows_say_where_they_begin() -> None:
    begins = torch.tensor([[False, True, False, True]])
    made = batch(Rows(torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1), document_starts=begins), Config(), seed=0)
    assert made.inputs[DOCUMENTS].tolist() == [[0, 1, 1, 2]]


def test_only_images_have_bits_per_dimension_the_loss_in_bits() -> None:
    sums = torch.tensor([200.0, 100.0])
    images, text = Totals.metrics(sums, Made(kind="images")), Totals.metrics(sums, Made())
    assert images["bits_per_dimension"] == images["bits_per_byte"] == 2.0 / math.log(2)
    assert text == {key: value for key, value in images.items() if key != "bits_per_dimension"}
