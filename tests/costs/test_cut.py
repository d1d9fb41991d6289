"""What a user wrote, as a cut of the layer list: every stage has something to train."""

import pytest

from hierlm.config.load import load_config
from hierlm.costs.cut import stage_cut
from hierlm.errors import UserError

# Shorten is layer 3, and has no weights
POOLED = ["model.hierarchy='1@1 1@2 1@1'", "model.shortening=average", "model.upsampling=repeat"]
PIPELINE = ["parallel.pipeline_parallel_degree=3", "parallel.zero_stage=0"]


def test_a_stage_without_weights_is_refused_in_one_line() -> None:
    alone = load_config("configs/tiny/hourglass.yaml", [*POOLED, *PIPELINE, "parallel.stage_cut=[3, 4]"])
    with pytest.raises(
        UserError, match=r"^parallel.stage_cut: given .*, stage 1 holds no weights \(layers.3.Shorten\); "
    ):
        stage_cut(alone)
    beside = load_config("configs/tiny/hourglass.yaml", [*POOLED, *PIPELINE, "parallel.stage_cut=[3, 5]"])
    assert stage_cut(beside).boundaries[1:3] == (3, 5)


def test_a_tied_head_alone_has_a_weight() -> None:
    words = ["model.num_layers=2", "model.tie_embeddings=true", *PIPELINE, "parallel.stage_cut=[2, 4]"]
    config = load_config("configs/tiny/transformer.yaml", words)
    assert stage_cut(config).boundaries == (0, 2, 4, 5)
