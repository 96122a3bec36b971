"""A run folder drawn as figures and one self-contained HTML page: `render`."""

from pathlib import Path

__all__ = ["render"]


def render(run_dir: Path) -> Path:
    """Draw `figures/*.png` and `report.html` from the files of a finished or interrupted run; the path of the page.

    Each file is replaced in one step. A figure whose data the run does not have is left out, and the page says so.
    UserError if `run_dir` is no run folder.
    """
    from moejax.report.drawing import draw  # imported here, since that takes a second
    from moejax.report.record import read

    return draw(run_dir, read(run_dir))
