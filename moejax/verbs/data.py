"""`moejax data path|fetch`: where data and their cache are; fetch a data set now, as a run would.

moejax data path
moejax data fetch mnist
moejax data fetch fashion_mnist --json
"""

import json
from collections.abc import Sequence

from moejax.verbs.parser import Parser


def parser() -> Parser:
    """What to do, and with which data set."""
    parser = Parser("data", __doc__)
    parser.add_argument("what", choices=("path", "fetch"), help="say where data are and how much; or get a data set")
    parser.add_argument("name", nargs="?", metavar="NAME", help="what to fetch, as --data.name has it")
    parser.add_argument("--json", action="store_true", help="the answer as an object")
    return parser


def main(words: Sequence[str]) -> None:
    """Print the places, or what was fetched."""
    asked = parser().parse_args(words)
    if (asked.what == "fetch") != (asked.name is not None):
        parser().error("fetch needs the NAME of a data set" if asked.name is None else "path takes no NAME")
    from moejax.data.dataset import rows
    from moejax.data.places import fetched, places

    if asked.what == "path":
        found = places()
        if asked.json:
            print(json.dumps(found, indent=1))
            return
        for name, place in found.items():
            print(f"{name}: {place['path']}")
            for folder, size in place["bytes"].items():
                print(f"  {folder:<16} {size / 1e6:>9,.1f} MB")
        return
    data = fetched(asked.name)
    if asked.json:
        print(json.dumps(data.record, indent=1))
        return
    sizes = [rows(split) for split in (data.train, data.validation, data.test)]
    print("{}: {:,} + {:,} + {:,} examples from {} ({})".format(data.name, *sizes, data.source, data.origin))
    for note in data.notes:
        print(f"note: {note}")
