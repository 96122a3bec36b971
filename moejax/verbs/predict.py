"""`moejax predict RUN INPUT …`: what a run's model says of pictures, sentences or text, and which experts took them.

moejax predict runs/mnist_soft-20260101-120000 three.png photo.jpg
moejax predict runs/mnist_soft-20260101-120000 folder/ --figure experts.png
moejax predict runs/mrpc_mlp-20260101-120000 "He bought a car." "A car was bought by him."
moejax predict runs/text_sparse-20260101-120000 "for x in self:"
cat three.png | moejax predict runs/mnist_soft-20260101-120000 - --json

Of a run on images, INPUT are pictures of any size and kind, folders of pictures, or - for one picture on standard
input. Of a run on sentence pairs, INPUT are two sentences, or more pairs of them, or - for lines `a<TAB>b`. Of a
language model, INPUT are texts or files of text, or - for one on standard input: each token is shown with its
probability and experts.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moejax.errors import UserError
from moejax.verbs.parser import Parser, place_of

if TYPE_CHECKING:
    from moejax.runs import Model
    from moejax.runs.answers import Answer


def parser() -> Parser:
    """A run, and what its model is asked."""
    parser = Parser("predict", __doc__)
    parser.add_run()
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures, folders, sentences, texts, or -")
    parser.add_checkpoint()
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes, or next tokens, to list (default 3)")
    parser.add_argument("--figure", metavar="FILE.png", help="draw the pictures with where each expert looks")
    parser.add_argument("--json", action="store_true", help="a list with an object an input, all weights included")
    return parser


def main(words: Sequence[str]) -> None:
    """Print what the model says of each input."""
    asked = parser().parse_args(words)
    figure = place_of("--figure", asked.figure)
    if figure and figure.suffix.lower() != ".png":
        raise UserError(f"--figure is {figure}, but the figure is a PNG; let the name end in .png.")
    if asked.top < 1:
        raise UserError(f"--top is {asked.top}; list one class at least.")
    from moejax.runs import load
    from moejax.runs.answers import as_json, as_text
    from moejax.runs.ask import ask
    from moejax.runs.programs import keep_programs

    keep_programs()
    model = load(asked.run, asked.checkpoint)
    found = ask(model, asked.inputs)
    if asked.json:
        print(json.dumps([as_json(model, answer, asked.top) for answer in found]))
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        print("\n\n".join("\n".join(as_text(model, answer, asked.top, width)) for answer in found))
    if figure:
        _draw(model, found, figure)
        print(f"figure: {figure}", file=sys.stderr)


def _draw(model: "Model", found: "list[Answer]", file: Path) -> None:
    """Write the figure; UserError if the model has no tokens that lie on a picture."""
    import matplotlib
    import numpy as np

    from moejax.files import write_whole
    from moejax.report import pictures
    from moejax.report.drawing import png
    from moejax.report.style import STYLE
    from moejax.runs.answers import looks, ranked

    grid = getattr(model.module, "grid", None)
    if grid is None or found[0].image is None:
        raise UserError(f"--figure is {file}, but no tokens of this run's model lie on a picture; leave it out.")
    images = np.stack([answer.image for answer in found if answer.image is not None])
    maps = np.stack([[looks(route).reshape(-1, *grid) for route in answer.routes] for answer in found])
    titles = [ranked(model, answer.prediction, 1)[0][0][0] for answer in found]
    with matplotlib.rc_context(STYLE):
        figure = pictures.looks(images.reshape(*images.shape[:3], -1), maps, titles)
        write_whole(file, png(figure, "Where each expert looks"))
