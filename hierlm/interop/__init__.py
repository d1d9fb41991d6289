"""Models that others have published: one file = one family, found by its name, the `model_type` of its config.json.

A family is data, read both ways. Copy `llama.py` to add one; it exports

    ARCH        the architecture here that computes the same, given the right fields
    PREFIXES    what may stand before all of its names
    TENSORS     its tensors, and the parameters here that each of them is (`family.Tensors`)
    LEFT        regular expressions for names without the prefix that hold no weights: masks, copies of tied weights
    FIELDS      of its config: field there -> field here (`family.Field`)
    FIXED       fields there with the values that can be represented here; any other value is refused
    SILENT      fields there that change no number of the forward pass, or only in training
    IMPLIED     fields here that the family stands for without a word

A field of a config.json that is in none of these lists is refused by its name: it may mean another computation.
"""

from types import ModuleType

from hierlm.discovery import module_named, names_in

_FRAME = ("family",)
"""What is no family."""


def names() -> list[str]:
    """Every family, by file name."""
    return [name for name in names_in(__name__) if name not in _FRAME]


def family_named(name: object) -> ModuleType | None:
    """The module of a family; None for one that is not known here."""
    return module_named(str(name), package=__name__) if name in names() else None
