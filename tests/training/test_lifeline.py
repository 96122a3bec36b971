"""The line between processes: who does not come, fails, dies or falls silent is one sentence in all of them, soon."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest

from moejax.errors import UserError
from moejax.training import lifeline


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lifeline, "WAIT", 1.0)
    monkeypatch.setattr(lifeline, "SILENCE", 1.0)


def test_where_nobody_listens_is_one_sentence_in_time(port):
    start = time.monotonic()
    with pytest.raises(UserError, match=f"Nobody answers at --coordinator localhost:{port} .*refused"):
        lifeline.call("localhost", port, 1, 2)
    with pytest.raises(UserError, match=r"Nobody answers at --coordinator no-such-host\.invalid:1"):
        lifeline.call("no-such-host.invalid", 1, 1, 2)
    assert time.monotonic() - start < 30


def test_a_port_in_use_is_one_sentence():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"names port {port}, .* another program uses it; choose another one"):
            lifeline.listen(port, 2)


def test_those_who_do_not_come_are_named(port):
    with pytest.raises(UserError, match=r"Of 3 processes, number 1, 2 did not come within 1 seconds"):
        lifeline.listen(port, 3)


def test_who_waits_says_on_the_way_what_is_missing(port, monkeypatch, capsys):
    monkeypatch.setattr(lifeline, "WORD", 0.2)
    with pytest.raises(UserError):
        lifeline.listen(port, 3)
    assert re.search(r"moejax: of 3 processes, number 1, 2 did not come yet; waiting 1 sec", capsys.readouterr().err)
    with pytest.raises(UserError):
        lifeline.call("localhost", port, 1, 3)
    assert re.search(rf"moejax: nobody answers at localhost:{port} yet \(.*refused\); waiting", capsys.readouterr().err)


def test_an_exchange_that_fails_since_another_process_is_gone_is_left_to_the_lifeline(monkeypatch):
    """It ends this process while `told` waits; whatever else escapes is told to the others."""
    ended = []
    monkeypatch.setattr(lifeline, "BEAT", 0.0)
    monkeypatch.setattr(
        lifeline, "current", types.SimpleNamespace(process=1, count=2, end=lambda *how: ended.append(how))
    )
    with pytest.raises(RuntimeError), lifeline.told():
        raise RuntimeError("Gloo AllGather failed\nby peer")
    [(code, message, sentences)] = ended
    assert code == 2
    assert sentences == ["RuntimeError: Gloo AllGather failed"]
    assert message == {"failed": ["process 1 of 2 stopped: RuntimeError: Gloo AllGather failed"]}


@pytest.mark.parametrize(
    ("greetings", "sentence"),
    [
        ([(1, 3)], r"--processes is 4 here, but 3 for process 1; give the same\."),
        ([(1, 4), (1, 4)], r"Two processes call themselves --process 1; give each a number of its own, from 0 to 3\."),
        ([(4, 4)], "--process 4"),
    ],
)
def test_processes_that_do_not_belong_together_are_one_sentence_in_both(port, greetings, sentence):
    raised = []

    def attempt(f, *arguments):
        with pytest.raises(UserError) as error:
            f(*arguments)
        raised.append(str(error.value))

    threads = [threading.Thread(target=attempt, args=(lifeline.listen, port, 4))]
    threads += [threading.Thread(target=attempt, args=(lifeline.call, "localhost", port, *who)) for who in greetings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(raised) == len(threads)
    assert len(set(raised)) == 1
    assert re.search(sentence, raised[0])


@pytest.mark.parametrize("answer", [b"220 ready\r\n", b"[" * 100_000 + b"\n"], ids=["mail", "deep"])
def test_what_is_no_process_is_not_counted_and_not_obeyed(port, answer):
    """A port scanner at the first process; and a server of another kind in its place."""

    def scan():
        for _ in range(100):
            try:
                with socket.create_connection(("localhost", port)) as scanner:
                    return scanner.sendall(b"GET / HTTP/1.1\r\n\r\n")
            except OSError:
                time.sleep(0.01)

    threading.Thread(target=scan).start()
    with pytest.raises(UserError, match="number 1 did not come"):
        lifeline.listen(port, 2)
    with socket.create_server(("", 0)) as other:

        def greet():
            with other.accept()[0] as caller:
                caller.sendall(answer)
                caller.recv(100)

        threading.Thread(target=greet).start()
        with pytest.raises(UserError, match="is not the first process"):
            lifeline.call("localhost", other.getsockname()[1], 1, 2)


PROCESS = """
import sys, time
from moejax.training import lifeline
port, process = map(int, sys.argv[1:3])
lifeline.BEAT, lifeline.SILENCE = 0.2, 2.0
line, _ = lifeline.call("localhost", port, process, 3) if process else lifeline.listen(port, 3)
lifeline.current, line.advice = line, "; start all of them again with --resume here"
print("ready", flush=True)
sys.stdin.readline()
if len(sys.argv) > 3:
    lifeline.fail(["moe.k is 0."])
time.sleep(30)
"""


@pytest.mark.parametrize("culprit", [0, 2])
@pytest.mark.parametrize("end", ["fails", "is killed", "falls silent"])
def test_the_end_of_one_is_a_sentence_in_all(port, culprit, end):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(port), str(i), *(["fail"] if (end, i) == ("fails", culprit) else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    try:
        assert [process.stdout.readline() for process in started] == ["ready\n"] * 3
        if end == "fails":
            started[culprit].stdin.write("\n")
            started[culprit].stdin.flush()
        else:
            os.kill(started[culprit].pid, signal.SIGKILL if end == "is killed" else signal.SIGSTOP)
        sentences = {
            "fails": f"moejax: process {culprit} of 3 stopped: moe.k is 0.\n",
            "is killed": f"moejax: process {culprit} of 3 is gone, so this one stops as well; start all",
            "falls silent": f"moejax: process {culprit} of 3 has not been heard of for 2 seconds, so this one stops",
        }
        for i in {0, 1, 2} - {culprit}:
            _, err = started[i].communicate(timeout=10)
            assert started[i].returncode == (2 if end == "fails" else 1), err
            assert err.startswith(sentences[end])
            assert err.count("\n") == 1
    finally:
        for process in started:
            process.kill()
            process.communicate()
