"""`moejax presets`: the named runs: data, time on two CPU cores, test accuracy.

moejax presets
moejax presets --json
"""

import json
from collections.abc import Sequence

from moejax.verbs.parser import Parser


def parser() -> Parser:
    """Nothing but the form of the answer."""
    parser = Parser("presets", __doc__)
    parser.add_argument("--json", action="store_true", help="an object: the name of each preset, and its line")
    return parser


def main(words: Sequence[str]) -> None:
    """Print a line a preset."""
    asked = parser().parse_args(words)
    from moejax.presets import PRESETS, listed

    if asked.json:
        print(json.dumps({name: str(preset) for name, preset in PRESETS.items()}, indent=1))
    else:
        print(listed())
