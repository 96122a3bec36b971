"""python -m benchmarks [NAME …] [--quick]: measure, print the tables, keep the results.

Without names, all of them. `--quick` measures small shapes in under a minute, to see that everything works, and keeps
nothing.
"""

import argparse
import importlib

from benchmarks import record

NAMES = {
    "limit": "what this device can do",
    "startup": "how long until something happens",
    "training_loop": "the scanned loop against an ordinary one",
    "dispatch": "what routing, dispatch and combine cost on top of the experts",
    "routing": "routers and dispatches alone",
    "layers": "dense, sparse and soft layers side by side",
}


def main() -> None:
    """Run what is asked for."""
    listing = "\n".join(f"  {name:<14} {line}" for name, line in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all if none is given")
    parser.add_argument("--quick", action="store_true", help="small shapes, in under a minute; keeps nothing")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in NAMES]:
        parser.error(f"there is no benchmark {unknown[0]}; choose of {', '.join(NAMES)}")
    for name in asked.names or NAMES:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        rows = benchmark.run(asked.quick)
        print(f"\n{benchmark.__doc__.splitlines()[0]}\n\n{benchmark.table(rows)}")
        if not asked.quick:
            print(record.write(name, rows, benchmark.table(rows), turns=benchmark.TURNS))


if __name__ == "__main__":
    main()
