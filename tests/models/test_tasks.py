"""Several tasks on one trunk: by a loop over experts and tasks, and a whole run that learns them."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import randomly_filled, softmax
from small_run import digits

from moejax.config import configured, make_config
from moejax.data.dataset import Dataset
from moejax.interrupt import StopSignal
from moejax.models import build_model
from moejax.presets import PRESETS
from moejax.report import render
from moejax.report.headline import facts, score
from moejax.report.record import read
from moejax.routing import DenseRouting, SoftRouting, TopKRouting
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.objective import Outputs, make_score
from moejax.training.progress import Progress
from moejax.training.summary import majority

CLASSES = (4, 2, 3)


def config(layer="multi_gate", **moe):
    return make_config(
        data=dict(name="mnist_tasks"),
        model=dict(name="tasks", width=2, tower=5),
        moe=dict(layer=layer, num_experts=3, hidden=4) | moe,
    )


def make(config):
    return randomly_filled(lambda: build_model(config, CLASSES, nnx.Rngs(0)), scale=0.3)


def batch(count=3):
    return {"image": np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)}


@jax.jit
def classify(model, batch):
    return model(batch, train=False)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def perceptron(module, x, e=...):
    """In float64; of a stack of them, number e."""
    (k1, b1), (k2, b2) = ([np.asarray(a[...], np.float64)[e] for a in (m.kernel, m.bias)] for m in module.linear)
    return gelu(x @ k1 + b1) @ k2 + b2


@pytest.mark.parametrize("layer", ["multi_gate", "dense"])
def test_it_equals_a_loop_over_images_tasks_and_experts(layer):
    model, data = make(config(layer)), batch()
    logits, routings = classify(model, data)
    assert (logits.shape, logits.dtype) == ((3, len(CLASSES), max(CLASSES)), jnp.float32)
    assert len(routings) == (len(CLASSES) if layer == "multi_gate" else 1)
    routers = model.moe.routers if layer == "multi_gate" else [model.moe.router] * len(CLASSES)
    for n, image in enumerate(data["image"].astype(np.float64)):
        x = (image.reshape(-1) / 255 - 0.1307) / 0.3081
        for task, (router, tower, classes) in enumerate(zip(routers, model.towers, CLASSES, strict=True)):
            gates = softmax(x @ np.asarray(router.kernel[...], np.float64))
            shared = gates @ [perceptron(model.moe.experts, x, e) for e in range(3)]
            np.testing.assert_allclose(logits[n, task, :classes], perceptron(tower, shared), rtol=2e-3, atol=2e-3)
            assert (jax.nn.softmax(logits[n, task])[classes:] == 0).all()


@pytest.mark.parametrize(
    ("layer", "moe", "kind"),
    [
        ("dense", {"num_experts": 1}, DenseRouting),
        ("sparse", {"k": 2, "dispatch": "gather"}, TopKRouting),
        ("soft", {"slots": 1}, SoftRouting),
    ],
)
def test_every_other_layer_gives_all_tasks_the_same_numbers(layer, moe, kind):
    logits, (routing,) = jax.eval_shape(classify, make(config(layer, **moe)), batch())
    assert logits.shape == (3, len(CLASSES), max(CLASSES))
    assert isinstance(routing, kind)


def test_an_expert_for_each_task_is_a_network_for_each():
    c = config(num_experts=3).replace(data=dict(tasks="digit,parity,slant"), model=dict(own_expert=True))
    model, data = make(c), batch()
    logits, routings = classify(model, data)
    for task, (tower, classes) in enumerate(zip(model.towers, CLASSES, strict=True)):
        np.testing.assert_array_equal(routings[task].gates, np.broadcast_to(np.eye(3)[task], (3, 1, 3)))
        x = (data["image"].reshape(3, -1) / 255 - 0.1307) / 0.3081
        want = perceptron(tower, perceptron(model.moe.experts, x, task))
        np.testing.assert_allclose(logits[:, task, :classes], want, rtol=2e-3, atol=2e-3)


def test_loss_and_accuracy_are_means_over_the_tasks():
    """Two images, two tasks: of two classes, and of three."""
    never = -1e9
    probs = np.array([[[0.5, 0.5, 0], [0.2, 0.3, 0.5]], [[0.9, 0.1, 0], [0.6, 0.2, 0.2]]])
    logits = jnp.asarray(np.where(probs > 0, np.log(np.where(probs > 0, probs, 1)), never), jnp.float32)
    label = jnp.array([[1, 2], [0, 1]])
    routing = DenseRouting(jnp.zeros((1, 2, 2)), jnp.full((1, 2, 2), 0.5))
    loss, metrics = make_score(config())(make(config()), Outputs(logits[:, None], label, [routing] * 2))
    np.testing.assert_allclose(loss, -np.log([0.5, 0.5, 0.9, 0.2]).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.accuracy, 2 / 4)  # ties go to the first class


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"train.label_smoothing": 0.1}, "train.label_smoothing is 0.1, but of the tasks of model.name tasks some"),
        (
            {"data.tasks": "digit,slant", "train.shift": 4.5},
            "train.shift is 4.5, which changes the answer to slant (data.tasks); set it to at most 4.",
        ),
        ({"train.rotate": 5.0}, "train.rotate is 5, which changes the answer to slant (data.tasks); set it to 0."),
        ({"model.own_expert": True}, "model.own_expert is true, but there are 4 tasks (data.tasks) for 8 experts; set"),
        (
            {"moe.layer": "sparse", "moe.constant_experts": 8},
            "moe.constant_experts is 8, which add a token, but with model.name tasks experts return something else;",
        ),
        ({"data.name": "mnist"}, "model.name is tasks, which cannot read mnist; use mnist_tasks."),
        ({"model.name": "image", "moe.layer": "soft"}, "model.name is image, which cannot read mnist_tasks; use mnist"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(words, sentence):
    _, [said] = configured(words, PRESETS["mnist_tasks"].config)
    assert sentence in said


def test_a_gate_for_each_task_needs_tasks():
    _, [said] = configured({"moe.layer": "multi_gate"}, PRESETS["mnist_dense"].config)
    assert said.startswith("moe.layer is multi_gate, which has an output for each task, but model.name is image, which")
    assert configured({"data.tasks": "digit,parity", "train.rotate": 5.0}, PRESETS["mnist_tasks"].config)[1] == []


def bars(n, seed):
    """The bar's row, and whether the image has a bright corner."""
    examples, bright = digits(n, seed), np.random.default_rng(seed + 9).integers(0, 2, n).astype(np.int32)
    examples["image"][:, :6, :6] = 250 * bright[:, None, None]
    return {"image": examples["image"], "label": np.stack([examples["label"], bright], axis=1)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    data = Dataset("bars", "dir", "made on the spot", {}, bars(240, 0), bars(30, 1), bars(40, 2), 4)
    data = dataclasses.replace(data, tasks={"row": 4, "corner": 2})
    config_ = config().replace(train=dict(epochs=6, batch_size=12, learning_rate=1e-2, activations=True))
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "tasks", config_)
    fit = Fit(config_, data, folder, Progress())
    assert fit.train(StopSignal())
    fit.test()
    return fit


