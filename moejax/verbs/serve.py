"""`moejax serve RUN`: a live page of a run: draw a digit, or type sentences or code, and see who takes it.

moejax serve runs/mnist_soft-20260101-120000
moejax serve runs/mnist_sparse-20260101-120000 --port 9000 --checkpoint best

It shows the probabilities and which experts take which part of the input; for sparse layers k and the capacity factor
can be moved. A language model goes on with what is typed. Only this machine can reach it, unless --host says otherwise.
Ctrl-C ends it, with exit code 0.
"""

from collections.abc import Sequence

from moejax.errors import require_libraries
from moejax.interrupt import ends_at_once
from moejax.verbs.parser import Parser


def parser() -> Parser:
    """A run, and where its page is."""
    parser = Parser("serve", __doc__)
    parser.add_run()
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1: this machine)"
    )
    parser.add_argument("--port", type=int, default=8000, help="its port (default 8000; 0 for any that is free)")
    parser.add_checkpoint()
    return parser


def main(words: Sequence[str]) -> None:
    """Serve the page until Ctrl-C."""
    asked = parser().parse_args(words)
    require_libraries("serve", "starlette", "uvicorn")
    from moejax.serve import listen

    with listen.listening(asked.host, asked.port) as sock:
        with ends_at_once():
            from moejax.runs import load
            from moejax.runs.programs import keep_programs
            from moejax.serve.app import application
            from moejax.serve.service import Service

            keep_programs()
            service = Service(load(asked.run, asked.checkpoint), asked.run.absolute().name)
        print(f"{asked.run} is at {listen.address(sock)} until Ctrl-C", flush=True)
        listen.until_stopped(application(service, listen.names(asked.host)), sock)
    count = service.answered
    print(f"stopped; {count:,} {'question' if count == 1 else 'questions'} had an answer.")
