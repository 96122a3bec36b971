"""The pictures of `understanding_moe`: the data, what experts and routers turn to, and the dispatch as it comes about.

Each is a function of arrays; `trace` trains one seed and keeps what they show.
"""

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moejax.config import Config
from moejax.data import clusters
from moejax.report.style import EXPERTS as COLOURS
from moejax.report.style import INK, MUTED, STYLE

POINTS = 800  # examples in a frame of the animation
LABELS = ("#9aa5b5", "#1c2430")


class Trace(NamedTuple):
    """One seed's training, looked at every few steps (n times)."""

    steps: np.ndarray  # [n]
    experts: np.ndarray  # [n, point]: where each of the first training examples was sent
    cluster: np.ndarray  # [point]
    filters: np.ndarray  # [n, e, direction]: the largest |w · direction| of an expert's filters
    router: np.ndarray  # [n, e, direction]: θ · direction


def trace(config: Config, seed: int, every: int, n: int) -> Trace:
    """Train and look; directions are v_1 … v_4, then c_1 … c_4."""
    from experiments.understanding_moe.training import examples, train

    directions = clusters.directions(seed)
    data = {name: array[0, :POINTS] for name, array in examples(config.data.setting, [seed], "train", n).items()}
    sent_to = jax.jit(lambda model: model(data, train=False)[1][0].experts[:, 0, 0])
    kept: list[tuple[np.ndarray, ...]] = []

    def look(step, state):
        model = jax.tree.map(lambda leaf: leaf[0], state.model)
        kernels = np.asarray(model.moe.experts.filters.kernel[...], np.float64)
        filters = np.abs(np.einsum("edf,kd->ekf", kernels, directions)).max(-1)
        router = directions @ np.asarray(model.moe.router.kernel[...], np.float64)
        kept.append((np.int64(step), np.asarray(sent_to(model)), filters, router.T))

    train(config, [seed], n=n, look=look, chunk=every)
    steps, experts, filters, router = map(np.array, zip(*kept, strict=True))
    return Trace(steps, experts, np.asarray(data["cluster"]), filters, router)


def embedding(setting: str, seed: int, n: int) -> Figure:
    """t-SNE of the sums of patches, coloured by cluster and by label."""
    from sklearn.manifold import TSNE

    basis = clusters.directions(seed)
    data = clusters.draw(clusters.SETTINGS[setting], basis, np.random.default_rng([seed, 3]), n)
    at = TSNE(perplexity=min(30, n // 4), init="pca", random_state=0).fit_transform(data["patches"].sum(1))
    figure = Figure(figsize=(9, 4.6))
    for i, (name, colours) in enumerate((("cluster", COLOURS[:4]), ("label", LABELS))):
        axes = figure.add_axes((0.02 + 0.5 * i, 0.02, 0.46, 0.86))
        for value, colour in enumerate(colours):
            mine = data[name] == value
            axes.scatter(*at[mine].T, s=5, color=colour, linewidths=0, label=f"{name} {value + (name == 'cluster')}")
        axes.legend(loc="upper left", ncols=4, frameon=False, markerscale=2.5, bbox_to_anchor=(-0.02, 1.09))
        _bare(axes)
    return figure


def alignment(traces: dict[str, Trace]) -> Figure:
    """Over training: each expert's filters along the features, its router along the centres; a row a kind."""
    rows = [(kind, what) for kind in traces for what in ("filters", "router")]
    pitch, inches = 1.85, 1.85 * len(rows) + 0.55
    figure = Figure(figsize=(9, inches))
    for r, (kind, what) in enumerate(rows):
        t = traces[kind]
        values = t.filters[:, :, :4] if what == "filters" else t.router[:, :, 4:]
        name, low, high = "max |w · v|" if what == "filters" else "θ · c", values.min(), values.max()
        for e in range(values.shape[1]):
            bottom = inches - 0.45 - pitch * (r + 0.83)
            axes = figure.add_axes((0.065 + 0.116 * e, bottom / inches, 0.102, 1.1 / inches))
            for k in range(4):
                axes.plot(t.steps, values[:, e, k], color=COLOURS[k], lw=1.3, label=f"cluster {k + 1}")
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            axes.set_xticks([0, t.steps[-1]], ["0", f"{t.steps[-1]} steps"], ha="right")
            axes.get_xticklabels()[0].set_ha("left")
            if e:
                axes.set_yticklabels([])
            axes.set_title(f"expert {e}", fontsize=7.5, fontweight="normal", color=MUTED)
            if r == e == 0:
                figure.legend(*axes.get_legend_handles_labels(), loc="upper right", ncols=4, frameon=False)
        top = inches - 0.45 - pitch * r
        figure.text(0.065, top / inches, f"{kind} experts: {name}", weight="bold", color=INK, va="center")
    return figure


def animation(traces: dict[str, Trace]) -> list[Figure]:
    """A frame for every look: which of the 8 experts the examples are sent to, coloured by cluster."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-0.4, 0.4, POINTS), rng.uniform(0, 1, POINTS)
    frames = []
    for i in range(max(len(t.steps) for t in traces.values())):
        figure = Figure(figsize=(6.4, 2.1 * len(traces)))
        for r, (kind, t) in enumerate(traces.items()):
            at = min(i, len(t.steps) - 1)  # the one that stopped earlier waits
            axes = figure.add_axes((0.02, 1 - (r + 0.88) / len(traces), 0.96, 0.72 / len(traces)))
            shown = slice(len(t.cluster))
            colours = np.array(COLOURS[:4])[t.cluster]
            axes.scatter(t.experts[at] + x[shown], y[shown], s=7, c=colours, linewidths=0)
            axes.set_xlim(-0.5, 7.5)
            axes.vlines(np.arange(0.5, 7), 0, 1, color="#d5dae1", lw=0.8)
            _bare(axes)
            axes.set_xticks(range(8), [f"expert {e}" for e in range(8)], fontsize=7, color=MUTED)
            axes.set_title(f"{kind} experts, step {t.steps[at]}", fontsize=9)
        frames.append(figure)
    return frames


def save_animation(frames: list[Figure], path: Path) -> None:
    """A GIF of few colours; the last frame stays for a while."""
    from PIL import Image

    images = []
    for frame in frames:
        buffer = BytesIO()
        frame.savefig(buffer, format="png", dpi=90)
        images.append(Image.open(buffer).convert("RGB"))
    palette = images[-1].quantize(24)
    images = [image.quantize(24, palette=palette, dither=Image.Dither.NONE) for image in images]
    pause = [150] * (len(images) - 1) + [3000]
    images[0].save(path, save_all=True, append_images=images[1:], duration=pause, loop=0, optimize=True)


def draw_all(folder: Path, configs: dict[str, Config], n: int, every: int) -> None:
    """All three, of seed 0 of the configurations' setting."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        setting = next(iter(configs.values())).data.setting
        embedding(setting, 0, min(n, 2000)).savefig(folder / "data.png", dpi=110)
        traces = {kind: trace(config, 0, every, n) for kind, config in configs.items()}
        alignment(traces).savefig(folder / "alignment.png", dpi=110)
        save_animation(animation(traces), folder / "dispatch.gif")


def _bare(axes: Axes) -> None:
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
