"""A run's folder: the files by which a run can be watched, resumed and reported.

.lock config.json env.json data.json metrics.jsonl train_metrics.csv validation_metrics.csv test_metrics.csv routing.npz
predictions.npz summary.json sha256.json init.json checkpoints/ activations/ figures/ report.html
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moejax import manifest, metrics_log
from moejax.config import Config, to_json
from moejax.config.training import TrainOptions
from moejax.errors import UserError, cannot_write, quoted
from moejax.files import make_folder, one_writer, sweep, write_whole
from moejax.runs.folder import read_config
from moejax.runs.verify import own_files
from moejax.training import beginning
from moejax.training.environment import environment, products_of
from moejax.training.processes import is_first


class RunFolder:
    """A run's files. Whatever happens during a write, the old file or the new one is there, whole.

    Of several processes the first alone writes. `with` locks the folder against other runs; the lock ends with its
    process, however that ends.
    """

    def __init__(self, path: Path):
        self.path, self.writes = path, is_first()
        self.checkpoints = path / "checkpoints"
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "RunFolder":
        if self.writes:
            with contextlib.ExitStack() as held:
                held.enter_context(one_writer(self.path, f"continue with --resume {quoted(self.path)}"))
                for folder in (self.path, self.path / "activations", self.path / "figures"):
                    sweep(folder)
                self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @classmethod
    def create(cls, path: Path, config: Config) -> "RunFolder":
        """Begin a run; UserError if the folder already holds one or cannot be written."""
        folder = cls(path)
        if not folder.writes:
            return folder
        cls.check_free(path)
        try:
            make_folder(path)
            with folder:
                cls.check_free(path)
                folder.write("env.json", json.dumps(environment() | products_of(config), indent=2) + "\n")
                folder.write(metrics_log.NAME, "")
                folder.write("config.json", to_json(config))  # last: with it, the folder is a run
        except OSError as error:
            raise cannot_write("--out", path, error) from None
        return folder

    @staticmethod
    def check_free(path: Path) -> None:
        """UserError if the folder already holds a run."""
        if (path / "config.json").exists():
            raise UserError(
                f"{path} already holds a run; continue it with --resume {quoted(path)} or choose another --out."
            )
        if any(saved.name.isdecimal() for saved in (path / "checkpoints").glob("*")):
            raise UserError(f"{path} holds the checkpoints of a run without its config.json; choose another --out.")

    @classmethod
    def open(cls, path: Path) -> tuple["RunFolder", Config]:
        """An existing run and its configuration; UserError if the folder holds none."""
        return cls(path), read_config(path)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        if not self.writes:
            return
        with open(self.path / metrics_log.NAME, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, in their order; UserError if a line but the last is not what was written."""
        records, problems = metrics_log.read(self.path / metrics_log.NAME)
        if problems:
            raise UserError(*problems)
        return records

    def rewind(self, log: bytes, *, keep_tests: bool = False) -> bool:
        """Cut metrics.jsonl back to an earlier content; False if it did not begin with that, so it was damaged.

        `keep_tests`: but for the lines on the test examples that follow it.
        """
        if self.writes:
            (self.path / manifest.NAME).unlink(missing_ok=True)  # from now on files change
        file = self.path / metrics_log.NAME
        content = file.read_bytes() if file.exists() else b""
        whole = content.startswith(log)
        later = metrics_log.tests(content[len(log) :]) if whole and keep_tests else b""
        self.write(metrics_log.NAME, log + later)
        return whole

    def go_on_as(self, train: TrainOptions) -> None:
        """Let config.json say so many epochs, and skipped steps; a run that goes on for longer is not finished."""
        if not self.writes:
            return
        config = read_config(self.path)
        if config.train.epochs != train.epochs:
            (self.path / "summary.json").unlink(missing_ok=True)  # first: a kill in between leaves the shorter run
        now = config.replace(train={"epochs": train.epochs, "skip_nonfinite": train.skip_nonfinite})
        if now != config:
            self.write("config.json", to_json(now))

    def begins_from(self, record: Mapping[str, Any]) -> None:
        """Write init.json; UserError if it says that the run began from something else."""
        before = self.beginning()
        if before and before["sha256"] != record["sha256"]:
            raise UserError(
                f"{self.path} began from step {before['step']} of {before['run']}, which is not what it was; start"
                " another run."
            )
        self.write(beginning.NAME, json.dumps(record, indent=2) + "\n")

    def beginning(self) -> dict[str, Any] | None:
        """The run, step and digest that this one began from; None if it began anew. UserError if it is damaged."""
        file = self.path / beginning.NAME
        record, problem = manifest.object_in(file) if file.exists() else (None, "")
        if problem or (record is not None and record.keys() != beginning.KEYS):
            raise UserError(
                f"{file} {problem or manifest.CHANGED}; delete it, and the run goes on without saying what it"
                " began from."
            )
        return record

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """The run's results; its presence says that the run is finished. Then the manifest of the run's files."""
        self.check_there()
        self.write("summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
        self.seal()

    def check_there(self) -> None:
        """OSError if the run was deleted meanwhile, or so much of it that it could not go on."""
        if self.writes:
            (self.path / "config.json").stat()

    def seal(self) -> None:
        """Write the manifest of a finished run's files, unless it is there: a kill may have come before it."""
        if self.writes and not (self.path / manifest.NAME).exists():
            manifest.write(self.path, own_files(self.path))

    def read_summary(self) -> dict[str, Any] | None:
        """None while the run is unfinished; UserError if it cannot be read."""
        file = self.path / "summary.json"
        summary, problem = manifest.object_in(file) if file.exists() else (None, "")
        if problem:
            raise UserError(f"{file} {problem}; delete it, and --resume {quoted(self.path)} writes it again.")
        return summary

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file, if this is the process that writes."""
        if not self.writes:
            return
        file = self.path / name
        if file.parent != self.path and self.path.is_dir():  # a run's folder that is gone is an error
            make_folder(file.parent)
        write_whole(file, content)
