"""What a user writes about the objective. Each one may have more fields, in `hierlm/objectives/<name>.py`."""

from hierlm.strict import Strict

DEFAULT_OBJECTIVE = "next_token"


class ObjectiveConfig(Strict):
    """What every objective's Config has in common; `name` is the file's."""

    name: str
