"""python -m experiments STUDY [options]: make the runs that are missing, then the table and the pictures of all.

Without a name: which studies there are. With --help after its name a study says its question, its commands and their
times. --quick makes a few small runs of it in under a minute; without a name, of every study, in one process.

python -m experiments readmes: make all tables of the rows and put them into the READMEs, as studies do by themselves.
"""

import argparse
import importlib
import sys
import time

from moejax import entry

STUDIES = {
    "mnist_presets": "dense, sparse and soft as the main job runs them",
    "breaking": "how a layer that is broken on purpose shows it",
    "deciding": "what makes a router decide, and over which tokens to balance it",
    "dense_sparse_soft": "which layer wins, at equal parameters and at equal FLOPs",
    "understanding_moe": "when experts find the clusters in their data",
    "language": "whether experts pay in a language model, and which",
    "domains": "where experts pay: images in domains, by networks too small to learn all of them",
    "guided_moe": "an expert for each label, with and without guidance",
    "multitask": "a gate for each task, where tasks conflict",
    "lstm_moe": "how many experts, and how wide, between two LSTMs",
    "mrpc_allocation": "which experts and which gate for paraphrases",
    "mrpc_minilm": "experts in a pre-trained encoder",
}


def main() -> int:
    """Run the study that is asked for; the exit status."""
    if "--quick" in sys.argv:
        entry.compile_quickly()
    if sys.argv[1:2] and sys.argv[1] in STUDIES:
        study(sys.argv[1], sys.argv[2:])
        return 0
    listing = "\n".join(f"  {name:<18} {line}" for name, line in STUDIES.items())
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=f"{__doc__}\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=[*STUDIES, "readmes"], metavar="STUDY", help="which; or readmes")
    parser.add_argument("--quick", action="store_true", help="a small version of every study; keeps nothing")
    asked = parser.parse_args()
    if asked.name in STUDIES:
        study(asked.name, ["--quick"])
    elif asked.name == "readmes" and asked.quick:
        parser.error("readmes takes no --quick: leave it out")
    elif asked.name == "readmes":
        tables()
    elif asked.quick:
        quick()
    else:
        print(f"{listing}\n\nName one of them, or --quick for a small version of each.")
        return 2
    return 0


def study(name: str, words: list[str]) -> None:
    """One study, with its options."""
    importlib.import_module(f"experiments.{name}.run").main(words)


def tables() -> None:
    """The tables of all studies, of the rows that there are."""
    from experiments.study import Study

    for name in STUDIES:
        Study(name, importlib.import_module(f"experiments.{name}.run").table).write_table()


def quick() -> None:
    """All of them."""
    for name in STUDIES:
        start = time.perf_counter()
        study(name, ["--quick"])
        print(f"{name} --quick: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    entry.end(entry.run(main))
