"""`moejax export RUN --format stablehlo|safetensors`: a run's model as one file, for other programs.

moejax export runs/mnist_soft-20260101-120000 --format stablehlo
moejax export runs/mnist_soft-20260101-120000 --format safetensors --out digits.safetensors

stablehlo: a program for any number of examples on CPUs, NVIDIA GPUs and TPUs, which needs JAX and not this library.
safetensors: the arrays by name, which moejax.runs.load and every other verb that takes a RUN's model read again.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from moejax.errors import UserError, path_problem
from moejax.verbs.parser import Parser

FORMATS = {"stablehlo": "moejax.runs.stablehlo", "safetensors": "moejax.runs.tensors"}


def parser() -> Parser:
    """A run, a format, and where the file goes."""
    parser = Parser("export", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder that moejax run wrote")
    parser.add_argument("--format", choices=FORMATS, required=True, help="what the file is")
    parser.add_argument("--out", metavar="FILE", help="the file (default: model.FORMAT in the run's folder)")
    parser.add_argument(
        "--checkpoint", metavar="WHICH", help="best, last or a step (default: the one the run is tested with)"
    )
    parser.add_argument("--json", action="store_true", help="an object: file, format, bytes, step, inputs")
    return parser


def main(words: Sequence[str]) -> None:
    """Print the path of the file and how it is used."""
    asked = parser().parse_args(words)
    if problem := path_problem(asked.out):
        raise UserError(f"--out is {problem}.")
    import importlib

    from moejax.files import write_whole
    from moejax.runs import load
    from moejax.runs.stablehlo import inputs

    model = load(asked.run, asked.checkpoint)
    folder = asked.run if asked.run.is_dir() else asked.run.parent
    file = Path(asked.out) if asked.out else folder / f"model.{asked.format}"
    content = importlib.import_module(FORMATS[asked.format]).pack(model)
    write_whole(file, content)
    shapes = zip(model.read.names, inputs(model), strict=True)
    said = [f"{name}: {of.dtype}[{', '.join(map(str, of.shape))}]" for name, of in shapes]
    if asked.json:
        facts = {"file": str(file), "format": asked.format, "bytes": len(content), "step": model.step, "inputs": said}
        print(json.dumps(facts, indent=1))
        return
    print(f"{file}: {len(content):,} bytes, step {model.step}, reads {', '.join(said)}")
    print(_USE[asked.format].format(file=file))


_USE = {
    "stablehlo": 'use it by  jax.export.deserialize(open("{file}", "rb").read()).call(…)["probabilities"]',
    "safetensors": 'use it by  moejax.runs.load("{file}").predict(…)',
}
