"""The tables of names: every entry can be made, says what it is in a line, and READMEs print that line."""

from functools import partial
from pathlib import Path

import jax
import pytest
from flax import nnx

from moejax.config import make_config
from moejax.data import DATASETS
from moejax.layers import DISPATCHES, LAYERS, SparseMoE
from moejax.models import MODELS
from moejax.models.layer import EXPERTS, layer_maker
from moejax.options import arguments_of, choice_of, meaning, options_of
from moejax.routers import ROUTERS

ROOT = Path(__file__).parent.parent
READMES = "\n".join(path.read_text() for path in (ROOT / "README.md", *ROOT.glob("moejax/**/README.md")))
TABLES = {
    "models": MODELS,
    "layers": LAYERS,
    "routers": ROUTERS,
    "dispatches": DISPATCHES,
    "experts": choice_of(MODELS["pair"].layer_options.model_fields["expert"]).table,
}


@pytest.mark.parametrize("table", TABLES)
def test_readmes_print_every_name_with_its_line(table):
    for name, entry in TABLES[table].items():
        assert meaning(entry)
        assert f"| `{name}` | {meaning(entry)} |" in READMES, name


def test_every_option_says_what_it_means():
    """What says nothing is no option, and so of no configuration."""
    for call in (*LAYERS.values(), *ROUTERS.values(), *(entry.__wrapped__ for entry in DATASETS.values())):
        with_default = {name for name, field in arguments_of(_inner(call)).items() if not field.is_required()}
        assert with_default - set(options_of(call)) <= {"shared_gate", "dtype", "seed"}, call


def _inner(call):
    return call.func if isinstance(call, partial) else call


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer != "multi_gate"])  # that one's model has its own
@pytest.mark.parametrize("expert", EXPERTS)
def test_every_layer_is_made_of_every_expert(layer, expert):
    moe = make_config(moe={"layer": layer, "expert": expert}).moe
    made = jax.eval_shape(lambda: layer_maker(moe, 8, "float32")(nnx.Rngs(0)))
    assert type(made) is LAYERS[layer]
    assert type(made.experts) is EXPERTS[expert]


@pytest.mark.parametrize("expert", EXPERTS)
def test_tokens_compete_in_groups_of_one_size_whether_a_layer_is_configured_or_made_in_python(expert):
    moe = make_config(moe={"layer": "sparse", "expert": expert, "hidden": 64}).moe

    def both(rngs):
        made = SparseMoE(8, moe.num_experts, lambda rngs: EXPERTS[expert](8, 64, rngs=rngs), rngs=rngs)
        return layer_maker(moe, 8, "float32")(rngs), made

    configured, made = jax.eval_shape(lambda: both(nnx.Rngs(0)))
    assert configured.group_size == made.group_size == {"mlp": 16, "glu": 24}[expert]


def test_every_data_set_says_what_loads_it():
    assert all(meaning(entry) and {"validation"} <= set(options_of(entry)) for entry in DATASETS.values())
