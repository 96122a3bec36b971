"""A connection between the processes of a run, beside JAX's own, that tells who is there, who failed and who is gone.

Where another process is missing, late or gone, JAX ends this one by SIGABRT and a stack trace; with a lifeline it ends
with a sentence. The first process listens at the coordinator's address; the others connect to it before they start JAX.
A message is a line of JSON; an empty one is sent every few seconds.
"""

import errno
import json
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from moejax.errors import UserError, of_the_system
from moejax.json_text import read_json

WAIT = 120.0  # seconds until all processes have to be there
WORD = 30.0  # seconds after which a process that still waits says what it waits for
SILENCE = 30.0  # seconds without a message, after which a process counts as gone
BEAT = 5.0  # seconds between two messages

Message = dict[str, Any]

current: "Lifeline | None" = None  # this process's, once there is one


class Peer:
    """A connection to another process."""

    def __init__(self, connection: socket.socket, process: int):
        self.connection, self.process = connection, process
        self.lines = connection.makefile("r", encoding="utf-8")
        self.writing = threading.Lock()

    def send(self, message: Message) -> None:
        """Send it; nothing happens if the connection is gone."""
        with self.writing, suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Message | None:
        """The next message; None at the end of the connection. Raises TimeoutError after a silence."""
        try:
            line = self.lines.readline()
            return read_json(line) if line.endswith("\n") else None
        except TimeoutError:
            raise
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """End the connection."""
        self.lines.close()
        self.connection.close()


