"""The routing drawn on images: which places feed an expert, which expert serves a place, each expert's images."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moejax.report import tiles
from moejax.report.record import Record, shares
from moejax.report.style import (
    AMOUNT,
    INK,
    MOST_EXPERTS,
    MOST_LAYERS,
    MUTED,
    VALIDATION,
    WIDTH,
    bare,
    expert_colours,
    key,
    place,
    portion,
    sheet,
    spread,
)

GAP = 3  # pixels between pictures
CELL = 28  # pixels of a picture that shows no image
MARGIN = 0.75  # inches at the left, for the names of rows
BELOW = 0.8  # inches below a sheet, for names of columns of two lines, and the next title


def dispatch(record: Record) -> Figure:
    """Soft layers: digits by experts, each image coloured where its tokens feed that expert's slots."""
    weights = np.nan_to_num(record.routing["sample_dispatch"]).mean(-1)
    _, layers, tokens, experts = weights.shape
    rows, shown, chosen = _samples(record, 3), spread(experts, MOST_EXPERTS), spread(layers, 2)
    image = record.routing["sample_image"][rows]
    size = image.shape[1:3]
    weights = weights[rows].reshape(len(rows), layers, *record.routing["token_grid"], experts)
    colours = expert_colours(experts)

    sheets, peaks = [], []
    for layer in chosen:
        # Four times an even share is never off the scale, so that an even wash is faint.
        maps = np.moveaxis(weights[:, layer][..., shown], -1, 1)
        sheet_of, peak = _glazed(image, maps, colours[shown], 4 / tokens)
        sheets.append(sheet_of)
        peaks.append(peak)
    figure, axes = _stack(
        sheets,
        size[1],
        "colour: weight of the place in what the expert's slots are fed",
        portion(len(chosen), layers, "layers"),
        portion(len(shown), experts, "experts"),
    )
    for panel, layer, peak in zip(axes, chosen, peaks, strict=True):
        panel.set_title(f"{record.layer_name(layer)}: full colour from {peak * tokens:.1f} times an even share")
        _name_rows(panel, [record.label_name(label) for label in record.routing["sample_label"][rows]], size[0])
        _name_columns(panel, ["image", *(f"expert {e}" for e in shown)], size[1], [INK, *colours[shown]])
    return figure


def looks(images: np.ndarray, maps: np.ndarray, titles: list[str]) -> Figure:
    """Images by experts, each coloured where the expert has weight.

    `images` uint8 [n, row, column, 1 or 3], `maps` float [n, layer, expert, r, c].
    """
    _, layers, experts = maps.shape[:3]
    few, shown, chosen = slice(MOST_EXPERTS), spread(experts, MOST_EXPERTS), spread(layers, MOST_LAYERS)
    colours, size = expert_colours(experts)[shown], images.shape[1:3]
    sheets = [_glazed(images[few], maps[few, layer][:, shown], colours, 0.0)[0] for layer in chosen]
    figure, axes = _stack(
        sheets,
        size[1],
        "colour: the expert's weight at that place",
        portion(len(images[few]), len(images), "pictures"),
        portion(len(chosen), layers, "layers"),
        portion(len(shown), experts, "experts"),
    )
    for panel, layer in zip(axes, chosen, strict=True):
        panel.set_title(f"Layer {layer}")
        _name_rows(panel, titles[few], size[0])
        _name_columns(panel, ["image", *(f"expert {e}" for e in shown)], size[1], [INK, *colours])
    return figure


def _glazed(image: np.ndarray, maps: np.ndarray, colours: np.ndarray, least: float) -> tuple[np.ndarray, float]:
    """A sheet of images, each followed by itself in the colour of each expert, the fuller the more weight `maps`
    [image, expert, r, c] has there; and the weight of full colour, which one place in a hundred may exceed.
    """
    stretched = tiles.stretch(maps, *image.shape[1:3])
    peak = max(float(np.quantile(stretched, 0.99)), least, 1e-12)
    alpha = (stretched / peak).clip(0, 1)
    glazed = tiles.tint(tiles.ink(image, 0.35)[:, None], colours[None, :, None, None], alpha)
    return tiles.mosaic(np.concatenate([tiles.ink(image)[:, None], glazed], axis=1), GAP), peak


def places(record: Record) -> Figure:
    """Each place of a digit in the colour of the expert with most weight; the less weight, the fainter."""
    gates = np.nan_to_num(record.routing["sample_gate"])
    colours = expert_colours(gates.shape[-1])
    remarks = "colour: the expert with most weight; fainter: less of it", record.idle
    strength = gates.max(-1) / max(1.0, gates.sum(-1).max())  # weights of a token may sum to more than 1
    figure = _by_place(record, gates.argmax(-1), strength.clip(0, 1), colours, *remarks)
    key(figure, colours, "expert")
    return figure


def computed(record: Record) -> Figure:
    """Each place of a digit by the number of experts that computed something for it."""
    counts = np.nan_to_num(record.routing["sample_computed"]).round().astype(int)
    colours = AMOUNT(np.linspace(0, 0.8, max(1, counts.max()) + 1))[:, :3]
    figure = _by_place(record, counts, np.ones(counts.shape), colours, "darker: more experts computed for the place")
    key(figure, colours, "experts that computed")
    return figure


