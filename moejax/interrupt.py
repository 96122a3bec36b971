"""Ctrl-C, SIGTERM and a closed terminal: a run saves what it has trained and stops; before that, it ends at once."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

from moejax.files import drop_unfinished

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_SHOW_CURSOR = b"\x1b[?25h"  # which a live panel hides


class StopSignal:
    """Inside `with`, a first signal sets `requested` and a second one ends the process, each with a sentence.

    After `ends_with` the first one ends it. The process ends as if killed: an exception in the middle of an import or
    a write would do more harm. Signals that the process was told to ignore, as by nohup, stay ignored.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._at_once, self._last_words = False, "stopped at once."

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    def ends_with(self, last_words: str) -> None:
        """From now on a signal, even one that came before, ends the process with this sentence."""
        self._at_once, self._last_words = True, last_words
        if self.number is not None:
            self._end(self.number)

    def asks(self, last_words: str) -> None:
        """From now on a first signal asks, and a second one ends the process with this sentence."""
        self._at_once, self._last_words = False, last_words

    def __enter__(self) -> "StopSignal":
        heeded = [s for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN]
        self._before = {s: signal.signal(s, self._note) for s in heeded}
        # Python calls a handler only after the compiler or a chunk returns, but writes a byte to this socket at once.
        ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        self._theirs.close()  # ends the thread
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.number = self.number or number

    def _listen(self, bytes_of: socket.socket) -> None:
        asked = False
        with bytes_of:
            while arrived := bytes_of.recv(1):
                number = arrived[0]
                if number not in self._before:
                    continue
                self._note(number, None)
                if self._at_once or asked:
                    self._end(number)
                asked = True
                _say("stopping as soon as this chunk of steps is saved; a second signal ends the run at once.")

    def _end(self, number: int) -> None:
        _say(self._last_words)
        drop_unfinished()
        os._exit(128 + number)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Inside, a signal ends the process with a sentence: as an exception, it could come while a library waits."""
    with StopSignal() as stop:
        stop.ends_with("interrupted")
        yield


def _say(sentence: str) -> None:
    """Write to the terminal itself: the signal may have come in the middle of a print."""
    with contextlib.suppress(OSError):  # it was closed
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)
        os.write(2, os.fsencode(f"\nmoejax: {sentence}\n" if os.isatty(2) else f"moejax: {sentence}\n"))
