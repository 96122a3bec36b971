"""Do dense, sparse and soft learn MNIST equally well, and what does each cost?

    python experiments/mnist_presets.py                                      three presets, seed 0: 7 minutes
    python experiments/mnist_presets.py --presets mnist_best --seeds 0 1 2   the longer preset

Times are for two CPU cores. Each run is the command `python -m moejax.run --config PRESET --seed N`; what it writes to
summary.json is collected in experiments/results/mnist_presets/results.json, and the table of all runs in table.md
beside it. A run that is there already is not repeated, and one that was interrupted goes on where it stopped (its
folder is in runs/mnist_presets).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "mnist_presets"
RUNS = Path(__file__).parent.parent / "runs" / "mnist_presets"
KEPT = (
    *("test_accuracy", "test_loss", "dropped", "least_load", "parameters", "flops_per_image", "examples_per_second"),
    *("dataset", "data_source", "train_examples", "test_examples"),
)


def run(preset: str, seed: int) -> dict:
    """One run of the main job, or what is left of it, timed from outside or, if it was resumed, by its own clock."""
    out = RUNS / f"{preset}-{seed}"
    resumed = (out / "config.json").exists()
    words = ["--resume", str(out)] if resumed else ["--config", preset, "--seed", str(seed), "--out", str(out)]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "moejax.run", *words], check=True)
    seconds = time.perf_counter() - start
    summary, env = (json.loads((out / f"{name}.json").read_text()) for name in ("summary", "env"))
    env.pop("command")
    seconds = summary["seconds"] if resumed else seconds
    return {"preset": preset, "seed": seed, "seconds": seconds} | {k: summary[k] for k in KEPT} | {"environment": env}


def table(rows: list[dict]) -> str:
    """One line a preset: means over its seeds."""
    lines = [
        "| preset | seeds | test accuracy | parameters | MFLOP/image | examples/s | command | dropped | least load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for preset in dict.fromkeys(r["preset"] for r in rows):
        mine = [r for r in rows if r["preset"] == preset]

        def mean(name: str, mine=mine) -> float:
            return statistics.mean(r[name] for r in mine)

        spread = f" ± {100 * statistics.stdev(r['test_accuracy'] for r in mine):.2f}" if len(mine) > 1 else ""
        lines.append(
            f"| `{preset}` | {len(mine)} | {100 * mean('test_accuracy'):.2f}{spread} % | {mean('parameters'):,.0f}"
            f" | {mean('flops_per_image') / 1e6:.2f} | {mean('examples_per_second'):,.0f} | {mean('seconds'):.0f} s"
            f" | {100 * mean('dropped'):.2f} % | {mean('least_load'):.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, then write the results and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["mnist_dense", "mnist_sparse", "mnist_soft"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    file = RESULTS / "results.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    RESULTS.mkdir(parents=True, exist_ok=True)
    for preset in arguments.presets:
        for seed in arguments.seeds:
            if not any((r["preset"], r["seed"]) == (preset, seed) for r in rows):
                rows.append(run(preset, seed))
                file.write_text(json.dumps(rows, indent=1) + "\n")
                (RESULTS / "table.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
