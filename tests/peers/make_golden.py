"""Record what the peers answer, for test suites without torch:  python tests/peers/make_golden.py

Needs the extra `peers`, soft-moe-pytorch==0.1.9 and st-moe-pytorch==0.1.8. Seeded: a second run on the same machine
gives the same arrays.
"""

from importlib.metadata import version
from pathlib import Path

from live_peers import CASES, huggingface_case, lstm_case, save, soft_case, st_case

GOLDEN = Path(__file__).parent / "golden"


def main():
    for name in CASES:
        save(GOLDEN / f"{name}.npz", huggingface_case(name) | {"versions": versions("torch", "transformers")})
    save(GOLDEN / "soft_moe_pytorch.npz", soft_case() | {"versions": versions("torch", "soft-moe-pytorch")})
    save(GOLDEN / "st_moe_pytorch.npz", st_case() | {"versions": versions("torch", "st-moe-pytorch")})
    save(GOLDEN / "lstm.npz", lstm_case() | {"versions": versions("torch")})


def versions(*packages):
    return {package: version(package) for package in packages}


if __name__ == "__main__":
    main()
