"""The one table of names: what it lists is what there is, and what its README prints."""

from pathlib import Path

import pytest

from moejax import names
from moejax.config import make_config
from moejax.layers import SLOT_DISPATCHES
from moejax.models import MODELS
from moejax.models.layer import layer_maker
from moejax.routers import ROUTERS

README = (Path(__file__).parent.parent / "moejax" / "routing" / "README.md").read_text()


def test_every_name_has_its_implementation():
    assert list(names.MODELS) == list(MODELS)
    assert list(names.ROUTERS) == list(ROUTERS)
    assert list(names.DISPATCHES) == [*SLOT_DISPATCHES, "grouped"]


@pytest.mark.parametrize("field", ["layer", "expert"])
def test_every_layer_and_expert_can_be_made(field):
    for name in {"layer": names.LAYERS, "expert": names.EXPERTS}[field]:
        assert callable(layer_maker(dict(**{field: name}), 8, make_config().train.dtype))


@pytest.mark.parametrize("table", ["MODELS", "LAYERS", "ROUTERS", "DISPATCHES", "EXPERTS"])
def test_readme_prints_every_name_with_its_line(table):
    for name, line in getattr(names, table).items():
        assert f"| `{name}` | {line} |" in README, name
