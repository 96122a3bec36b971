"""`moejax export RUN --format stablehlo|onnx|safetensors|hf`: a run's model as a file, for other programs.

moejax export runs/mnist_soft-20260101-120000 --format stablehlo
moejax export runs/mnist_soft-20260101-120000 --format safetensors --out digits.safetensors

stablehlo: a program for any number of examples on CPUs, NVIDIA GPUs and TPUs, which needs JAX and not this library.
onnx: the same for onnxruntime and others, without JAX; needs the extra `onnx`, and not all networks can be written.
safetensors: the arrays by name, which moejax.runs.load and predict read again.
hf: a folder for Hugging Face's transformers: a language model as a Mixtral or an OLMoE, where it is one; of any other
network the MoE layers alone, where they are blocks of transformers.
"""

import json
from collections.abc import Sequence

from moejax.verbs.parser import Parser, place_of

FORMATS = {
    "stablehlo": "moejax.runs.stablehlo",
    "onnx": "moejax.runs.onnx",
    "safetensors": "moejax.runs.tensors",
    "hf": "moejax.runs.hf",
}


def parser() -> Parser:
    """A run, a format, and where the file goes."""
    parser = Parser("export", __doc__)
    parser.add_run()
    parser.add_argument("--format", choices=FORMATS, required=True, help="what the file is")
    parser.add_argument("--out", metavar="FILE", help="the file, of hf a folder (default: RUN/model.FORMAT)")
    parser.add_checkpoint()
    parser.add_argument("--json", action="store_true", help="an object: file, format, bytes, step, inputs")
    return parser


def main(words: Sequence[str]) -> None:
    """Print the path of the file and how it is used."""
    asked = parser().parse_args(words)
    out = place_of("--out", asked.out, folder=asked.format == "hf")
    import importlib

    from moejax.files import write_whole
    from moejax.runs import load
    from moejax.runs.stablehlo import inputs
    from moejax.runs.verify import check_not_own

    model = load(asked.run, asked.checkpoint)
    folder = asked.run if asked.run.is_dir() else asked.run.parent
    file = out or folder / f"model.{asked.format}"
    content = importlib.import_module(FORMATS[asked.format]).pack(model)
    files = {file / name: part for name, part in content.items()} if isinstance(content, dict) else {file: content}
    for path in files:
        check_not_own(f"--out {file}", path)
    if isinstance(content, dict):
        file.mkdir(parents=True, exist_ok=True)
    for path, part in files.items():
        write_whole(path, part)
    size = sum(map(len, files.values()))
    shapes = zip(model.read.names, inputs(model), strict=True)
    said = [f"{name}: {of.dtype}[{', '.join(map(str, of.shape))}]" for name, of in shapes]
    if asked.json:
        facts = {"file": str(file), "format": asked.format, "bytes": size, "step": model.step, "inputs": said}
        print(json.dumps(facts, indent=1))
        return
    print(f"{file}: {size:,} bytes, step {model.step}, reads {', '.join(said)}")
    use = "hf, whole" if asked.format == "hf" and model.config.model.name == "decoder" else asked.format
    print(_USE[use].format(file=file, length=getattr(model.config.data, "length", 0)))


_USE = {
    "stablehlo": 'use it by  jax.export.deserialize(open("{file}", "rb").read()).call(…)["probabilities"]',
    "onnx": 'use it by  onnxruntime.InferenceSession("{file}").run(["probabilities"], …)',
    "hf": 'use it by  moejax.from_huggingface(moejax.huggingface.PublishedFiles("{file}"), config, layer=0)',
    "hf, whole": (
        'use it by  transformers.AutoModelForCausalLM.from_pretrained("{file}"), on texts of up to {length} tokens'
    ),
    "safetensors": 'use it by  moejax.runs.load("{file}").predict(…)',
}
