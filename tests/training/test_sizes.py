"""What a run takes at least, by its shapes, and the sentence where that is more than there is."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from moejax.config import configured
from moejax.data.dataset import Dataset
from moejax.errors import UserError
from moejax.models import build_model
from moejax.parameters import parameters
from moejax.presets import PRESETS
from moejax.training import memory
from moejax.training.sizes import check

N = 256


def examples(name: str) -> dict[str, np.ndarray]:
    label = np.zeros(N, np.int32)
    if name == "clusters":
        return {"patches": np.zeros((N, 4, 50), np.float32), "label": label, "cluster": label}
    if name == "mrpc_pieces":
        return {"pieces": np.zeros((N, 48), np.int32), "second": np.zeros((N, 48), bool), "label": label}
    return {"image": np.zeros((N, 28, 28), np.uint8), "label": label}


def case(preset: str, changes: str):
    """A configuration with some values changed, and data for it."""
    values = dict(pair.split("=") for pair in changes.split())
    config, problems = configured({"train.batch_size": "64", **values}, PRESETS[preset].config, words=True)
    assert problems == []
    parts = [examples(config.data.name)] * 3
    return config, Dataset("made up", "dir", "here", {}, *parts, num_classes=10, notes=())


def test_this_machine_has_some_memory():
    assert memory.memory() > 10**9


@pytest.fixture
def sixteen_gigabytes(monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 16 * 10**9)


@pytest.mark.parametrize(
    ("preset", "changes", "parts"),
    [
        ("mnist_sparse", "moe.num_experts=65536 moe.hidden=1048576 model.width=65536", "optimiser"),
        ("mnist_sparse", "moe.hidden=1048576", "optimiser"),
        (
            "mnist_sparse",
            "moe.dispatch=einsum moe.group_size=16777216 moe.capacity_factor=none moe.num_experts=4096",
            "",
        ),
        ("mnist_soft", "moe.slots=65536", "activations"),
        ("mnist_soft", "moe.slots=65536 moe.num_experts=65536", "optimiser"),
        ("mnist_soft", "model.stem=16384 model.width=65536", "optimiser"),
        ("mnist_dense", "moe.num_experts=65536", "activations"),
        ("mnist_lstm", "moe.num_experts=65536", "optimiser"),
        ("mnist_lstm", "model.width=65536", "optimiser"),
        ("mnist_base", "model.second_hidden=1048576", "optimiser"),
    ],
)
@pytest.mark.usefixtures("sixteen_gigabytes")
def test_what_does_not_fit_is_one_sentence_before_anything_is_compiled(preset, changes, parts):
    with pytest.raises(
        UserError, match=r"The model has [\d,]+ parameters, and a run with .*at least [\d,.]+ GB"
    ) as error:
        check(*case(preset, changes))
    assert parts in str(error.value)
    assert "but there are 16 GB; lower " in str(error.value)


@pytest.mark.parametrize("preset", ["mnist_soft", "mnist_dense", "mnist_flat_sparse", "clusters_moe_nonlinear"])
def test_what_fits_is_let_through(preset):
    check(*case(preset, ""))


@pytest.mark.usefixtures("sixteen_gigabytes")
def test_a_large_data_set_counts_where_a_device_holds_it():
    config, data = case("mnist_tiny", "")
    image = np.broadcast_to(np.uint8(0), (25 * 10**6, 28, 28))  # 19.6 GB, were it not one byte
    large = dataclasses.replace(data, train={"image": image, "label": np.zeros(len(image), np.int8)})
    with pytest.raises(
        UserError, match=r"all 25,000,000 training .* at least 20 GB of memory.*; set parallel\.reads to"
    ):
        check(config, large)
    check(config.replace(parallel=dict(reads="share")), large)


def test_a_frozen_parameter_has_neither_gradient_nor_optimiser(monkeypatch):
    config, data = case("mnist_soft", "train.frozen=blocks")
    monkeypatch.setattr(memory, "activations", lambda *_: 0)
    model = jax.eval_shape(lambda: build_model(config, 10, nnx.Rngs(0)))
    every, frozen = (memory._bytes(parameters(part)) for part in (model, model.blocks))
    least = frozen + 4 * (every - frozen) + sum(array.nbytes for array in data.train.values())
    monkeypatch.setattr(memory, "memory", lambda: least)
    memory.check_memory(config, data, model)
    monkeypatch.setattr(memory, "memory", lambda: least - 1)
    with pytest.raises(UserError, match="takes at least"):
        memory.check_memory(config, data, model)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [("mnist_soft", ""), ("mnist_dense", "")]
    + [("mnist_sparse", f"moe.dispatch={dispatch}") for dispatch in ("einsum", "gather", "grouped")],
)
def test_the_hidden_numbers_of_experts_count(preset, changes):
    def counted(hidden):
        config, data = case(preset, f"{changes} moe.hidden={hidden}")
        return memory.activations(config, data, jax.eval_shape(lambda: build_model(config, 10, nnx.Rngs(0))))

    # 64 images of 24 slots at least, in two layers.
    assert counted(2000) - counted(1000) >= 2 * 64 * 24 * 1000 * 4


def test_a_product_counts_once_and_with_what_was_computed_for_it():
    config, data = case("mnist_flat_dense", "moe.hidden=16 model.second_hidden=8 moe.num_experts=4")
    model = jax.eval_shape(lambda: build_model(config, 10, nnx.Rngs(0)))
    # per image: the pixels, or the hidden numbers of 4 experts, or their logits; the router's 4 logits
    least, most = 64 * 4 * 4 * (16 + 8), 64 * 4 * (4 * (784 + 16 + 8 + 10) + 784 + 4 + 4 * 10)
    assert least <= memory.activations(config, data, model) <= most


def test_activations_without_examples_to_write_them_of_are_refused():
    config, data = case("mnist_sparse", "train.activations=true")
    with pytest.raises(UserError, match=r"train\.activations is true, but there are no validation examples, of which"):
        check(config, dataclasses.replace(data, validation=empty(data.validation)))
    text, _ = case("text_tiny", "train.activations=true")
    windows = {"tokens": np.zeros((N, 8), np.uint8), "label": np.zeros((N, 8), np.uint8)}
    data = dataclasses.replace(data, train=windows, validation=windows, test=windows)
    with pytest.raises(UserError, match=r"train\.activations is true, but text has no label a window"):
        check(text, data)


def empty(split):
    return {name: array[:0] for name, array in split.items()}
