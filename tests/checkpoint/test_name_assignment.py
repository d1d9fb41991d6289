"""Names of a source against those of a model: all that does not fit is told at once, with what comes near it."""

import pytest

from hierlm.checkpoint.config import InitFromConfig
from hierlm.checkpoint.name_assignment import Assignment, assign
from hierlm.errors import UserError

HERE = {
    "layers.0.tokens.weight": (256, 8),
    "layers.1.attention.query.weight": (8, 8),
    "layers.1.norm.weight": (8,),
    "layers.2.projection.weight": (256, 8),
}


def assigned(there: dict[str, tuple[int, ...]], **fields: object) -> Assignment:
    init_from = InitFromConfig.model_validate({"path": "x", **fields})
    return assign(init_from, there=there, here=HERE, source="x", vocab_size=256)


def problems(there: dict[str, tuple[int, ...]], **fields: object) -> str:
    with pytest.raises(UserError) as refused:
        assigned(there, **fields)
    assert all("\n" not in line for line in refused.value.problems)
    return "\n".join(refused.value.problems)


def test_equal_names_are_taken() -> None:
    assert assigned(HERE) == ({name: name for name in HERE}, [], [])


def test_missing_unknown_and_misshaped_are_told_together_with_the_nearest() -> None:
    there = {**HERE, "layers.1.norm.weight": (9,), "layers.1.attention.qery.weight": (8, 8)}
    del there["layers.1.attention.query.weight"]
    told = problems(there)
    assert (
        "missing there, 1 of 4: layers.1.attention.query.weight [8, 8] (nearest: layers.1.attention.qery.weight)"
        in told
    )
    assert "not known here, 1 of 4: layers.1.attention.qery.weight [8, 8] (nearest: layers.1.attention.query" in told
    assert "of another shape, 1 of 4: layers.1.norm.weight [9] there, [8] here" in told


def test_long_lists_are_counted() -> None:
    told = problems({**HERE, **{f"more.{number}": (1,) for number in range(500)}})
    assert "and 495 more" in told and len(told) < 2000


def test_patterns_rename_and_the_first_that_matches_decides() -> None:
    there = {"model.embed": (256, 8), "model.h.0.q": (8, 8), "model.h.0.n": (8,), "head": (256, 8)}
    names = {
        r"model\.embed": "layers.0.tokens.weight",
        r"model\.h\.0\.q": r"layers.1.attention.query.weight",
        r"model\.h\.(\d+)\.(\w)": r"layers.1.norm.weight",
        "head": "layers.2.projection.weight",
    }
    assert set(assigned(there, map=names).taken.items()) == set(zip(HERE, there, strict=True))


def test_two_tensors_do_not_become_one_parameter() -> None:
    told = problems({**HERE, "other": (8,)}, map={"other": "layers.1.norm.weight"})
    assert "layers.1.norm.weight and other would both be layers.1.norm.weight" in told


def test_a_pattern_that_stands_for_nothing_is_told() -> None:
    told = problems(HERE, map={r"layer\.1\.norm\.weight": "x"}, exclude=["layers.0.token"])
    assert "init_from.map" in told and "nearest: layers.1.norm.weight" in told
    assert 'init_from.exclude.0: given "layers.0.token"' in told and "layers.0.tokens" in told


def test_not_strict_draws_what_is_missing_and_leaves_what_is_unknown_but_takes_no_other_shape() -> None:
    there = {"layers.1.norm.weight": (8,), "odd": (3,)}
    found = assigned(there, strict=False)
    assert found.taken == {"layers.1.norm.weight": "layers.1.norm.weight"}
    assert list(found.left) == ["odd"] and set(found.drawn) == set(HERE) - {"layers.1.norm.weight"}
    assert "another shape" in problems({"layers.1.norm.weight": (7,)}, strict=False)
    assert "nothing would be taken" in problems({"odd": (3,)}, strict=False)


def test_another_vocabulary_is_refused_with_what_to_exclude_and_taken_without_it() -> None:
    there = {**HERE, "layers.0.tokens.weight": (300, 8), "layers.2.projection.weight": (300, 8)}
    told = problems(there)
    assert "its vocabulary has 300 tokens, model.vocab_size is 256" in told
    assert r"init_from.exclude=[layers\.0\.tokens\.weight, layers\.2\.projection\.weight]" in told
    found = assigned(there, exclude=[r"layers\.0\.tokens\.weight", r"layers\.2\.projection\.weight"])
    assert set(found.taken) == {"layers.1.attention.query.weight", "layers.1.norm.weight"}


def test_what_is_excluded_may_be_known_to_one_side_alone() -> None:
    there = {**HERE, "pooler.weight": (8, 8)}
    del there["layers.2.projection.weight"]
    found = assigned(there, exclude=["pooler", r"layers\.2"])
    assert list(found.drawn) == ["layers.2.projection.weight"] and list(found.left) == ["pooler.weight"]
