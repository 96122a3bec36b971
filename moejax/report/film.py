"""The routing on its way through training: a film of images that plays, and of text a line that is written again."""

from base64 import b64encode
from html import escape
from io import BytesIO

import matplotlib.image
import numpy as np

from moejax.pieces import as_text
from moejax.report import tiles
from moejax.report.held_out import piece_of, seen
from moejax.report.record import Record
from moejax.report.style import expert_colours, spread

MOST = 12  # frames
_EXAMPLES, _TOKENS, _LAYERS = 8, 64, 3
_SECONDS = 0.6  # a frame is seen
_STRENGTH = 0.65  # of a colour over an image
_GAP = 3  # pixels


def film(record: Record) -> str:
    """HTML of the sample images, each place in the colour of its expert; a frame follows the other, on paper all."""
    frames, steps = record.routing["film"], record.routing["film_step"]
    turns = _early(len(frames))
    layers = spread(frames.shape[2], _LAYERS)
    image = record.routing["sample_image"][:_EXAMPLES]
    which = frames[turns, : len(image)][:, :, layers]
    which = which.reshape(*which.shape[:3], *record.routing["token_grid"])
    places = tiles.blocks(which, *image.shape[1:3])
    colours = expert_colours(record.experts or 1)
    pictures = tiles.tint(tiles.ink(image, 0.35)[:, None], colours[places], _STRENGTH * (places >= 0))
    rows = ", ".join(record.layer_name(layer) for layer in layers)
    shown = "".join(
        f'<figure style="--turn:{n}"><img alt="Who took which place after {step} steps" src="{_png(picture)}">'
        f"<figcaption>after step {step}</figcaption></figure>"
        for n, (step, picture) in enumerate(zip(steps[turns].tolist(), pictures, strict=True))
    )
    return (
        f'<div class="film" style="--turns:{len(turns)}">{shown}</div>'
        f'<p class="how">From above: {escape(rows)}. A blank place was dropped. Point at the film to hold it.</p>'
    )


def film_of_text(record: Record) -> str:
    """HTML of one line of text again and again, a row a frame, each token in the colour of its expert."""
    frames, steps = record.routing["film"], record.routing["film_step"]
    turns, layers = _early(len(frames)), spread(frames.shape[2], _LAYERS)
    tokens = record.routing["sample_tokens"][0, :_TOKENS].tolist()
    texts = [seen(text, keep=False) for text in as_text([piece_of(record, token) for token in tokens])]
    return "".join(
        f'<table class="lines"><caption>{escape(record.layer_name(layer))}</caption>'
        + "".join(_line(int(steps[n]), texts, frames[n, 0, layer].tolist()) for n in turns)
        + "</table>"
        for layer in layers
    )


def _early(count: int) -> np.ndarray:
    """int [≤ MOST]: indices of frames, the first and the last among them, most of them early, where most happens."""
    return np.unique(np.geomspace(1, count, MOST).round().astype(int)) - 1


def _line(step: int, texts: list[str], experts: list[int]) -> str:
    tokens = "".join(
        f'<i class="x{expert}">{text}</i>' if expert >= 0 else f"<i>{text}</i>"
        for text, expert in zip(texts, experts, strict=False)
    )
    return f'<tr><th scope="row">step {step}</th><td>{tokens}</td></tr>'


def _png(pictures: np.ndarray) -> str:
    """The address of a sheet, a row a layer, of `pictures` float [example, layer, row, column, 3]."""
    buffer = BytesIO()
    matplotlib.image.imsave(buffer, tiles.mosaic(pictures.swapaxes(0, 1), _GAP).clip(0, 1), format="png")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode('ascii')}"


def style_of(record: Record) -> str:
    """CSS that depends on the number of frames, and of experts."""
    if record.is_text:
        return "\n".join(f".lines .x{e}{{--colour:var(--expert-{e})}}" for e in range(record.experts or 1))
    turns = len(_early(len(record.routing["film"])))
    return (
        f"@keyframes turn{{0%{{visibility:visible}}{100 / turns:.4f}%,100%{{visibility:hidden}}}}"
        f":root{{--film:{turns * _SECONDS:.1f}s;--each:{_SECONDS}s}}"
    )
