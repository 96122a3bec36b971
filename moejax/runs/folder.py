"""A run's folder, read."""

from pathlib import Path

from moejax import manifest
from moejax.config import Config, from_json
from moejax.errors import UserError


def read_config(run: Path) -> Config:
    """A run's configuration; UserError if the folder holds no run."""
    file = run / "config.json"
    content, problem = manifest.content(file)
    if problem == manifest.CHANGED:
        raise UserError(
            f"{file} {problem}; set it back, or, if you have changed it on purpose, delete {run / manifest.NAME}."
        )
    try:
        text = (b"\xff" if content is None else content).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{run} is not a run folder: it has no readable config.json.") from None
    config, problems = from_json(text, str(file))
    if problems:
        raise UserError(*problems)
    return config
