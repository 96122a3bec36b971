"""The peers themselves, where their libraries are."""

import importlib

import pytest


@pytest.fixture
def live():
    pytest.importorskip("torch", reason="the peers need torch: pip install moejax[peers]")
    return importlib.import_module("live_peers")
