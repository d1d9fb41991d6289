"""`${oc.env:NAME}` in a config: a config may be somebody else's, and resolved values are written down and sent on.

So of the environment it is given what HIERLM_ENV lists (names, comma separated), and nothing else. And thirty lines of
`${a}${a}`, each naming the one before, would be gigabytes of text: what comes of a config's interpolations is bounded.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.resolvers import oc

from hierlm.errors import UserError

LIST_VARIABLE = "HIERLM_ENV"
_WORD = "oc.env"
_MISSING = object()


_MOST_CHARACTERS = 1 << 20
_EACH_COUNTS = 256
"""Characters that resolving one interpolation counts as, for it takes time even where nothing comes of it."""


class RefusedError(UserError):
    """One clause: what of a config's interpolations is refused, and how to mend it."""


def resolved_values(tree: Mapping[Any, Any]) -> Any:
    """Plain values of a config, its interpolations replaced: variables that the user has listed, and a bounded growth.

    RefusedError, or one behind OmegaConf's own error, otherwise; OmegaConfBaseException for what cannot be resolved.
    """
    growth = _Growth()
    OmegaConf.register_resolver(_WORD, _listed, replace=True, annotation_validation="off")
    try:
        with growth.of_texts():
            return growth.plain(OmegaConf.create(dict(tree)))
    finally:
        OmegaConf.register_resolver(_WORD, oc.env, replace=True)


class _Growth:
    """Counts what comes of interpolations while they are replaced, not when memory is full of it."""

    def __init__(self) -> None:
        self._left = _MOST_CHARACTERS

    def plain(self, node: Any, *, is_a_copy: bool = False) -> Any:
        """As OmegaConf.to_container, which writes out mappings that name mappings without end."""
        if not OmegaConf.is_config(node):
            return node
        keys = list(node) if isinstance(node, DictConfig) else range(len(node))
        values = []
        for key in keys:
            copies = is_a_copy or OmegaConf.is_interpolation(node, key)
            self._spend(_EACH_COUNTS if copies else 0)
            values.append(self.plain(node[key], is_a_copy=copies))
        return dict(zip(keys, values, strict=True)) if isinstance(node, DictConfig) else values

    @contextmanager
    def of_texts(self) -> Iterator[None]:
        """Every text that holds an interpolation is resolved by this method of OmegaConf, one inside the other."""
        whole = Container.resolve_parse_tree

        def counted(container: Container, /, *arguments: Any, **options: Any) -> Any:
            self._spend(_EACH_COUNTS)
            made = whole(container, *arguments, **options)
            self._spend(len(made) if isinstance(made, str) else 0)
            return made

        Container.resolve_parse_tree = counted  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Container.resolve_parse_tree = whole  # type: ignore[method-assign]

    def _spend(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise RefusedError(
                f"interpolations that name each other grow to more than {_MOST_CHARACTERS:,} characters or "
                f"{_MOST_CHARACTERS // _EACH_COUNTS:,} steps: write the values out"
            )


def refused(error: BaseException) -> str | None:
    """What to say where OmegaConf's error comes of one of ours."""
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, RefusedError):
        reason = reason.__cause__ or reason.__context__
    return None if reason is None else str(reason)


def _listed(name: str, default: Any = _MISSING) -> Any:
    allowed = [word.strip() for word in os.environ.get(LIST_VARIABLE, "").split(",")]
    if name not in allowed:
        raise RefusedError(
            f"reads the environment variable {name}, which is not listed: a config gets those that you name, "
            f"{LIST_VARIABLE}={','.join([*filter(None, allowed), str(name)])}"
        )
    return oc.env(name) if default is _MISSING else oc.env(name, default)
