"""Each checkpoint and file of a run, compared with what was written."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from moejax import manifest, metrics_log
from moejax.errors import UserError
from moejax.runs.folder import read_config

# The files of a run that do not change once it is finished: no report or figure, which may be drawn anew.
FILES = ("*.json", metrics_log.NAME, "*.npz", "*.csv", "activations/*.csv")


class Found(NamedTuple):
    """One checkpoint or file."""

    name: str  # within the run's folder
    state: Literal["ok", "damaged", "missing", "set aside", "not recorded"]
    said: str = ""

    @property
    def wrong(self) -> bool:
        """Whether it is not what was written."""
        return self.state in ("damaged", "missing")


def own_files(run: Path) -> list[Path]:
    """The files that a finished run's manifest records."""
    return [path for pattern in FILES for path in run.glob(pattern) if path.name != manifest.NAME]


def check_not_own(option: str, path: Path) -> None:
    """UserError if the file is one of a run that cannot be made again, where an option wants to write."""
    file = path.resolve()
    for run in file.parents if file.is_file() else ():
        if not any((run / name).exists() for name in ("checkpoints", metrics_log.NAME)):
            continue
        if file.is_relative_to(run / "checkpoints") or file in (*own_files(run), run / manifest.NAME):
            raise UserError(f"{option} would write over {path}, which a run needs; give another place.")


def verify(run: Path) -> list[Found]:
    """A value for each checkpoint and file; UserError if the folder holds no run.

    The manifest of a finished run tells of all its files. While a run goes on, the newest whole checkpoint tells of the
    log, and nothing of the other files.
    """
    if not (run / "config.json").exists() and not (run / "checkpoints").is_dir():
        raise UserError(f"{run} is not a run folder: it has no config.json; give a folder that moejax run wrote.")
    folders = sorted((run / "checkpoints").glob("*"), key=lambda p: (not p.name.isdecimal(), len(p.name), p.name))
    of_checkpoints = {folder: list(_checkpoint(folder)) for folder in folders}
    whole = [folder for folder, found in of_checkpoints.items() if found[0].state == "ok"]
    found = [one for of_one in of_checkpoints.values() for one in of_one] or [_no_checkpoint(run)]
    rest = _of_finished(run) if (run / manifest.NAME).exists() else _of_unfinished(run, whole[-1] if whole else None)
    return [*found, *rest]


def _no_checkpoint(run: Path) -> Found:
    finished = (run / "summary.json").exists()
    said = "there is none, so nothing can be asked of this run" if finished else "there is none yet"
    return Found("checkpoints", "missing" if finished else "not recorded", said)


def _checkpoint(folder: Path) -> Iterator[Found]:
    """One value if it is whole, else one for each of its files that is not."""
    name = f"{folder.parent.name}/{folder.name}"
    if not folder.name.isdecimal():
        said = "was not written to its end" if folder.suffix == ".partial" else "was found damaged by a resumed run"
        yield Found(name, "set aside", said)
    elif (recorded := manifest.read(folder)) is None:
        yield Found(name, "damaged", f"has no readable {manifest.NAME}")
    elif wrong := [f for f in _compared(recorded["files"], manifest.digests(folder)) if f.state != "ok"]:
        stranger = Found("", "damaged", "was not written by the run")
        for found in wrong:
            yield (found if found.wrong else stranger)._replace(name=f"{name}/{found.name}")
    else:
        accuracy = recorded["accuracy"]
        beside = "" if accuracy is None else f", validation accuracy {accuracy:.2%}"
        yield Found(name, "ok", f"{len(recorded['files'])} files{beside}")


def _compared(recorded: Mapping[str, str], actual: Mapping[str, str]) -> Iterator[Found]:
    for name in sorted(recorded.keys() | actual.keys()):
        if name not in actual:
            yield Found(name, "missing")
        elif name not in recorded:
            yield Found(name, "not recorded")
        elif recorded[name] == actual[name]:
            yield Found(name, "ok")
        else:
            yield Found(name, "damaged", "is not what was written")


def _of_finished(run: Path) -> Iterator[Found]:
    recorded = manifest.read(run)
    if recorded is None:
        yield Found(manifest.NAME, "damaged", "cannot be read; it records the other files")
    yield from _compared(recorded["files"] if recorded else {}, manifest.digests(run, own_files(run)))


def _of_unfinished(run: Path, last: Path | None) -> Iterator[Found]:
    names = {path.relative_to(run).as_posix() for path in own_files(run)} | {"config.json", metrics_log.NAME}
    if "summary.json" in names:
        yield Found(manifest.NAME, "missing", "nothing else tells whether the files of a finished run are whole")
    why = "by a run of an older version" if "summary.json" in names else "the run is not finished"
    for name in sorted(names):
        if name == "config.json":
            yield _config(run)
        elif name == metrics_log.NAME:
            yield _log(run / name, last)
        else:
            yield Found(name, "not recorded", why)


def _config(run: Path) -> Found:
    if not (run / "config.json").exists():
        return Found("config.json", "missing")
    try:
        read_config(run)
    except UserError as error:
        return Found("config.json", "damaged", error.sentences[0])
    return Found("config.json", "ok", "can be read")


def _log(log: Path, last: Path | None) -> Found:
    if not log.exists():
        return Found(log.name, "missing")
    records, problems = metrics_log.read(log)
    if not problems and last and not log.read_bytes().startswith((last / log.name).read_bytes()):
        problems = [f"does not begin as it did at step {last.name}"]
    return Found(log.name, "damaged", problems[0]) if problems else Found(log.name, "ok", f"{len(records)} lines")
