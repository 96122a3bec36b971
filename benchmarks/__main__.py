"""python -m benchmarks NAME … [--quick]: measure, print the tables, keep the results.

Without names: what there is, with its minutes. `all` stands for whatever needs no GPU. `--quick` measures small shapes,
two benchmarks at a time and hardly optimised, to see that everything works, and keeps nothing.

python -m benchmarks layers --shape T,d,h,E,k ...: a case of your own; with --help after it, what else there is.

python -m benchmarks compare OLD.json NEW.json: is anything slower than before? Exit status 1 if so.
python -m benchmarks compare --rev OLD --rev NEW --shape T,d,h,E,k: two commits, measured in turns.
python -m benchmarks draw RESULTS.json: make the picture of layers, growth or peers anew.
"""

import argparse
import importlib
import os
import sys

from benchmarks.harness import memory
from moejax import entry

NAMES = {
    "limit": "what this device can do",
    "startup": "how long until something happens",
    "training_loop": "the scanned loop against an ordinary one",
    "training": "the MNIST presets, also against PyTorch",
    "convergence": "seconds to 98.5 % on MNIST",
    "dispatch": "what routing, dispatch and combine cost on top of the experts",
    "decoding": "what few tokens cost",
    "int8": "what experts in int8 save and cost",
    "generation": "tokens a second of text that is written, against the memory limit",
    "routing": "routers and dispatches alone",
    "layers": "dense, sparse and soft layers side by side",
    "growth": "time and memory of a layer by tokens, experts, k and width",
    "peers": "our layers against other libraries'",
    "scaling": "predicted, not measured: 8 to 4,096 accelerators",
    "gpu": "on a GPU: limit, layers at large shapes, a language model, training, convergence",
}
# On two CPU cores, as each benchmark's own heading says; gpu's on a GPU.
MINUTES = dict(zip(NAMES, (0.5, 1.5, 2, 4, 11, 3, 5, 2, 3, 1.5, 13, 5, 12, 0.5, 9), strict=True))
SUITES = {"gpu": ("limit", "gpu_layers", "gpu_text", "training", "convergence")}
TOOLS = ("compare", "draw")


def main() -> int:
    """Run what is asked for; the exit status."""
    if sys.argv[1:2] and sys.argv[1] in TOOLS:
        return importlib.import_module(f"benchmarks.harness.{sys.argv[1]}").main(sys.argv[2:])
    if sys.argv[1:2] == ["layers"] and any(word.startswith("--shape") for word in sys.argv):
        memory.keep_freed()
        return importlib.import_module("benchmarks.suite.own_case").main(sys.argv[2:])
    listing = "\n".join(f"  {name:<14} {MINUTES[name]:>4g} min  {line}" for name, line in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all: every one but gpu")
    parser.add_argument("--quick", action="store_true", help="small shapes; keeps nothing")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in (*NAMES, "all")]:
        parser.error(f"there is no benchmark {unknown[0]}; choose of {', '.join(NAMES)}")
    everything = [name for name in NAMES if name not in SUITES]
    if not asked.names:
        minutes = sum(MINUTES[name] for name in everything)
        print(f"{listing}\n\nName some of them, or all, which takes about {minutes:g} minutes on two CPU cores.")
        return 2
    names = list(dict.fromkeys(n for name in asked.names for n in (everything if name == "all" else [name])))
    from benchmarks.harness import quick  # not before: its imports take seconds
    from benchmarks.harness.measure import failed

    memory.keep_freed()
    if asked.quick:
        entry.compile_quickly()
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two at a time share a GPU's memory
    if "gpu" in names:
        # The largest shapes need more of the memory than JAX takes by itself.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
        importlib.import_module("benchmarks.suite.gpu_layers").check()
    benchmarks = [part for name in names for part in SUITES.get(name, (name,))]
    failures = quick.run(benchmarks) if asked.quick else [failed(name) for name in benchmarks]
    return 2 if any(failures) else 0


if __name__ == "__main__":
    entry.end(entry.run(main))
