"""`python -m moejax.run --config mnist_soft`: load the data, train, test, and leave a folder with a report.

What a user can cause ends in sentences on stderr and exit code 2, never in a traceback.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from moejax.commandline import (
    PROCESSES,
    PROGRAM,
    Arguments,
    check_resume,
    configure,
    on_these_devices,
    parse,
    print_help,
)
from moejax.config import Config, to_json
from moejax.errors import UserError


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        return _main(sys.argv[1:] if words is None else words)
    except UserError as error:
        print(*(f"moejax: {sentence}" for sentence in error.sentences), sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moejax: interrupted", file=sys.stderr)
        return 130


def _main(words: Sequence[str]) -> int:
    arguments = parse(words)
    if "help" in arguments.flags:
        print_help()
        return 0
    if "resume" in arguments.options:
        return _resume(Path(arguments.options["resume"]), arguments)
    config = configure(arguments)
    if "print_config" in arguments.flags:
        print(to_json(config), end="")
        return 0
    out = arguments.options.get("out", f"runs/{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    return _start(config, out, arguments)


def _start(config: Config, out: str, arguments: Arguments) -> int:
    _prepare_jax(arguments)
    from moejax.training.folder import RunFolder
    from moejax.training.processes import from_first, is_first
    from moejax.training.sizes import check

    out = Path(from_first(out))
    if is_first():
        RunFolder.check_free(out)
    data = _load(config)
    check(config, data)
    return _run(config, RunFolder.create(out, config), data, resume=False)


def _resume(path: Path, arguments: Arguments) -> int:
    check_resume(arguments)
    _prepare_jax(arguments)
    from moejax.training.folder import RunFolder

    folder, config = RunFolder.open(path)
    config = on_these_devices(config, arguments)
    if folder.read_summary() is not None:
        from moejax.report import render

        print(f"{path} is finished; its report is {render(path)}")
        return 0
    return _run(config, folder, _load(config), resume=True)


def _load(config: Config):
    from moejax.data import OPTIONS, load
    from moejax.data.dataset import first

    d = config.data
    options = {name: getattr(d, name) for name in OPTIONS.get(d.name, ())}
    data = load(d.name, source=d.source, directory=d.dir, validation=d.validation, seed=config.seed, **options)
    return first(data, d.limit, d.evaluation_limit)


def _run(config: Config, folder, data, *, resume: bool) -> int:
    from jax import process_count

    from moejax.data.dataset import rows
    from moejax.training.fit import Fit
    from moejax.training.interrupt import StopSignal
    from moejax.training.processes import together
    from moejax.training.progress import Console, Progress

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
            f"  {PROGRAM} --resume {folder.path}"
        )
    progress.message("compiling ...")
    with StopSignal() as stop, together(folder.path):
        fit = Fit(config, data, folder, progress)
        if resume:
            fit.resume()
        if not fit.train(stop):
            progress.message(f"stopped; continue with  {PROGRAM} --resume {folder.path}")
            return 128 + (stop.number or signal.SIGTERM)  # another process may have been told
        summary = fit.test()
    if not folder.writes:
        return 0
    from moejax.report import render  # not before: it takes a second that the first step need not wait for

    report = render(folder.path)
    progress.message(
        f"test accuracy {summary['test_accuracy']:.2%} on {summary['test_examples']:,} examples"
        f"  ({summary['parameters']:,} parameters, {summary['seconds']:.0f} s)\nreport: {report}"
    )
    return 0


def _prepare_jax(arguments: Arguments) -> None:
    """Keep compiled programs between runs, and join other processes; before anything is compiled."""
    import jax

    from moejax.data.find import cache_folder
    from moejax.training.processes import connect

    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder("xla"))
    jax.config.update("jax_compilation_cache_dir", programs)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    connect(*(arguments.options.get(name) for name in PROCESSES))


if __name__ == "__main__":
    sys.exit(main())
