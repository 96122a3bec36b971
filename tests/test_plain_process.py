"""What the strictness of this suite (shape checks, eight devices, rank promotion) would hide: tests without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


PLAIN = ("mesh", "readme")
SELDOM = ("loop", "layers", "arguments", "float64", "export", "extensions")


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        *((f"plain_{name}", "not slow") for name in PLAIN),
        *(pytest.param(f"plain_{name}", "slow or not slow", marks=pytest.mark.slow) for name in SELDOM),
    ],
)
def test_what_a_user_meets(name, marked):
    alone = ["--noconftest", "-o", "addopts=", "-q", "--tb=short", "-m", marked, str(FOLDER / f"{name}.py")]
    # Bits are compared of programs that are compiled as a user's are.
    environment = os.environ | ({"XLA_FLAGS": ""} if name == "plain_loop" else {})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *alone], cwd=FOLDER.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