class Lifeline:
    """What this process knows of the others, from the moment when all are there."""

    def __init__(self, process: int, count: int, peers: Sequence[Peer]):
        self.process, self.count, self.peers = process, count, peers
        self.advice = ""  # what to do when another process is gone
        self.ending = threading.Lock()  # held by who ends this process
        for peer in peers:
            peer.connection.settimeout(SILENCE)
            threading.Thread(target=self._listen, args=(peer,), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def say(self, message: Message) -> None:
        """Send a message to all connected processes."""
        for peer in self.peers:
            peer.send(message)

    def end(self, code: int, message: Message, sentences: Sequence[str]) -> NoReturn:
        """Tell the others, print the sentences, and end without JAX's farewell, which waits for those that are gone.

        Waits forever if another thread is ending this process already.
        """
        self.ending.acquire()
        self.say(message)
        _say(sentences)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        for peer in self.peers:
            with suppress(OSError):
                peer.connection.shutdown(socket.SHUT_WR)
        time.sleep(0.2)  # the others read what was sent before the connection breaks
        os._exit(code)

    def _listen(self, peer: Peer) -> None:
        """Read a process's messages until it says goodbye; end this process if that one fails or is gone."""
        name, message = f"process {peer.process} of {self.count}", {}
        while not message.get("bye"):
            try:
                message = peer.receive()
            except TimeoutError:
                message = {"gone": f"{name} has not been heard of for {SILENCE:.0f} seconds"}
            if message is None:
                message = {"gone": f"{name} is gone"}
            if "failed" in message:
                self.end(2, message, message["failed"])
            if "gone" in message:
                self.end(1, message, [f"{message['gone']}, so this one stops as well{self.advice}."])

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            self.say({})


@contextmanager
def told() -> Iterator[None]:
    """Inside, an exception ends all processes at once: of a UserError or OSError each says the sentences."""
    try:
        yield
    except UserError as error:
        fail(error.sentences)
        raise
    except OSError as error:
        fail((of_the_system(error),))
        raise
    except Exception as error:
        if current is not None:
            time.sleep(BEAT)  # if an exchange failed since another one is gone, this process ends here
            traceback.print_exc()
            fail([f"{type(error).__name__}: {first_line(error)}"])
        raise


def first_line(error: Exception) -> str:
    """Of what it says."""
    return (str(error).splitlines() or [""])[0]


def fail(sentences: Sequence[str]) -> None:
    """End this process and all others with these sentences; does nothing if there are no others."""
    if current is not None:
        who = f"process {current.process} of {current.count} stopped: "
        current.end(2, {"failed": [who + sentence for sentence in sentences]}, sentences)


def _say(sentences: Sequence[str]) -> None:
    with suppress(OSError, ValueError):  # the terminal may be gone
        print(*(f"moejax: {sentence}" for sentence in sentences), sep="\n", file=sys.stderr, flush=True)


def listen(port: int, count: int) -> tuple[Lifeline, int]:
    """As the first process: wait for the others, and send them a free port for JAX. Returns the lifeline and that port.

    UserError if the port is taken, or a process does not come in time.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=count)
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "another program uses it" if taken else getattr(error, "strerror", None) or error
        raise UserError(
            f"--coordinator names port {port}, which this machine cannot listen at: {reason}; choose another one."
        ) from None
    peers: dict[int, Peer] = {}
    waiting = _Waiting()
    with listener:
        while len(peers) < count - 1:
            listener.settimeout(waiting.seconds())
            try:
                peer = _greeted(listener.accept()[0], count)
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, count) if i not in peers)
                if not waiting.ends(f"of {count} processes, number {missing} did not come yet"):
                    continue
                raise _refused(
                    peers.values(),
                    f"Of {count} processes, number {missing} did not come within {WAIT:.0f} seconds; start all of them"
                    " with the same --coordinator and --processes.",
                ) from None
            if peer is None:
                continue
            if peer.process in peers or not 0 < peer.process < count:
                raise _refused(
                    (*peers.values(), peer),
                    f"Two processes call themselves --process {peer.process}; give each a number of its own, from 0 to"
                    f" {count - 1}.",
                )
            peers[peer.process] = peer
    with socket.create_server(("", 0)) as free:
        jax_port = free.getsockname()[1]
    for peer in peers.values():
        peer.send({"jax": jax_port})
    return Lifeline(0, count, tuple(peers.values())), jax_port


def call(host: str, port: int, process: int, count: int) -> tuple[Lifeline, int]:
    """As another process: connect to the first one. Returns the lifeline and the first one's port for JAX.

    UserError if it does not answer, or refuses this process.
    """
    waiting = _Waiting()
    peer = Peer(_connected(host, port, waiting), 0)
    peer.send({"process": process, "of": count})
    peer.connection.settimeout(max(waiting.end - time.monotonic(), 1.0) + SILENCE)  # the first one began later
    try:
        message = peer.receive()
    except TimeoutError:
        message = None
    if isinstance(message, dict) and "jax" in message:
        return Lifeline(process, count, (peer,)), message["jax"]
    peer.close()
    if isinstance(message, dict) and "failed" in message:
        raise UserError(*message["failed"])
    raise UserError(
        f"What listens at --coordinator {host}:{port} is not the first process, or went away again; start all of them"
        " anew with another port."
    )


def _greeted(connection: socket.socket, count: int) -> Peer | None:
    """Who has connected; None if that is no process of a run. UserError if its run has another number of processes."""
    connection.settimeout(BEAT)
    peer = Peer(connection, -1)
    with suppress(TimeoutError):
        message = peer.receive()
        if isinstance(message, dict) and isinstance(message.get("process"), int):
            peer.process = message["process"]
            if message.get("of") != count:
                raise _refused(
                    [peer],
                    f"--processes is {count} here, but {message.get('of')} for process {peer.process}; give the same.",
                )
            return peer
    peer.close()
    return None


def _refused(peers: Any, sentence: str) -> UserError:
    """The error for this process; sends it to the others as well."""
    for peer in peers:
        peer.send({"failed": [sentence]})
        peer.close()
    return UserError(sentence)


class _Waiting:
    """The time until all processes have to be there; on its way a sentence says what is missing."""

    def __init__(self) -> None:
        self.end, self.word = time.monotonic() + WAIT, time.monotonic() + WORD

    def seconds(self) -> float:
        """How long to wait before `ends` is asked again."""
        return max(min(self.end, self.word) - time.monotonic(), 0.1)

    def ends(self, missing: str) -> bool:
        """Whether the time is over."""
        now = time.monotonic()
        if self.word <= now < self.end:
            self.word = math.inf
            print(f"moejax: {missing}; waiting {self.end - now:.0f} seconds more", file=sys.stderr, flush=True)
        return now >= self.end


def _connected(host: str, port: int, waiting: _Waiting) -> socket.socket:
    """A connection, as soon as somebody listens there."""
    while True:
        try:
            return socket.create_connection((host, port), timeout=waiting.seconds())
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            if isinstance(error, OverflowError) or waiting.ends(f"nobody answers at {host}:{port} yet ({reason})"):
                raise UserError(
                    f"Nobody answers at --coordinator {host}:{port} ({reason}), where the first process should be;"
                    " start it, or see that this machine can reach it."
                ) from None
            time.sleep(0.2)


def relay(host: str, port: int) -> int:
    """A port of this machine that forwards to host:port, and stays open when that end is gone.

    JAX's client ends its process by SIGABRT as soon as it loses its coordinator. Behind a relay it notices only by
    missing heartbeats, and before that the lifeline has ended the process with a sentence.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            near = listener.accept()[0]
            with suppress(UserError):
                far = _connected(host, port, _Waiting())
                far.settimeout(None)
                threading.Thread(target=_pump, args=(near, far), daemon=True).start()
                threading.Thread(target=_pump, args=(far, near), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
