"""An evaluation scores every token once and gives every layout the same sums."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_pipeline.read.loader import open_split
from hierlm.train.evaluation import Evaluation, Share

T = 100


class Recording:
    """A score that needs no model: the nats of a token are its own value; notes what it was given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, bool]] = []

    def __call__(self, tokens: Tensor, targets: Tensor, *, continues: bool) -> Tensor:
        self.calls.append((tokens, continues))
        return targets.clamp(min=0).float()


def run(dataset: Path, *, dp_degree: int, rows_per_pass: int, is_recurrent: bool) -> tuple[Tensor, list]:
    """Every rank's part one after the other, added up."""
    parts, scores = [], []
    for dp_rank in range(dp_degree):
        score = Recording()
        share = Share(dp_rank=dp_rank, dp_degree=dp_degree)
        evaluation = Evaluation(
            open_split(dataset, "valid"),
            score=score,
            rows_per_pass=rows_per_pass,
            is_recurrent=is_recurrent,
            share=share,
        )
        parts.append(evaluation.run(sequence_length=T, max_rows=None))
        scores.append(score)
    return torch.stack([part.sums for part in parts]).sum(dim=0), scores


def whole(dataset: Path) -> Tensor:
    split = open_split(dataset, "valid")
    return torch.from_numpy(split.read_rows([0], length=split.num_tokens)[0].astype("int64"))


@pytest.mark.parametrize("is_recurrent", [False, True])
@pytest.mark.parametrize(("dp_degree", "rows_per_pass"), [(1, 1), (1, 6), (2, 6), (3, 6)])
def test_every_token_but_the_first_is_scored_once(tiny_dataset, dp_degree, rows_per_pass, is_recurrent) -> None:
    sums, _ = run(tiny_dataset, dp_degree=dp_degree, rows_per_pass=rows_per_pass, is_recurrent=is_recurrent)
    text = whole(tiny_dataset)
    assert sums.tolist() == [text[1:].sum().item(), len(text) - 1]


def test_rows_of_a_lane_continue_one_another_and_the_first_pass_continues_nothing(tiny_dataset) -> None:
    _, [score] = run(tiny_dataset, dp_degree=1, rows_per_pass=4, is_recurrent=True)
    assert [continues for _, continues in score.calls] == [False] + [True] * (len(score.calls) - 1)
    first_lane = torch.cat([tokens[0] for tokens, _ in score.calls])
    assert torch.equal(first_lane, whole(tiny_dataset)[: len(first_lane)])


def test_without_memory_no_pass_continues_another(tiny_dataset) -> None:
    _, [score] = run(tiny_dataset, dp_degree=1, rows_per_pass=4, is_recurrent=False)
    assert not any(continues for _, continues in score.calls)


def test_a_stop_agreed_on_the_way_gives_no_sums(tiny_dataset) -> None:
    answers = iter([False, True])
    share = Share(stopped=lambda: next(answers))
    evaluation = Evaluation(open_split(tiny_dataset, "valid"), score=Recording(), rows_per_pass=1, share=share)
    assert evaluation.run(sequence_length=T, max_rows=None) is None
