"""`python -m moejax.run --config mnist_soft`: load the data, train, test, and leave a folder with a report.

What a user can cause ends in sentences on stderr and exit code 2, never in a traceback. `train` does the same in
Python, and returns what the run found.
"""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Nothing that takes long to import: a signal that comes in the middle of an import is answered from `main` on.
from moejax import entry
from moejax.entry import PROGRAM
from moejax.errors import UserError, abridged, of_the_system, path_problem, quoted
from moejax.interrupt import StopSignal
from moejax.training import lifeline

if TYPE_CHECKING:
    from moejax.commandline import Arguments
    from moejax.config import Config
    from moejax.data.dataset import Dataset
    from moejax.training.folder import RunFolder


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    with StopSignal() as stop:
        stop.ends_with("interrupted before anything was saved.")
        return entry.run(lambda: _main(sys.argv[1:] if words is None else words, stop))


def train(what: "Config | str | Sequence[str]", out: str | Path | None = None) -> dict[str, Any]:
    """Train as the command line does; returns what `summary.json` holds, and the run's folder as `run`.

    Args:
      what: a configuration (`moejax.config.make_config`); or the words of a command line, in one text or a list.
      out: the run's folder, as `--out`.

    Raises UserError, with a sentence for each thing that is wrong. Signals are left to the caller: what was saved
    before a KeyboardInterrupt stays, and `train(["--resume", folder])` goes on from there.
    """
    from moejax.commandline import DEBUG_NANS, Arguments, parse
    from moejax.config import Config

    heeds_none = StopSignal()
    into = {} if out is None else {"out": _out(out)}
    if isinstance(what, str | Sequence):
        arguments = parse(_words(what))
        if others := arguments.flags - {DEBUG_NANS}:
            raise UserError(f"--{min(others)} trains nothing; leave it out, or call moejax.run.main.")
        if into and "out" in arguments.options:
            raise UserError(f"out is {into['out']}, and --out is {arguments.options['out']}; give one of the two.")
        summary = _train(arguments._replace(options={**arguments.options, **into}), heeds_none)
    elif isinstance(what, Config):
        summary = _start(what, Arguments(frozenset(), (), into, {}, ()), heeds_none)
    else:
        raise UserError(f"train got {abridged(repr(what))}; give a configuration, or the words of a command line.")
    if summary is None:
        raise UserError("Another process of the run was told to stop, and all have saved what they had.")
    return summary


def _out(path: Any) -> str:
    """A folder's path as text; UserError if it is none."""
    if not isinstance(path, str | Path):
        raise UserError(f"out is {abridged(repr(path))}; give the path of a folder.")
    if problem := path_problem(str(path)):
        raise UserError(f"out is {problem}.")
    return str(path)


def _words(what: str | Sequence[Any]) -> Sequence[str]:
    """The words of a command line; UserError if they are none."""
    if not isinstance(what, str):
        if wrong := [word for word in what if not isinstance(word, str)]:
            raise UserError(f"train got the word {abridged(repr(wrong[0]))}; words of a command line are text.")
        return what
    try:
        return shlex.split(what)
    except ValueError as error:
        raise UserError(f"train got {abridged(repr(what))}, which makes no words: {error}.") from None


@lifeline.told()
def _main(words: Sequence[str], stop: StopSignal) -> int:
    from moejax.commandline import parse

    arguments = parse(words)
    if "help" in arguments.flags:
        from moejax.help import help_text

        print(help_text(arguments.topics))
        return 0
    if "print_config" in arguments.flags:
        from moejax.config import to_json

        print(to_json(_config(arguments)), end="")
        return 0
    finished = _train(arguments, stop) is not None
    return 0 if finished else 128 + (stop.number or signal.SIGTERM)  # another process may have been told


def _config(arguments: "Arguments") -> "Config":
    """What these words would train."""
    from moejax.commandline import check_resume, configure, going_on

    if "resume" not in arguments.options:
        return configure(arguments)
    check_resume(arguments)
    _, config = _opened(arguments)
    return going_on(config, arguments)


def _train(arguments: "Arguments", stop: StopSignal) -> dict[str, Any] | None:
    """Begin a run, or go on with one; its summary, or None if it was stopped."""
    if "resume" in arguments.options:
        return _resume(arguments, stop)
    return _start(_config(arguments), arguments, stop)


