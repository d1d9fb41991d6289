"""What every architecture keeps, whatever its paper: ours in the tests, an outsider's by `hierlm models test NAME`.

A check is a function of a `Case` whose docstring says what must hold; it raises ContractError where that does not.
They are written once, in the files of this room, and listed in `checks`.
"""
