"""Objectives: one file = what a model is asked, found by file name. Copy `next_token.py` to add one.

An objective's file exports

    Config               its fields, an `ObjectiveConfig`; `objective.name` chooses it
    INPUTS               name -> `hierlm.nn.input_spec.InputSpec`: what its batches hold beside the tokens
    SEES                 "past" where a token's logits may hang on nothing behind it, else "all"
    HEADLINE             the name of the metric by which runs are compared, and LOWER_IS_BETTER
    units(loss, of)      what a mean loss is in other units, for steps of training; may be nothing
    batch(rows, config, seed=...)
                         one rank's rows of the data -> what the model reads, its targets, and how much each counts;
                         pure, on the loader's thread: what is drawn is keyed by seed, `rows.data_pass` and
                         `rows.samples` (`hierlm.nn.draws.keyed_seed`), so that no layout changes it
    Totals               what an evaluation adds up: `add(nats, batch)`, the `sums` that ranks add up, and of these
                         `metrics(sums, of)`, `loss`, `tokens` and HEADLINE among them. Of a mixture's sources floats
                         are averaged and whole numbers added up

The loss of a step is sum(w nats) / sum(w) over the global batch, nats of the model's logits at the targets: that is the
engine's (`hierlm.parallel.weighting`), so an objective says targets and weights and nothing of layouts. An architecture
says in `SEES` which kinds it can have, by default "past" alone.

A file imports torch only inside its functions, so that its Config is checked where torch is not installed.
"""

from types import ModuleType

from hierlm.discovery import is_named, module_named, names_in

_NOT_OBJECTIVES = frozenset({"batch", "config"})


def names() -> list[str]:
    """Every objective, by file name."""
    return names_in(__name__, besides=_NOT_OBJECTIVES)


def is_known(name: object) -> bool:
    """Whether there is such an objective; a plugin's too."""
    return is_named(name, package=__name__, besides=_NOT_OBJECTIVES)


def objective(name: str) -> ModuleType:
    """The module of one objective; ValueError names the known ones."""
    if not is_known(name):
        raise ValueError(f"unknown objective {name!r}; known: {', '.join(names())}")
    return module_named(name, package=__name__)
