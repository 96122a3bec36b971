"""A run folder drawn as figures and one self-contained HTML page: `render`."""

from pathlib import Path

__all__ = ["render"]


def render(run_dir: Path) -> Path:
    """Draw `figures/*.png` and `report.html` from the files of a finished or interrupted run.

    Each file is replaced whole: who looks while it is drawn sees the old one. A figure whose data the run does not have
    is left out, and the page says so.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: `run_dir` is no run folder.
    """
    from moejax.report.drawing import draw  # not before: its imports take a second

    return draw(run_dir)
