"""python -m experiments STUDY [options]: make the runs that are missing, then the table and the pictures of all.

With --help after its name a study says its question, its commands and their times. --quick makes a small version of
everything in about a minute; without a name, of every study, in one process.
"""

import argparse
import importlib
import sys
import time

from moejax import entry

STUDIES = {
    "mnist_presets": "dense, sparse and soft as the main job runs them",
    "dense_sparse_soft": "which layer wins, at equal parameters and at equal FLOPs",
    "understanding_moe": "when experts find the clusters in their data",
    "guided_moe": "an expert for each label, with and without guidance",
    "lstm_moe": "how many experts, and how wide, between two LSTMs",
    "mrpc_allocation": "which experts and which gate for paraphrases",
    "mrpc_minilm": "experts in a pre-trained encoder",
}


def main() -> None:
    """Run the study that is asked for."""
    if sys.argv[1:2] and sys.argv[1] in STUDIES:
        return _study(sys.argv[1], sys.argv[2:])
    listing = "\n".join(f"  {name:<18} {line}" for name, line in STUDIES.items())
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=f"{__doc__}\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", nargs="?", choices=STUDIES, metavar="STUDY", help="which, with its options after it")
    parser.add_argument("--quick", action="store_true", help="a small version of every study; keeps nothing")
    if not parser.parse_args().quick:
        parser.error(f"name a study, of {', '.join(STUDIES)}; or --quick for a small version of each")
    for name in STUDIES:
        start = time.perf_counter()
        _study(name, ["--quick"])
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)


def _study(name: str, words: list[str]) -> None:
    importlib.import_module(f"experiments.{name}.run").main(words)


if __name__ == "__main__":
    sys.exit(entry.run(main))