def test_a_run_learns_all_tasks_and_says_how_well_each(finished):
    summary, path = finished.folder.read_summary(), finished.folder.path
    of_tasks = summary["test_accuracy_of"]
    assert list(of_tasks) == ["row", "corner"]
    assert min(of_tasks.values()) > 0.9
    assert summary["test_accuracy"] == pytest.approx(np.mean(list(of_tasks.values())))
    assert summary["majority"] == majority(finished.data.test) > 1 / 4
    assert len(summary["label_information"]) == 2  # a gate for each task
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert all(list(record["accuracy_of"]) == ["row", "corner"] for record in records if record["kind"] != "train")
    with np.load(path / "routing.npz") as arrays:
        assert arrays["label_expert"].shape == (2, 4, 3)  # of the first task's labels
        np.testing.assert_array_equal(arrays["confusion"].sum(1), np.bincount(finished.data.test["label"][:, 0]))


def test_the_table_of_activations_is_of_the_first_task_s_gate(finished):
    with open(finished.folder.path / "activations" / "epoch_6.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    shares = np.array([float(row["Probability"]) for row in rows]).reshape(30, -1)
    validation = {name: jnp.asarray(array) for name, array in finished.data.validation.items()}
    _, (first, second) = finished.state.model(validation, train=False)
    np.testing.assert_allclose(shares, first.gates[:, 0], atol=1e-5)
    assert np.abs(shares - second.gates[:, 0]).max() > 0.01


def test_its_report_names_the_tasks_and_their_gates(finished):
    text = render(finished.folder.path).read_text()
    record = read(finished.folder.path)
    assert "multi-gate mixture of 3 experts" in text
    assert score(record)[1] == "test accuracy, the mean of 2 tasks"
    assert [what for what, _ in facts(record)][:2] == ["row, test accuracy", "corner, test accuracy"]
    assert [record.layer_name(layer) for layer in range(3)] == ["Gate of row", "Gate of corner", "Layer 2"]


def test_an_untied_majority_is_the_mean_of_the_tasks():
    labels = np.array([[0, 1], [0, 1], [1, 1], [2, 0]])
    assert majority({"label": labels}) == (2 / 4 + 3 / 4) / 2
    assert majority({"label": labels[:, 0]}) == 2 / 4
