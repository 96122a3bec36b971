"""A run's folder, read."""

from pathlib import Path

from moejax.config import Config, from_json
from moejax.errors import UserError


def read_config(run: Path) -> Config:
    """A run's configuration; UserError if the folder holds no run."""
    file = run / "config.json"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{run} is not a run folder: it has no readable config.json.") from None
    config, problems = from_json(text, str(file))
    if problems:
        raise UserError(*problems)
    return config
