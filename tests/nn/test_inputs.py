"""Inputs of a batch: made by one function, neutral by another, split and moved by a third, written to by nobody."""

import pytest
import torch

from hierlm.errors import UserError
from hierlm.nn.input_spec import InputSpec
from hierlm.nn.inputs import (
    completed,
    documents_after,
    documents_from_starts,
    last_tokens,
    moved,
    neutral,
    split_rows,
    with_tokens,
)

TOKENS = torch.tensor([[1, 9, 2, 3], [4, 5, 9, 9], [9, 6, 7, 8]])
SPECS = {
    "documents": InputSpec(per="token", rule=documents_after([9])),
    "marks": InputSpec(per="token", dtype="float32", width=2, neutral=-1),
    "path": InputSpec(per="row", width=3, neutral=7),
    "kind": InputSpec(per="row", dtype="bool"),
}
GIVEN = {"marks": torch.rand(3, 4, 2), "path": torch.ones(3, 3, dtype=torch.int64), "kind": torch.ones(3).bool()}


def test_a_rule_makes_what_is_missing_and_what_is_given_stays():
    found = completed(SPECS, TOKENS, GIVEN)
    assert found["documents"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 1]]
    assert all(found[name] is tensor for name, tensor in GIVEN.items()) and found["tokens"] is TOKENS
    documents = torch.zeros(3, 4, dtype=torch.int64)
    assert completed(SPECS, TOKENS, GIVEN | {"documents": documents})["documents"] is documents


def test_a_rule_of_documents_looks_at_no_later_token():
    whole = SPECS["documents"].rule(TOKENS)
    assert all(torch.equal(SPECS["documents"].rule(TOKENS[:, :n]), whole[:, :n]) for n in range(1, 5))


def test_all_that_is_wrong_is_told_at_once():
    given = GIVEN | {"marks": torch.rand(3, 4), "other": TOKENS}
    del given["path"]
    with pytest.raises(UserError) as told:
        completed(SPECS, TOKENS, given)
    problems = sorted(told.value.problems)
    assert len(problems) == 3
    assert "inputs.marks: given torch.float32 [3, 4], allowed: torch.float32 [3, 4, 2]" in problems[0]
    assert "inputs.other: this model does not read it; it reads tokens, documents, marks, path, kind" in problems[1]
    assert "inputs.path: missing, and no rule" in problems[2]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_neutral_inputs_have_the_shapes_and_types_that_are_asked_for(device):
    tokens = TOKENS.to(device)
    found = neutral(SPECS, tokens)
    completed(SPECS, tokens, found)  # which checks them
    assert {name: tensor.device.type for name, tensor in found.items()} == dict.fromkeys(found, device)
    if device == "cpu":
        values = {name: tensor.unique().tolist() for name, tensor in found.items() if name != "tokens"}
        assert values == {"documents": [0], "marks": [-1.0], "path": [7], "kind": [False]}


@pytest.mark.parametrize("num_rows", [1, 2, 3])
def test_parts_hold_the_same_rows_of_every_input(num_rows):
    whole = completed(SPECS, TOKENS, GIVEN)
    parts = split_rows(whole, num_rows)
    assert [len(part["tokens"]) for part in parts] == {1: [1, 1, 1], 2: [2, 1], 3: [3]}[num_rows]
    for name, tensor in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


def test_new_tokens_keep_the_inputs_of_their_rows():
    new = last_tokens(SPECS, completed(SPECS, TOKENS, GIVEN), 2)
    assert {name: list(tensor.shape) for name, tensor in new.items()} == {
        "tokens": [3, 2],
        "documents": [3, 2],
        "marks": [3, 2, 2],
        "path": [3, 3],
        "kind": [3],
    }


def test_nobody_writes_into_inputs():
    found = [with_tokens(TOKENS), completed(SPECS, TOKENS, GIVEN), neutral(SPECS, TOKENS)]
    found += [moved(found[1], torch.device("cpu")), *split_rows(found[1], 2)]
    for inputs in found:
        with pytest.raises(TypeError):
            inputs["tokens"] = TOKENS


def test_documents_rise_where_they_start():
    starts = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert documents_from_starts(starts).tolist() == [[1, 1, 2, 2], [0, 0, 1, 2]]
