"""Record what the peers answer, for test suites without torch:  python tests/peers/make_golden.py

Needs the extra `peers`, soft-moe-pytorch==0.1.9 and st-moe-pytorch==0.1.8. Seeded: a second run on the same machine
gives the same arrays. `make_golden.py bert FOLDER` records BERT alone, the real one from a folder with MiniLM's files;
`make_golden.py whole` records whole language models alone.
"""

import sys
from importlib.metadata import version
from pathlib import Path

from live_peers import (
    CASES,
    WHOLE,
    bert_case,
    huggingface_case,
    lstm_case,
    minilm_case,
    save,
    soft_case,
    st_case,
    whole_case,
)

GOLDEN = Path(__file__).parent / "golden"


def main():
    if sys.argv[1:2] == ["bert"]:
        record_bert(sys.argv[2])
        return
    for name in WHOLE:
        save(GOLDEN / f"{name}_model_pytorch.npz", whole_case(name) | {"versions": versions("torch", "transformers")})
    if sys.argv[1:2] == ["whole"]:
        return
    for name in CASES:
        save(GOLDEN / f"{name}.npz", huggingface_case(name) | {"versions": versions("torch", "transformers")})
    save(GOLDEN / "soft_moe_pytorch.npz", soft_case() | {"versions": versions("torch", "soft-moe-pytorch")})
    save(GOLDEN / "st_moe_pytorch.npz", st_case() | {"versions": versions("torch", "st-moe-pytorch")})
    save(GOLDEN / "lstm_pytorch.npz", lstm_case() | {"versions": versions("torch")})


def record_bert(folder):
    peers = versions("torch", "transformers")
    save(GOLDEN / "bert_pytorch.npz", bert_case() | {"versions": peers})
    save(GOLDEN / "minilm_pytorch.npz", minilm_case(folder) | {"versions": peers})


def versions(*packages):
    return {package: version(package) for package in packages}


if __name__ == "__main__":
    main()
