"""A socket, and the server on it until Ctrl-C."""

import contextlib
import socket

from moejax.errors import UserError, abridged


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there, 0 for any free port; UserError if it cannot."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port is {port}; it is from 1 to 65,535, or 0 for any that is free.")
    if not host:
        raise UserError("--host is '', which would be every address of this machine; for that write --host 0.0.0.0.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--host {abridged(host)} --port {port} cannot be served ({reason}); choose another, or --port 0."
        ) from None


def address(sock: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def names(host: str) -> frozenset[str]:
    """What requests may call this server, beside its addresses."""
    return frozenset(name.lower() for name in ("localhost", host, socket.gethostname()))


def until_stopped(app, sock: socket.socket) -> None:
    """Serve until Ctrl-C."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, lifespan="off", ws="none",
        limit_concurrency=100, timeout_graceful_shutdown=3,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):  # raised at the end, unless whoever started us had it ignored
        uvicorn.Server(config).run(sockets=[sock])
