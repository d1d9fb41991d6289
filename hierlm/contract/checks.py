"""All checks, and how one is made."""

from collections.abc import Callable, Iterator
from traceback import extract_tb
from typing import NamedTuple

from hierlm.contract import declared, generation, layouts, learning, state, visibility
from hierlm.contract.case import Case, ContractError, NotConcernedError

Check = Callable[[Case], None]

MATHEMATICS: tuple[Check, ...] = (
    declared.says_where_it_comes_from,
    declared.config_is_read_without_torch,
    declared.length_of_the_list_is_known,
    declared.number_of_parameters_is_known,
    declared.tensor_plan_names_every_weight_once,
    declared.weights_depend_on_seed_and_place_only,
    declared.shapes_follow_from_what_is_declared,
    visibility.has_a_row_of_logits_for_each_token,
    visibility.no_logit_depends_on_a_later_token,
    visibility.every_past_token_matters,
    visibility.every_token_reaches_every_logit,
    visibility.logits_of_a_prefix_are_a_prefix,
    visibility.rows_do_not_touch,
    state.forward_is_the_fold_over_the_list,
    state.inputs_and_reports_are_passed_on,
    state.stores_nothing_between_calls,
    state.recompute_changes_nothing,
    state.state_continues_the_streams,
    generation.generation_equals_the_forward_pass,
    generation.generation_costs_less,
    learning.runs_forwards_and_backwards_in_bf16,
    learning.every_weight_gets_a_gradient,
    learning.learns_64_tokens_by_heart,
)
LAYOUTS: tuple[Check, ...] = (
    layouts.tensor_parallel_2_equals_one_process,
    layouts.pipeline_parallel_2_equals_one_process,
)
"""On several processes; of our own architectures tests/distributed asks more than these do."""


class Outcome(NamedTuple):
    """Of one check."""

    name: str
    state: str  # ok, failed, or left out
    why: str


def outcomes(case: Case) -> Iterator[Outcome]:
    """Of every check, as it is made; what a model's own code raises is a failure too."""
    for check in (*MATHEMATICS, *LAYOUTS):
        yield outcome(check, case)


def outcome(check: Check, case: Case) -> Outcome:
    """One line of why, where there is something to say."""
    try:
        check(case)
    except NotConcernedError as reason:
        return Outcome(check.__name__, "left out", str(reason))
    except ContractError as error:
        return Outcome(check.__name__, "failed", " ".join(str(error).split()))
    except Exception as error:
        frame = extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
        return Outcome(check.__name__, "failed", " ".join(why.split()))
    return Outcome(check.__name__, "ok", "")
