"""The pictures of those benchmarks that have one, made of their rows alone."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from moejax.report.style import EXPERTS, INK, MUTED, PERCENT, bare, panels, place, sheet

MULTIPLES = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
WORDS = {
    "tokens": "tokens",
    "experts": "experts",
    "k": "experts of a token",
    "factor": "capacity factor",
    "group": "group size",
    "d": "width of a token",
    "dtype": "type",
    "skew": "skew of popularity",
}


def layers(rows: list[dict]) -> Figure:
    """One panel a sweep: each layer's time over the MLP's of the same active FLOPs."""
    base, names = rows[0], [name for name in rows[0]["layers"] if name != "mlp"]
    found = {word: sweep(rows, field) for field, word in WORDS.items() if len(sweep(rows, field)) > 1}
    case = base["case"]
    figure, axes = panels(
        len(found) + 1,
        3,
        1.9,
        "forward and backward, over an MLP with the FLOPs that a token's experts need",
        f"else T {case['tokens']}, d {case['d']}, h {case['h']}, E {case['experts']}, k {case['k']}",
    )
    ratios = {
        id(row): {name: row["layers"][name]["forward_backward"]["to_mlp"]["median"] for name in names} for row in rows
    }
    every = [value for of_row in ratios.values() for value in of_row.values()]
    for panel, (word, points) in zip(axes, found.items(), strict=False):
        for name, colour in zip(names, EXPERTS, strict=False):
            panel.plot([ratios[id(row)][name] for _, row in points], color=colour, lw=1.6, marker="o", ms=4)
        panel.axhline(1, color=MUTED, lw=0.8, ls="--", zorder=0)
        panel.set_title(word.capitalize())
        panel.set_xlim(-0.2, len(points) - 0.8)
        panel.set_xticks(range(len(points)), [str(value) for value, _ in points])
        panel.set_ylim(min(*every, 1) / 1.25, 1.25 * max(*every, 1))
        multiples(panel, "y")
    legend(axes[-1], [*zip(names, EXPERTS, strict=False), ("mlp, dashed", MUTED)])
    return figure


def growth(rows: list[dict]) -> Figure:
    """Time above and memory below, one panel a sweep; dashed: the least there can be."""
    base, names, fields = rows[0]["case"], list(rows[0]["layers"]), ("tokens", "experts", "k", "d")
    figure, axes = panels(
        2 * len(fields),
        len(fields),
        1.7,
        "time above, memory below, forward and backward; dashed: the least there can be",
        f"else T {base['tokens']:,}, d {base['d']}, h {base['h']}, E {base['experts']}, k {base['k']}",
    )
    for i, (quantity, unit) in enumerate((("ms", "ms"), ("mb", "MB"))):
        every = [of[quantity] for row in rows for of in (row["least"], *row["layers"].values())]
        for panel, field in zip(axes[i * len(fields) :], fields, strict=False):
            points = sweep(rows, field)
            values = [value for value, _ in points]
            panel.plot(values, [row["least"][quantity] for _, row in points], color=MUTED, lw=1, ls="--")
            for name, colour in zip(names, EXPERTS, strict=False):
                of_layer = [row["layers"][name][quantity] for _, row in points]
                panel.plot(values, of_layer, color=colour, lw=1.4, marker="o", ms=3, label=name)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set(xlabel=WORDS[field], title=unit, ylim=(min(every) / 1.5, 1.5 * max(every)))
            panel.xaxis.set_major_locator(FixedLocator(values[:: 3 if len(values) > 7 else 2]))
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
                axis.set_minor_formatter(NullFormatter())
    axes[0].legend(loc="upper left", frameon=False, handlelength=0, labelcolor="linecolor", borderaxespad=0)
    return figure


def sweep(rows: list[dict], field: str) -> list[tuple[object, dict]]:
    """The first row and those that differ from it in that field alone, by its value."""
    base = rows[0]["case"]
    of_sweep = [row for row in rows if all(row["case"][name] == base[name] for name in base if name != field)]
    return sorted(((row["case"][field], row) for row in of_sweep), key=lambda point: point[0])


def peers(rows: list[dict]) -> Figure:
    """One line a shape: each peer's time over ours, with its quartiles."""
    places = {id(row): -i for i, row in enumerate(rows)}
    names = list(dict.fromkeys(name for row in rows for part in ("sparse", "soft") for name in row[part]["to_ours"]))
    height = 0.55 * len(rows)
    figure = sheet(
        height + 0.75,
        "forward and backward, over our best dispatch of the shape; soft-moe-pytorch over our soft layer",
        "lines: quartiles",
        "rows: T, d, h, E, k",
    )
    axes = place(figure, 1.75, 0.2, 5.1, height)
    step = 0.7 / max(len(names), 1)
    for n, (name, colour) in enumerate(zip(names, EXPERTS, strict=False)):
        for row in rows:
            factor = (row["sparse"]["to_ours"] | row["soft"]["to_ours"]).get(name)
            if factor is None:
                continue
            y = places[id(row)] + 0.35 - step * (n + 0.5)
            axes.plot([factor["low"], factor["high"]], [y, y], color=colour, lw=1.6)
            axes.plot([factor["median"]], [y], color=colour, marker="o", ms=5, lw=0)
    axes.axvline(1, color=INK, lw=1, zorder=1)
    axes.set_yticks(list(places.values()), [shape(row["case"]) for row in rows])
    axes.set_ylim(-len(rows) + 0.5, 0.5)
    axes.grid(False, axis="y")
    for y in range(1, len(rows)):
        axes.axhline(0.5 - y, color="#eceff3", lw=0.8, zorder=0)
    multiples(axes, "x")
    axes.set_xlabel("their time over ours: right of the line ours is faster")
    legend(place(figure, 7.0, 0.2, 1.9, height), list(zip(names, EXPERTS, strict=False)))
    return figure


