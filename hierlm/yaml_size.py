"""How large a YAML text is before it is read: ten lines can be a billion values, and brackets can fill the stack.

YAML may name a part once and repeat it by its name, and repeat the repetition. And libyaml's loader calls itself for
every part inside a part, until the process ends without a word.
"""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hierlm.errors import UserError

MAX_VALUES = 100_000
"""Of a config with its repetitions written out; the largest of ours has some hundred."""

MAX_DEPTH = 100
"""Of parts inside one another; ours have six."""

NOT_YAML = (yaml.YAMLError, OmegaConfBaseException, ValueError, IndexError, KeyError, TypeError, RecursionError)
"""What PyYAML and OmegaConf raise over odd texts."""

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_small(text: str) -> None:
    """ValueError for a text that is too deep or, its aliases written out, too large; YAMLError for one that is none."""
    depth, repeats = 0, False
    for event in yaml.parse(text, Loader=_Parser):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        repeats |= isinstance(event, yaml.AliasEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} parts inside one another")
    root = yaml.compose(text, Loader=_Parser) if repeats else None
    if root is not None and (count := _count(root, {})) > MAX_VALUES:
        raise ValueError(f"{count:.1e} values once its aliases are written out, allowed: {MAX_VALUES}")


def load_small(path: str | Path) -> Any:
    """`OmegaConf.load` of a file that `require_small` accepts; UserError in one line for another, or for no YAML."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        require_small(text)
        return OmegaConf.create(text)
    except NOT_YAML as error:
        raise UserError(f"{path}: not YAML that is read here: {str(error).partition(chr(10))[0]}") from None


def _count(node: yaml.Node, known: dict[int, int | None]) -> int:
    if id(node) not in known:
        known[id(node)] = None  # on the way
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    count = known[id(node)]
    if count is None:
        raise ValueError("a part that holds itself")
    return count
