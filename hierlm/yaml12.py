"""The one way in and out for YAML: the core schema of YAML 1.2, in which `010` is ten, `no` a word and `1e-4` a number.

What is written reads the same by the rules of YAML 1.1, which most other readers still keep: a text that either takes
for something else stands in quotes.

Source: YAML 1.2.2, chapter 10.3 (core schema).
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

_NULL, _BOOL, _INT, _FLOAT, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "merge"))
_RESOLVED = (
    (_NULL, re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    (_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    (_INT, re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    (
        _FLOAT,
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+.0123456789"),
    ),
    (_MERGE, re.compile(r"<<$"), ["<"]),  # of YAML 1.1 alone, and wherever YAML is written by hand
)
_MOST_NODES = 100_000
"""Aliases written out: a few lines of them can mean more than any memory holds."""


def load(text: str) -> Any:
    """The one document of a text. yaml.YAMLError where it is none, or one that means too much or contains itself."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("is nested too deeply") from None


def dump(document: Mapping[str, Any]) -> str:
    """A mapping as text that `load` reads back equal."""
    return str(
        yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, line_break="\n")
    )


_OTHERS = {f"tag:yaml.org,2002:{name}" for name in ("timestamp", "binary", "omap", "pairs", "set")}
"""Tags that are no part of the core schema; PyYAML trips over `!!timestamp x`."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way
    yaml_constructors = {tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag not in _OTHERS}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A key that is there twice is an error: one of the two values would be lost."""
        if isinstance(node, yaml.MappingNode):
            seen = set[str]()
            for key, _ in node.value:
                name = key.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE else None
                if name in seen:
                    raise _wrong(key, f"found duplicate key {name}")
                seen |= set() if name is None else {name}
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return found


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Everything stands where it belongs."""
        return True


def _text(dumper: _Dumper, data: str) -> yaml.ScalarNode:
    """Line breaks that not everybody counts as such (U+0085, U+2028) come back only from double quotes."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


def _wrong(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _scalar(loader: _Loader, node: yaml.ScalarNode, tag: str) -> str:
    """The text of a scalar, if it is one of its tag: an explicit tag may stand before anything."""
    text = str(loader.construct_scalar(node))
    pattern = next(pattern for known, pattern, _ in _RESOLVED if known == tag)
    if not pattern.match(text):
        raise _wrong(node, f"found {text[:40]!r}, which is no {tag.rpartition(':')[2]}")
    return text


def _bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return _scalar(loader, node, _BOOL).lower() == "true"


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = _scalar(loader, node, _INT)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = _scalar(loader, node, _FLOAT).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _count(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes in the tree that a graph of nodes stands for."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise _wrong(node, "found a value that contains itself")
        return sizes[id(node)]
    sizes[id(node)] = 0
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    size = 1 + sum(_count(each, sizes) for each in inner)
    if size > _MOST_NODES:
        raise _wrong(node, f"found more than {_MOST_NODES:,} values, aliases written out")
    sizes[id(node)] = size
    return size


for _tag, _pattern, _first in _RESOLVED:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
_Dumper.add_representer(str, _text)
for _tag, _construct in ((_BOOL, _bool), (_INT, _int), (_FLOAT, _float)):
    _Loader.add_constructor(_tag, _construct)
