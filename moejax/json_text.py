"""JSON, read: of files that may be damaged, of words and messages from without."""

import json
from typing import Any


def read_json(text: str | bytes, **hooks: Any) -> Any:
    """What a text says, as `json.loads`; ValueError for all that Python cannot read, also values too deep in others."""
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("it holds values within values beyond counting") from None
