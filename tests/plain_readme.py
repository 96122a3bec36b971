"""The code of moejax/README.md, as a reader would run it: the first block, then any one of the others.

Run by `test_plain_process.py` in a process of its own.
"""

import re
from pathlib import Path

import pytest

import moejax

TEXT = (Path(moejax.__file__).parent / "README.md").read_text(encoding="utf-8")
FIRST, *BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n", 1)[0][:30])
def test_a_block_runs_and_is_short(block):
    assert sum(bool(line) for line in block.splitlines()) <= 20
    names: dict = {}
    exec(FIRST, names)
    exec(block, names)