def _by_place(record: Record, which: np.ndarray, alpha: np.ndarray, colours: np.ndarray, *remarks: str) -> Figure:
    """Digits side by side, a row a layer; `which` and `alpha` [s, layer, token]: a place's colour and its strength."""
    _, layers, _ = which.shape
    columns, chosen = _samples(record, 8), spread(layers, 4)
    image = record.routing["sample_image"][columns]
    size, grid = image.shape[1:3], record.routing["token_grid"]
    of_layers = (a[columns][:, chosen].reshape(len(columns), len(chosen), *grid) for a in (which, alpha))
    blocks, strength = (tiles.blocks(a, *size) for a in of_layers)
    glazed = tiles.tint(tiles.ink(image, 0.35)[:, None], colours[blocks], strength)
    sheet_of = np.concatenate([tiles.ink(image)[:, None], glazed], axis=1).swapaxes(0, 1)
    figure, (panel,) = _stack([tiles.mosaic(sheet_of, GAP)], size[1], *remarks, portion(len(chosen), layers, "layers"))
    label, guess = (record.routing[f"sample_{name}"][columns] for name in ("label", "prediction"))
    right, said = ([record.label_name(name) for name in names] for names in (label, guess))
    arrow = "\n→ " if max(map(len, right + said)) > 4 else " → "
    names = [a if same else f"{a}{arrow}{b}" for a, b, same in zip(right, said, label == guess, strict=True)]
    _name_columns(panel, names, size[1], [INK if right else VALIDATION for right in label == guess])
    _name_rows(panel, ["image", *(f"layer {layer}" for layer in chosen)], size[0])
    return figure


def positions(record: Record) -> Figure:
    """Each layer's experts over all test images: the fuller the colour, the more of the place's tokens they serve."""
    of_places = shares(record.routing["position_expert"])
    layers, _, experts = of_places.shape
    chosen, shown = spread(layers, 4), spread(experts, MOST_EXPERTS)
    grid = of_places.reshape(layers, *record.routing["token_grid"], experts)[chosen][..., shown]
    alpha = tiles.blocks(np.moveaxis(grid, -1, 1), CELL, CELL)
    colours = expert_colours(experts)[shown]
    sheet_of = tiles.tint(np.broadcast_to(tiles.PAPER, (*alpha.shape, 3)), colours[None, :, None, None], alpha)
    figure, (panel,) = _stack(
        [tiles.mosaic(sheet_of, GAP)],
        CELL,
        "full colour: all tokens of that place, of whatever image",
        portion(len(chosen), layers, "layers"),
        portion(len(shown), experts, "experts"),
    )
    _name_columns(panel, [f"expert {e}" for e in shown], CELL, list(colours))
    _name_rows(panel, [f"layer {layer}" for layer in chosen], CELL)
    return figure


def favourites(record: Record) -> Figure:
    """A row for each expert: the test images with the largest share of their weight on it."""
    images = record.routing["top_image"]
    layers, experts, count = images.shape[:3]
    chosen, shown = spread(layers, 2), spread(experts, MOST_EXPERTS)
    each = min(count, 8 if len(chosen) > 1 else 14)
    height, width = images.shape[3:5]
    span = (WIDTH - 0.3) / len(chosen)
    breadth = min(span - MARGIN - 0.5, 0.6 * each)
    row = breadth / each * (height + GAP) / (width + GAP)
    figure = sheet(
        row * len(shown) + 0.55,
        "at the right: the mean share of an image's weight that went to the expert",
        portion(len(chosen), layers, "layers"),
        portion(len(shown), experts, "experts"),
    )
    colours = expert_colours(experts)
    for i, layer in enumerate(chosen):
        panel = place(figure, 0.1 + MARGIN + i * span, 0.32, breadth, row * len(shown))
        bare(panel)
        panel.imshow(tiles.mosaic(tiles.ink(images[layer, shown, :each]), GAP), aspect="auto")
        panel.set(title=record.layer_name(layer), xticks=[])
        _name_rows(panel, [f"expert {e}" for e in shown], height, list(colours[shown]))
        for r, share in enumerate(record.routing["top_share"][layer, shown, :each].mean(-1)):
            at = (1.01, (r + 0.5) * (height + GAP))
            panel.text(*at, f"{100 * share:.0f} %", va="center", color=MUTED, transform=panel.get_yaxis_transform())
    return figure


def _samples(record: Record, most: int) -> np.ndarray:
    """int [≤ most]: indices of sample images, each label once before any label twice."""
    label = record.routing["sample_label"]
    turn = np.array([np.count_nonzero(label[:i] == label[i]) for i in range(len(label))])
    return np.lexsort((label, turn))[:most]


def _stack(sheets: list[np.ndarray], breadth: int, *remarks: str) -> tuple[Figure, list[Axes]]:
    """Sheets of pictures of that breadth in pixels one above the other, square pixels, full width."""
    rows, columns, _ = sheets[0].shape
    width = min(WIDTH - MARGIN - 0.3, columns / (breadth + GAP) * 1.2)
    pitch = width * rows / columns + BELOW
    figure = sheet(pitch * len(sheets), *remarks)
    axes = []
    for i, pixels in enumerate(sheets):
        panel = place(figure, 0.1 + MARGIN, 0.3 + i * pitch, width, pitch - BELOW)
        bare(panel)
        panel.imshow(pixels, aspect="auto")
        axes.append(panel)
    return figure, axes


def _name_rows(axes: Axes, names: list[str], height: int, colours: list | None = None) -> None:
    axes.set_yticks((np.arange(len(names)) + 0.5) * (height + GAP) - GAP / 2, names)
    for text, colour in zip(axes.get_yticklabels(), colours or [INK] * len(names), strict=True):
        text.set_color(colour)


def _name_columns(axes: Axes, names: list[str], width: int, colours: list) -> None:
    axes.set_xticks((np.arange(len(names)) + 0.5) * (width + GAP) - GAP / 2, names)
    for text, colour in zip(axes.get_xticklabels(), colours, strict=True):
        text.set_color(colour)
