"""A run's folder: what is written while it trains, so that a run can be watched, resumed and reported from files alone.

.lock config.json env.json metrics.jsonl train_metrics.csv validation_metrics.csv test_metrics.csv routing.npz
summary.json checkpoints/ activations/ figures/ report.html
"""

import importlib.metadata
import io
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
from numpy import ndarray

from moejax import metrics_log
from moejax.config import Config, from_json, to_json
from moejax.errors import UserError, of_the_system
from moejax.files import write_whole
from moejax.kernels.blas_threads import cores
from moejax.training.processes import is_first


class RunFolder:
    """Paths of a run, and writes that leave either the old file or the new one; of several processes, by the first.

    Inside `with`, no other process can be there on this folder; the lock dies with its process.
    """

    def __init__(self, path: Path):
        self.path, self.writes = path, is_first()
        self.checkpoints = path / "checkpoints"
        self._lock = filelock.FileLock(path / ".lock", timeout=0)

    def __enter__(self) -> "RunFolder":
        try:
            if self.writes:
                self._lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"Another process is writing {self.path}; wait until it ends, or stop it and continue with"
                f" --resume {self.path}."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @classmethod
    def create(cls, path: Path, config: Config) -> "RunFolder":
        """Begin a run; UserError if the folder already holds one or cannot be written."""
        folder = cls(path)
        if not folder.writes:
            return folder
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with folder:
                cls.check_free(path)
                folder._write("env.json", json.dumps(environment(), indent=2) + "\n")
                folder._write(metrics_log.NAME, "")
                folder._write("config.json", to_json(config))  # last: with it, the folder is a run
        except OSError as error:
            raise UserError(f"Cannot write to --out {path}: {of_the_system(error)}") from None
        return folder

    @staticmethod
    def check_free(path: Path) -> None:
        """UserError if the folder already holds a run."""
        if (path / "config.json").exists():
            raise UserError(f"{path} already holds a run; continue it with --resume {path} or choose another --out.")
        if (path / "checkpoints").exists():
            raise UserError(f"{path} holds the checkpoints of a run without its config.json; choose another --out.")

    @classmethod
    def open(cls, path: Path) -> tuple["RunFolder", Config]:
        """Come back to a run; UserError if the folder is none."""
        file = path / "config.json"
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{path} is not a run folder: it has no readable config.json.") from None
        config, problems = from_json(text, str(file))
        if problems:
            raise UserError(*problems)
        return cls(path), config

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

    def rewind(self, log: bytes) -> bool:
        """Put metrics.jsonl back to what it was; False if it did not begin so, and was damaged."""
        file = self.path / metrics_log.NAME
        whole = (file.read_bytes() if file.exists() else b"").startswith(log)
        self._write(metrics_log.NAME, log.decode())
        return whole

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """The run's results; its presence says that the run is finished."""
        self._write("summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")

    def read_summary(self) -> dict[str, Any] | None:
        """None while the run is unfinished; UserError if it cannot be read."""
        file = self.path / "summary.json"
        if not file.exists():
            return None
        try:
            summary = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            summary = None
        if not isinstance(summary, dict):
            raise UserError(f"{file} is not what was written; delete it, and --resume {self.path} writes it again.")
        return summary

    def write_routing(self, arrays: Mapping[str, ndarray]) -> None:
        """routing.npz, whole."""
        if not self.writes:
            return
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        write_whole(self.path / "routing.npz", content.getvalue())

    def read_routing(self) -> dict[str, ndarray]:
        """routing.npz as it stands; empty if there is none yet."""
        file = self.path / "routing.npz"
        if not file.exists():
            return {}
        with np.load(file) as arrays:
            return dict(arrays)

    def write_table(self, name: str, text: str) -> None:
        """A CSV file."""
        self._write(name, text)

    def _write(self, name: str, text: str) -> None:
        if not self.writes:
            return
        file = self.path / name
        if file.parent != self.path:
            file.parent.mkdir(exist_ok=True)
        write_whole(file, text)


def environment() -> dict[str, str | int]:
    """What a figure depends on besides the config: versions, device, cores, commit."""
    packages = ("moejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    device = jax.devices()[0]
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "platform": platform.platform(),
        "device": describe_device(),
        "device_count": jax.device_count(),
        "backend": device.platform,
        "cores": cores(),
        "commit": _commit(),
    }


def describe_device() -> str:
    """The first device in words: its kind, and for a CPU its model, its widest vector instructions and its cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    try:
        cpu = describe_cpu(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        cpu = ""
    return f"cpu ({cpu or platform.processor() or platform.machine()}, {cores()} core{'s' * (cores() != 1)})"


def describe_cpu(cpuinfo: str) -> str:
    """Model and vector instructions in what Linux says of a CPU: a model's name may stand for several generations."""
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    said = {field.strip(): value.strip() for field, _, value in lines}
    flags = said.get("flags", "").split()
    vectors = [words for flag, words in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags][:1]
    return ", ".join([said["model name"], *vectors]) if "model name" in said else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    source = Path(__file__).parent
    try:
        command = ["git", "-C", source, "describe", "--always", "--dirty"]
        git = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    return git.stdout.strip() or "unknown"
