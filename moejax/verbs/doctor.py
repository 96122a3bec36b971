"""`moejax doctor`: versions, devices, threads, kernels, speed, data, disk; what is amiss, and how to mend it.

moejax doctor
moejax doctor --json

Exit code 0: nothing is amiss; 1: something is.
"""

import json
from collections.abc import Sequence

from moejax.verbs.parser import Parser


def parser() -> Parser:
    """Nothing but the form of the answer."""
    parser = Parser("doctor", __doc__)
    parser.add_argument("--json", action="store_true", help="a list: section, name, value, and what is amiss if any")
    return parser


def main(words: Sequence[str]) -> int:
    """Print each finding as it comes; 1 if something is amiss."""
    asked = parser().parse_args(words)
    from moejax.doctor import examine

    found, before = [], ""
    for section, finding in examine():
        found.append({"section": section} | finding._asdict())
        if asked.json:
            continue
        if section != before:
            print(f"\n{section}" if before else section)
        print(f"  {'!!' if finding.amiss else 'ok'}  {finding.name:<16}  {finding.value}".rstrip(), flush=True)
        if finding.amiss:
            print(f"      {finding.amiss}")
        before = section
    amiss = sum(bool(one["amiss"]) for one in found)
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        things = "1 thing is" if amiss == 1 else f"{amiss} things are"
        print(f"\n{things} amiss; see !! above." if amiss else "\nNothing is amiss.")
    return 1 if amiss else 0
