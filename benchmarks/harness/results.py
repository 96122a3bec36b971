"""Where a benchmark's numbers go: `benchmarks/results/<device>/<name>.json`, with versions, device and commit.

Beside it stands `<name>.md`, the table that the benchmark makes of them; the READMEs that show it get the new one.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import readmes
from moejax.errors import UserError
from moejax.files import write_whole
from moejax.training.environment import environment

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"


# Taken once, when measuring begins: what is committed meanwhile is not measured.
machine = functools.cache(environment)


def write(name: str, rows: list[Mapping[str, Any]], table: str, *, device: str | None = None, **settings: Any) -> Path:
    """Write the rows of one benchmark and the table of them; returns the file of rows.

    `device` is said of what was not measured on this one.
    """
    env = machine() if device is None else machine() | {"device": device}
    folder = re.sub(r"[^a-z0-9]+", "-", str(env["device"]).lower()).strip("-")
    path = RESULTS / folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"settings": settings, "rows": rows, "environment": env}, indent=1) + "\n")
    write_whole(path.with_suffix(".md"), table)
    readmes.write(ROOT)
    return path


def read(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of a results file, and the device that they were measured on.

    Raises:
      UserError: it is none.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        rows, device = results["rows"], str(results["environment"]["device"])
        if not (rows and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise ValueError("no rows")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is no results file of a benchmark; name one of benchmarks/results/*/*.json.") from None
    return rows, device
