"""What is written or shown of an input, an address or a command line, without the secrets that may stand in it.

A secret is told by where it stands: before the host of an address, in an authorization header, after a name that speaks
of one (`--token X`, `password=X`, `AWS_SECRET_ACCESS_KEY=X`), or, before a command, after any name. Imports nothing
heavy: every error goes through it.
"""

import re
from typing import Any

MASK = "***"
PIPE = "pipe:"
"""How an input begins that is a command."""

_NAMES = (
    r"token|password|passwd|passphrase|pwd|secret|credentials?|signature|sig|auth|(?:api|access|private|secret)[_-]?key"
)
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s&;|,)'\"]+)"
_KNOWN = re.compile(r"\b(?:gh[opsu]_|github_pat_|hf_|glpat-|AKIA)[A-Za-z0-9]{16,}")
_USERINFO = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/'\"]*:[^\s/'\"]*@")
_USER_OF_HTTP = re.compile(r"(?P<scheme>\bhttps?://)[^\s/'\"@]+@")
_HEADER = re.compile(r"(?i)(?P<name>\b(?:proxy-)?(?:authorization|cookie|x-[a-z-]*(?:key|token))\s*:\s*)[^'\"\n]+")
_ASSIGNED = re.compile(rf"(?i)(?P<name>(?<![A-Za-z0-9])[A-Za-z0-9_.-]*(?:{_NAMES})(?:[_-]?id)?\s?=\s?){_VALUE}")
_OPTION = re.compile(rf"(?i)(?P<name>(?<!\S)--?[A-Za-z0-9-]*(?:{_NAMES})\s+)(?![-=]){_VALUE}")
_USER_OPTION = re.compile(r"(?P<name>(?<!\S)(?:-u|--user|--proxy-user)[\s=]*)(?P<quote>['\"]?)[^\s:'\"]+:[^\s'\"]+")
_PREFIXES = re.compile(
    rf"(?P<start>^pipe:\s*|[;|&(]\s*|\benv\s+|\bexport\s+)(?P<words>(?:[A-Za-z_][A-Za-z0-9_]*={_VALUE}(?:\s+|$))+)"
)
_PREFIX = re.compile(rf"(?P<name>[A-Za-z_][A-Za-z0-9_]*=){_VALUE}")


def masked(text: str) -> str:
    """The text with a mask in the place of each secret; the same where there is none."""
    text = _KNOWN.sub(MASK, text)
    if "://" in text:
        text = _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
        text = _USER_OF_HTTP.sub(rf"\g<scheme>{MASK}@", text)
    if ":" in text:
        text = _HEADER.sub(rf"\g<name>{MASK}", text)
    if "=" in text:
        text = _ASSIGNED.sub(rf"\g<name>{MASK}", text)
    if text.startswith(PIPE):
        text = _PREFIXES.sub(_without_values, text)
    if "-" in text:
        text = _OPTION.sub(rf"\g<name>{MASK}", text)
        text = _USER_OPTION.sub(rf"\g<name>\g<quote>{MASK}", text)
    return text


def holds_secret(text: str) -> bool:
    """Whether something of it is not to be written down."""
    return masked(text) != text


def masked_tree(value: Any) -> Any:
    """The same of every text in lists and mappings."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {key: masked_tree(inner) for key, inner in value.items()}
    return [masked_tree(inner) for inner in value] if isinstance(value, list | tuple) else value


def _without_values(found: re.Match[str]) -> str:
    return found["start"] + _PREFIX.sub(rf"\g<name>{MASK}", found["words"])
