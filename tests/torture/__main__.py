"""python -m tests.torture [PART ...]: end runs at every moment, damage their files, and see that nothing is lost.

--quick tries a sample of each part in seconds, and keeps nothing. Otherwise each part's rows are kept in results.json,
and the README's table is written anew. What goes wrong is printed, with how to make it again; the exit code is then 1.
"""

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

from moejax import entry
from moejax.files import write_whole
from moejax.report.markdown import markdown

# By part, a module of this folder, what it shows. It has `torture(quick) -> Iterator[Figure]`.
PARTS: dict[str, str] = {
    "kills": "runs killed at every file operation and at random moments: they go on to the same bits",
    "devices": "runs killed twice go on each time on other devices: the same files and lines, to rounding",
    "verbs": "report and a fetch of data killed at random moments: all as it was, and done by the next",
    "signals": "SIGINT, SIGTERM and SIGHUP in every phase, once and twice: said, saved, gone on",
    "numbers": "a loss, a gradient or an option that is not of this world: named, skipped, never kept",
    "checkpoints": "every file of a checkpoint and of a run damaged: noticed, or nothing depends on it",
    "disks": "full, read-only and deleted disks in every phase: a sentence, nothing lost, and on to the same bits",
    "writers": "two processes at once on one run, cache, study or sweep, and readers of a run that is written",
    "data": "data files of every kind damaged, and hostile ones: read right or a sentence",
    "power": "the order of a run's operations: what a power cut would leave has its name only if it is whole",
    "configs": "fuzzed configurations and command lines: a step that can be traced or is run, or sentences",
    "effects": "each option changed: another program, other data, or a sentence",
    "processes": "runs of two processes, one of them killed, stopped, late, missing or different: a sentence, soon",
    "soak": "a run, and a server of it, for half an hour: memory, files, threads and time do not grow",
}
HERE = Path(__file__).parent
ROOT = HERE.parent.parent
HEADER = ("part", "what was tried", "cases", "found", "as it has to be")


def main() -> int:
    """Try the parts that are asked for; the exit status."""
    listing = "\n".join(f"  {name:<12} {line}" for name, line in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture",
        description=f"{__doc__}\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", type=_part, metavar="PART", help="which; without: all")
    parser.add_argument("--quick", action="store_true", help="a sample of each; keeps nothing")
    asked = parser.parse_args()
    if asked.quick:
        entry.compile_quickly()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    results: dict[str, list[dict]] = {}
    for name in asked.parts or PARTS:
        results[name] = tried(name, asked.quick)
        if not asked.quick:
            keep({name: results[name]})
    print(f"\n{table(results)}")
    return 0 if all(row["good"] for rows in results.values() for row in rows) else 1


def _part(name: str) -> str:
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name!r} is no part; choose among {', '.join(PARTS)}")
    return name


def tried(name: str, quick: bool) -> list[dict]:
    """A part's rows, each printed as soon as it is there."""
    start, rows = time.perf_counter(), []
    for figure in importlib.import_module(f"tests.torture.{name}").torture(quick):
        rows.append(figure._asdict())
        print(f"{name}: {figure.what}: {figure.cases} cases, {figure.found}{'' if figure.good else ', WRONG'}")
        sys.stdout.flush()
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return rows


def table(results: dict[str, list[dict]]) -> str:
    """A line for each figure."""
    lines = [
        (name, row["what"], f"{row['cases']:,}", row["found"], "yes" if row["good"] else "**no**")
        for name, rows in results.items()
        for row in rows
    ]
    return markdown(HEADER, lines)


def keep(results: dict[str, list[dict]]) -> None:
    """Put these parts' rows in place of older ones, and the table into the README: part by part, each takes long."""
    from experiments import readmes

    file = HERE / "results.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    merged = before | results
    kept = {name: merged[name] for name in PARTS if name in merged}
    write_whole(file, json.dumps(kept, indent=1) + "\n")
    write_whole(HERE / "table.md", table(kept))
    readmes.write(ROOT)


if __name__ == "__main__":
    entry.end(entry.run(main))
