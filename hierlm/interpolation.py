"""`${oc.env:NAME}` in a config: a config may be somebody else's, and resolved values are written down and sent on.

So of the environment it is given what HIERLM_ENV lists (names, comma separated), and nothing else.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

LIST_VARIABLE = "HIERLM_ENV"
_WORD = "oc.env"
_MISSING = object()


class NotListedError(ValueError):
    """One clause: which variable, and how to give it."""


@contextmanager
def only_listed_variables() -> Iterator[None]:
    """Inside, OmegaConf resolves variables that the user has listed; NotListedError behind its own error for others."""
    OmegaConf.register_resolver(_WORD, _listed, replace=True, annotation_validation="off")
    try:
        yield
    finally:
        OmegaConf.register_resolver(_WORD, oc.env, replace=True)


def not_listed(error: BaseException) -> str | None:
    """What to say where a variable that is not listed was the reason of OmegaConf's error."""
    reason: BaseException | None = error
    while reason is not None and not isinstance(reason, NotListedError):
        reason = reason.__cause__ or reason.__context__
    return None if reason is None else str(reason)


def _listed(name: str, default: Any = _MISSING) -> Any:
    allowed = [word.strip() for word in os.environ.get(LIST_VARIABLE, "").split(",")]
    if name not in allowed:
        raise NotListedError(
            f"reads the environment variable {name}, which is not listed: a config gets those that you name, "
            f"{LIST_VARIABLE}={','.join([*filter(None, allowed), str(name)])}"
        )
    return oc.env(name) if default is _MISSING else oc.env(name, default)