def _start(config: "Config", arguments: "Arguments", stop: StopSignal) -> dict[str, Any] | None:
    _prepare_jax(arguments)
    from moejax.files import place_for
    from moejax.training.folder import RunFolder
    from moejax.training.processes import from_first, is_first
    from moejax.training.sizes import check

    profile = _profile(arguments)
    out = arguments.options.get("out", f"runs/{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    out = Path(from_first(out))
    if is_first():
        RunFolder.check_free(out)
        place_for("--out", str(out), folder=True)
    data = _load(config)
    check(config, data)
    folder = RunFolder.create(out, config)
    with kept(out), folder:
        return _run(config, folder, data, stop, resume=False, profile=profile, debug_nans=_debugs_nans(arguments))


def _opened(arguments: "Arguments") -> "tuple[RunFolder, Config]":
    """The run that is to go on, and its configuration so far."""
    from moejax.training.folder import RunFolder

    return RunFolder.open(Path(arguments.options["resume"]))


def _resume(arguments: "Arguments", stop: StopSignal) -> dict[str, Any] | None:
    from moejax.commandline import check_resume, going_on

    check_resume(arguments)
    _prepare_jax(arguments)
    from moejax.runs import checkpoint

    folder, before = _opened(arguments)
    config, path, profile = going_on(before, arguments), folder.path, _profile(arguments)
    with kept(path), folder:
        summary = folder.read_summary()
        if summary is not None and config.train.epochs == before.train.epochs:
            folder.seal()
            print(f"{path} is finished; its report is {_report(path, stop)}")
            return summary | {"run": str(path)}
        if summary is not None and not checkpoint.steps(folder.checkpoints):
            raise UserError(f"{path} is finished, and its checkpoints are gone, so that it cannot go on; begin anew.")
        stop.ends_with(f"stopped before another step; continue with  {PROGRAM} --resume {quoted(path)}")
        data, debug_nans = _load(config), _debugs_nans(arguments)
        return _run(config, folder, data, stop, resume=True, profile=profile, debug_nans=debug_nans)


def _profile(arguments: "Arguments") -> Path | None:
    """Where a trace is asked for; UserError if nothing can be written there."""
    from moejax.files import place_for

    return place_for("--profile", arguments.options["profile"], folder=True) if "profile" in arguments.options else None


def _debugs_nans(arguments: "Arguments") -> bool:
    from moejax.commandline import DEBUG_NANS

    return DEBUG_NANS in arguments.flags


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Inside, an error of the system says also what is saved of the run in `path`, and how to go on."""
    try:
        yield
    except OSError as error:
        raise UserError(of_the_system(error, path), _saved(path)) from None


def _saved(path: Path) -> str:
    from moejax.runs import checkpoint

    if not os.path.exists(path / "config.json"):
        return f"{path} is gone, with all that was saved in it; begin the run again."
    steps = []
    with suppress(OSError):
        steps = checkpoint.steps(path / "checkpoints")
    saved = f"What was saved stays in {path}, up to step {steps[-1]}" if steps else f"No step is saved in {path}"
    return f"{saved}; once that is mended, continue with  {PROGRAM} --resume {quoted(path)}"


def _load(config: "Config") -> "Dataset":
    from moejax.data import load_of
    from moejax.training.processes import agree

    data = load_of(config.data, config.seed)
    agree(config, data)
    return data


def _run(
    config: "Config",
    folder: "RunFolder",
    data: "Dataset",
    stop: StopSignal,
    *,
    resume: bool,
    profile: Path | None,
    debug_nans: bool,
) -> dict[str, Any] | None:
    from jax import process_count

    from moejax.data.dataset import rows
    from moejax.training.fit import Fit
    from moejax.training.processes import part, see, together
    from moejax.training.progress import Console, Progress

    see(folder.path)
    progress = Progress(None if folder.writes else Console(quiet=True))
    sizes = (rows(split) for split in (data.train, data.validation, data.test))
    progress.message(
        "{}: {} from {} ({}), {:,} + {:,} + {:,} examples".format(
            config.name, data.name, data.source, data.origin, *sizes
        )
    )
    for note in data.notes:
        progress.message(f"note: {note}")
    if (count := process_count()) > 1:
        progress.message(
            f"{count} processes: if one dies, the others end within a minute; then start all of them again with"
            f"  {PROGRAM} --resume {quoted(folder.path)}"
        )
    progress.message("compiling ...")
    go_on = f"continue with  {PROGRAM} --resume {quoted(folder.path)}"
    # Of several processes, one that was told goes on until all can stop together.
    ends_with = stop.ends_with if count == 1 else stop.asks
    ends_with(f"stopped before another step; {go_on}")
    with together(folder.path):
        fit = Fit(config, data, folder, progress, debug_nans=debug_nans)
        if resume:
            fit.resume()
            if profile and int(fit.state.step) == fit.steps:
                progress.message("note: no step is left to take, so --profile traces nothing")
        stop.asks(f"stopped at once; from what was saved last, {go_on}")
        if not fit.train(stop, profile):
            progress.message(f"stopped; {go_on}")
            return None
        ends_with(f"stopped before the test was done; {go_on}")
        summary = fit.test()
    part()
    if folder.writes:
        report = _report(folder.path, stop)
        progress.message(
            f"test {_score(summary)} on {summary['test_examples']:,} examples"
            f"  ({summary['parameters']:,} parameters, {summary['seconds']:.0f} s)\nreport: {report}"
        )
    return summary | {"run": str(folder.path)}


def _score(summary: dict[str, Any]) -> str:
    bits = summary.get("test_bits_per_byte")
    return f"accuracy {summary['test_accuracy']:.2%}" if bits is None else f"{bits:.3f} bits a byte"


def _report(path: Path, stop: StopSignal) -> Path:
    """Draw the report of a run that is finished; its path."""
    again = f"the run is finished; draw its report with  python -m moejax report {quoted(path)}"
    stop.ends_with(again)
    from moejax.report import render

    try:
        return render(path)
    except OSError as error:
        raise UserError(of_the_system(error, path), f"But {again}") from None


def _prepare_jax(arguments: "Arguments") -> None:
    """Keep compiled programs between runs, and join other processes; before anything is compiled."""
    import jax

    from moejax.commandline import DEBUG_NANS, PROCESSES
    from moejax.runs.programs import keep_programs
    from moejax.training.processes import connect, same

    keep_programs()
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `StopSignal`
    connect(*(arguments.options.get(name) for name in PROCESSES))
    given = {*arguments.options, *arguments.flags}
    same({f"--{name}": name in given for name in ("resume", "profile", DEBUG_NANS)}, "with the same words")


if __name__ == "__main__":
    entry.end(main())
