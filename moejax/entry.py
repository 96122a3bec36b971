"""Where every command of this project begins and ends: output any terminal takes, sentences, no tracebacks.

Imports nothing heavy, so that it is in charge before the imports that take seconds.
"""

import codecs
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from io import TextIOBase
from typing import NoReturn

from moejax.errors import UserError, of_the_system
from moejax.interrupt import SIGNALS

PROGRAM = "python -m moejax.run"
_PLAIN = str.maketrans("▁▂▃▄▅▆▇█░▒▓━─│×±–—·→’", "12345678:+#=-|x~--.>'") | dict.fromkeys(map(ord, "╭╮╰╯┌┐└┘"), "+")
_PLAIN[ord("…")] = "..."


def run(main: Callable[[], int | None]) -> int:
    """What `main` returns, as an exit code: 2 after sentences on stderr, 130 after Ctrl-C, 141 if nobody reads on."""
    prepare()
    try:
        try:
            return main() or 0
        finally:
            sys.stdout.flush()
    except UserError as error:
        sentences = error.sentences
    except BrokenPipeError:
        discard(sys.stdout)
        return 141
    except OSError as error:
        discard(sys.stdout)
        sentences = (of_the_system(error),)
    except KeyboardInterrupt:
        print("moejax: interrupted", file=sys.stderr)
        return 130
    with contextlib.suppress(OSError):
        print(*(f"moejax: {sentence}" for sentence in sentences), sep="\n", file=sys.stderr, flush=True)
    return 2


def end(code: int) -> NoReturn:
    """End the process. What it was asked for is done, and JAX takes its time to go: a signal comes too late."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def prepare() -> None:
    """Plainer letters where the terminal's encoding lacks ours; figures go to files, whatever is inherited.

    A stream that the process was started without, as by >&-, is one to nowhere.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (it stays open to the end)
    codecs.register_error("moejax.plain", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="moejax.plain")
    os.environ["MPLBACKEND"] = "agg"


def compile_quickly() -> None:
    """Let this process's programs compile in the least time, however they run: what is small compiles far longer."""
    from importlib import metadata  # which takes longer than the rest of this file

    # A program in one piece: of many small pieces, given to threads, each costs more to begin than it gains.
    flags = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    if metadata.version("jaxlib").startswith("0.10."):  # whose newer emitters double the time; later ones have no flag
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])


def discard(stream: TextIOBase) -> None:
    """From now on what is written there goes nowhere, and so does what could not be written."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # unless it is no file
        os.dup2(nowhere.fileno(), stream.fileno())


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end