def scaling(rows: list[dict]) -> Figure:
    """One panel a machine and model: predicted efficiency by devices, one line for each degree along `expert`."""
    rows = [row for row in rows if row["fits"]]
    kinds = list(dict.fromkeys((row["machine"], row["model"]) for row in rows))
    degrees = sorted({row["expert"] for row in rows})
    colours = dict(zip(degrees, EXPERTS, strict=False))
    figure, axes = panels(
        len(kinds), 2, 2.2, "solid: 8,192 tokens a device; dashed: 4 million in all", "what fits into memory"
    )
    for panel, (machine, model) in zip(axes, kinds, strict=True):
        mine = [row for row in rows if (row["machine"], row["model"]) == (machine, model)]
        for expert, way in dict.fromkeys((row["expert"], row["way"]) for row in mine):
            of_line = [row for row in mine if (row["expert"], row["way"]) == (expert, way)]
            points = [row["devices"] for row in of_line], [row["efficiency"] for row in of_line]
            style = {"ls": "-" if way == "weak" else "--", "color": colours[expert], "label": expert}
            panel.plot(*points, **style, lw=1.5, marker="o", ms=3)
        panel.set_title(f"{machine}\n{model}")
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_locator(FixedLocator([8, 64, 512, 4096]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        panel.set(ylim=(0, 1), ylabel="predicted efficiency", xlabel="devices")
        panel.yaxis.set_major_formatter(PERCENT)
    handles = [Line2D([], [], color=colours[expert], lw=1.5, label=expert) for expert in degrees]
    axes[-1].legend(
        handles=handles, title="devices along expert", ncols=3, loc="lower left", frameon=False, labelcolor="linecolor"
    )
    return figure


def shape(case: dict) -> str:
    """T, d, h, E and k of a case, and its skew if it has one."""
    skew = f"\nskew {case['skew']:g}" if case["skew"] else ""
    return ", ".join(str(case[name]) for name in ("tokens", "d", "h", "experts", "k")) + skew


def multiples(axes: Axes, which: str) -> None:
    """A logarithmic axis of factors."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(MULTIPLES))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def legend(axes: Axes, entries: list[tuple[str, str]]) -> None:
    """Names in their colours, in place of a panel."""
    bare(axes)
    axes.set(xticks=[], yticks=[])
    line = 0.2 / axes.get_position().height / axes.figure.get_figheight()  # of 0.2 inches
    for i, (name, colour) in enumerate(entries):
        axes.text(0, 1 - line * i, name, color=colour, va="top")


# name of a benchmark → (heading, its figure)
FIGURES: dict[str, tuple[str, Callable[[list[dict]], Figure]]] = {
    "layers": ("What a layer costs", layers),
    "growth": ("How a layer grows", growth),
    "peers": ("Our layers and other libraries'", peers),
    "scaling": ("How far it would scale", scaling),
}
