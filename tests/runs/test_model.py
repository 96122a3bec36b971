"""A run's model says what its own evaluation said, whatever else is in the batch; or what is wrong with its input."""

import json
import shutil

import jax
import numpy as np
import pytest
from data.test_minilm import tokenizer_json
from small_run import digits, made_up_weights, saved_run  # noqa: F401

import moejax
from moejax.config import make_config
from moejax.data import clusters, minilm, mrpc_pieces, tokens
from moejax.data.dataset import Dataset, take
from moejax.errors import UserError
from moejax.runs import model as runs_model
from moejax.runs.about import About
from moejax.runs.answers import _by_token
from moejax.runs.inputs import Reader
from moejax.runs.routes import Route
from moejax.training.average import averaged
from moejax.training.evaluate import evaluate

IMAGE = dict(stem=2, kernel=3, width=8, depth=1)
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "hat", "red", "blue"]


def sentences(n, seed):
    rng = np.random.default_rng(seed)
    first, second = ([" ".join(rng.choice(WORDS, rng.integers(2, 6))) for _ in range(n)] for _ in range(2))
    return {"first": np.array(first, object), "second": np.array(second, object), "label": np.zeros(n, np.int32)}


def of_images(**tasks):
    test = digits(20, 2)
    if tasks:
        test["label"] = np.stack([test["label"] % count for count in tasks.values()], axis=1)
    return Dataset("bars", "dir", "here", {}, test, test, test, 4, tasks=tasks)


def of_points():
    basis, rng = clusters.directions(0), np.random.default_rng(0)
    test = clusters.draw(clusters.SETTINGS["s1"], basis, rng, 20)
    return Dataset("clusters", "seed", "here", {}, test, test, test, 2)


def of_pairs():
    text = sentences(20, 0)
    tokenizer = tokens.trained("tests", [*text["first"], *text["second"]], 200)
    test = tokens.encode_pairs(tokenizer, text, 6)
    kept = tokenizer.backend_tokenizer.to_str()
    return Dataset("mrpc", "dir", "here", {}, test, test, test, 2, tokenizer=kept)


def of_pieces():
    rng = np.random.default_rng(0)
    pieces = rng.integers(1, 50, (20, mrpc_pieces.LENGTH), dtype=np.int32)
    length, place = rng.integers(20, 60, (20, 1)), np.arange(mrpc_pieces.LENGTH)
    test = {"pieces": np.where(place < length, pieces, 0), "second": (place >= 10) & (place < length)}
    test["label"] = np.zeros(20, np.int32)
    return Dataset("mrpc_pieces", "dir", "here", {}, test, test, test, 2)


SPARSE = dict(layer="sparse", num_experts=4, hidden=8, eval_capacity_factor=None)
RUNS = {
    "dense": (of_images, dict(model=IMAGE, moe=dict(layer="dense", num_experts=3, hidden=8))),
    "soft, averaged": (
        of_images,
        dict(model=IMAGE, moe=dict(layer="soft", num_experts=3, hidden=8, slots=2), train=dict(average=0.9)),
    ),
    "sigmoid": (of_images, dict(model=IMAGE, moe=dict(router="sigmoid", bias_update_rate=0.1, **SPARSE))),
    "grouped": (of_images, dict(model=IMAGE, moe=dict(dispatch="grouped", **SPARSE))),
    "tasks": (
        lambda: of_images(digit=4, parity=2),
        dict(
            data=dict(name="mnist_tasks", tasks="digit,parity"),
            model=dict(name="tasks"),
            moe=dict(layer="multi_gate", num_experts=3, hidden=8),
        ),
    ),
    "points": (
        of_points,
        dict(data=dict(name="clusters"), model=dict(name="clusters"), moe=dict(k=1, router="switch", **SPARSE)),
    ),
    "pairs": (
        of_pairs,
        dict(
            data=dict(name="mrpc", vocabulary=200, length=6),
            model=dict(name="pair", width=8, embedding=4),
            moe=dict(expert="cnn", **SPARSE),
        ),
    ),
    "pieces": (
        of_pieces,
        dict(
            data=dict(name="mrpc_pieces", vocabulary=50),
            model=dict(name="encoder", width=8, depth=2, heads=2),
            moe=SPARSE,
        ),
    ),
}
FEW = ("soft, averaged", "sigmoid", "pairs")


@pytest.fixture(
    scope="module", params=[name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def asked(request, tmp_path_factory):
    """A loaded run, its data, and its state."""
    make, values = RUNS[request.param]
    data, path = make(), tmp_path_factory.mktemp("runs") / "run"
    config = make_config(name="asked", **values)
    (state,) = saved_run(path, config, data, {7: None})
    return moejax.runs.load(path), data, state


@jax.jit
def _logits(model, batch):
    return model(batch, train=False)[0]


def test_it_says_what_the_runs_own_evaluation_says(asked):
    model, data, state = asked
    result = evaluate(averaged(state), data.test, 500)
    prediction, routes = model.answer(data.test)
    np.testing.assert_array_equal(prediction.classes, result.prediction)
    np.testing.assert_allclose(prediction.probabilities, jax.nn.softmax(_logits(averaged(state), data.test)), atol=1e-6)
    shares = [abs(route.gates).sum(1) for route in routes]
    shares = np.stack([share / share.sum(-1, keepdims=True) for share in shares], axis=1)
    np.testing.assert_allclose(shares, result.gates, atol=1e-6)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves((prediction, routes)))


def test_an_answer_depends_on_no_other_example_of_the_batch(asked):
    model, data, _ = asked
    whole = model.answer(data.test)
    part = model.answer(take(data.test, slice(3, 8)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[3:8], b, atol=1e-6), whole, part)


@pytest.mark.parametrize("router", ["softmax_top_k", "expert_choice"])
def test_layers_whose_experts_are_full_in_a_batch_answer_each_example_alone(router, tmp_path):
    """At evaluation by the run itself, the same examples have other answers among others."""
    few = SPARSE | dict(eval_capacity_factor=0.25, group_size=100, router=router, dispatch="gather")
    config, data = make_config(name="full", model=IMAGE, moe=few), of_images()
    (state,) = saved_run(tmp_path / "run", config, data, {1: 0.5})
    model = moejax.runs.load(tmp_path / "run")
    images = data.test["image"]
    other = np.concatenate([images[:3], 255 - images[3:]])
    in_run = [_logits(state.model, {"image": x}) for x in (images, other)]
    assert (in_run[0][:3] != in_run[1][:3]).any()
    for a, b in zip(*map(jax.tree.leaves, map(model.answer, (images, other))), strict=True):
        np.testing.assert_array_equal(a[:3], b[:3])
    dropped = [(route.gates == 0).all(-1).any() for route in model.route(images)]
    assert any(dropped) == (router == "expert_choice")


def test_sentences_are_tokenized_as_the_data_were(tmp_path):
    data, text = of_pairs(), sentences(20, 0)
    saved_run(tmp_path / "run", make_config(name="pairs", **RUNS["pairs"][1]), data, {1: 0.5})
    model = moejax.runs.load(tmp_path / "run")
    pairs = list(zip(text["first"], text["second"], strict=True))
    expected = model.predict(data.test).probabilities
    np.testing.assert_array_equal(model.predict(pairs).probabilities, expected)
    np.testing.assert_allclose(model.predict(pairs[3]).probabilities, expected[3:4], atol=1e-6)


def test_pairs_become_word_pieces_as_the_data_did():
    text, length = tokenizer_json().decode(), mrpc_pieces.LENGTH
    shapes, dtypes = {"pieces": [length], "second": [length]}, {"pieces": "int32", "second": "bool"}
    about = About("mrpc_pieces", 2, (), {}, shapes, dtypes, tokenizer=text)
    read = Reader(make_config(name="pieces", **RUNS["pieces"][1]), about)
    batch = read([("one two", "three"), ("two", "one")])
    sides = {"first": ["one two", "two"], "second": ["three", "one"], "label": [0, 0]}
    columns = {name: np.array(side) for name, side in sides.items()}
    expected = mrpc_pieces.pieces(minilm.read_tokenizer(text.encode(), "it"), columns)
    for name in ("pieces", "second"):
        np.testing.assert_array_equal(batch[name], expected[name])
    assert read.token_names(batch, 0) == ["[CLS]", "one", "two", "[SEP]", "three", "[SEP]"]


def test_an_oracle_s_domain_is_one_of_its_experts():
    config = make_config(
        data=dict(name="domains", domains=3),
        model=dict(name="flat", second_hidden=5, oracle=True),
        moe=dict(layer="sparse", router="hash", num_experts=3, hidden=4, k=1),
    )
    about = About("domains", 10, (), {}, {"image": [28, 28], "domain": []}, {"image": "uint8", "domain": "int32"})
    batch = {"image": np.zeros((2, 28, 28), np.uint8), "domain": np.array([0, 2], np.int32)}
    np.testing.assert_array_equal(Reader(config, about)(batch)["domain"], [0, 2])
    with pytest.raises(UserError, match=r"^`domain` holds 0 to 3; this model reads 0 to 2\.$"):
        Reader(config, about)(batch | {"domain": np.array([0, 3], np.int32)})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the checkpoints 1, 2 and 3, of which 2 is the best, and their states."""
    path = tmp_path_factory.mktemp("runs") / "run"
    config = make_config(name="bars", model=IMAGE, moe=dict(layer="dense", num_experts=2, hidden=4))
    return path, saved_run(path, config, of_images(), {1: 0.1, 2: 0.9, 3: 0.3})


def test_best_last_or_a_step(run):
    path, states = run
    for which, step in (("best", 2), ("last", 3), (1, 1), ("1", 1), (None, 3)):
        model = moejax.runs.load(path, checkpoint=which)
        assert model.step == step
        jax.tree.map(np.testing.assert_array_equal, model.module, states[step - 1].model)


def refusals(tmp_path, path):
    """A folder each, with what is said of it."""

    def copy(name):
        return shutil.copytree(path, tmp_path / name)

    yield tmp_path, None, "is not a run folder: it has no readable config.json"
    yield path, 4, "checkpoint is 4, but .* has the steps 1, 2, 3; use last, best or one of these"
    yield path, "newest", "checkpoint is 'newest', but"
    (fresh := copy("fresh") / "checkpoints").rename(fresh.with_name("gone"))
    yield fresh.parent, None, "has no checkpoint yet; let it train for an epoch"
    array = next(p for p in (copy("flipped") / "checkpoints" / "3").rglob("d/*") if p.is_file())
    array.write_bytes(array.read_bytes()[:-1] + b"!")
    yield tmp_path / "flipped", None, f"The checkpoint file {array} is not what was written"
    (copy("unsealed") / "checkpoints" / "2" / "sha256.json").write_text("{}")
    yield tmp_path / "unsealed", "best", "Which checkpoint of .* is the best cannot be told"
    config = json.loads((copy("other") / "config.json").read_text())
    for name, value in (("hidden", 5), ("temperature", 2.0)):  # one with other shapes, one with the same
        (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"moe": config["moe"] | {name: value}}))
        sentence = rf"moe\.{name} is {value}, but the checkpoint .* was made with {config['moe'][name]}; set it back in"
        yield tmp_path / "other", None, sentence


def test_what_cannot_be_loaded_is_a_sentence(run, tmp_path):
    for path, which, sentence in refusals(tmp_path, run[0]):
        with pytest.raises(UserError, match=sentence) as raised:
            moejax.runs.load(path, checkpoint=which)
        assert len(raised.value.sentences) == 1


def test_a_checkpoint_of_an_older_version_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr("moejax.runs.about.files", lambda data: {})
    saved_run(tmp_path / "old", moejax.runs.load(run[0]).config, of_images(), {1: None})
    with pytest.raises(UserError, match=r"has no data\.json: it was written before runs kept what their data are"):
        moejax.runs.load(tmp_path / "old")


def test_a_compilation_for_each_power_of_two(run, monkeypatch):
    model, images = moejax.runs.load(run[0]), of_images().test["image"]
    monkeypatch.setattr(runs_model, "LARGEST", 4)
    whole = model.predict(images[:7]).probabilities
    compiled = runs_model._answer._cache_size()
    for n in (3, 4, 8, 11, 12, 15):
        found = model.predict(images[:n]).probabilities
        assert len(found) == n
        np.testing.assert_array_equal(found[:3], whole[:3])
    assert runs_model._answer._cache_size() == compiled


GREY = np.zeros((28, 28), np.uint8)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (GREY[:27], r"`image` has the shape \[27, 28\]; this model reads uint8 \[28, 28\], or a batch \[n, 28, 28\]"),
        (GREY[None, None], r"`image` has the shape \[1, 1, 28, 28\]"),
        (GREY / 255, r"`image` is of the type float64; this model reads uint8"),
        (GREY[None][:0], "The batch is empty; give one example at least"),
        ("a cat", "`image` is 'a cat'; this model reads arrays of numbers"),
        (None, "`image` is None"),
        ([GREY, GREY[:3]], "`image` is made of arrays of several shapes; give one array"),
        ({"picture": GREY}, "The batch has no 'image'; this model reads image"),
    ],
)
def test_an_image_that_is_none_is_a_sentence(run, x, sentence):
    with pytest.raises(UserError, match=sentence):
        moejax.runs.load(run[0]).predict(x)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        ("a cat", "The input is 'a cat'; this model reads pairs of sentences"),
        (["a", "b", "c"], "Pair 0 is 'a'; a pair is two sentences"),
        ([("a", "b"), ("a", 3)], "Pair 1 holds 3; a sentence is a string"),
        (("a", " "), "Pair 0 holds an empty sentence"),
        ([], "The batch is empty"),
        (7, "The input is 7"),
        ({"first": np.full((1, 6), 2**20), "second": np.ones((1, 6), int)}, "`first` holds 1048576 to 1048576; this"),
        ({"first": np.ones((1, 6), int), "second": np.full((1, 6), -3)}, "`second` holds -3 to -3; this model reads 0"),
    ],
)
def test_pairs_that_are_none_are_a_sentence(x, sentence, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "pairs"
    if not path.exists():
        saved_run(path, make_config(name="pairs", **RUNS["pairs"][1]), of_pairs(), {1: None})
    with pytest.raises(UserError, match=sentence):
        moejax.runs.load(path).predict(x)


@pytest.mark.parametrize("path", ["", "a\0b", "a\ud800b"])
def test_what_can_be_no_path_is_one_sentence(path):
    with pytest.raises(UserError, match=r"^The run is .*, which can be no path\.$"):
        moejax.runs.load(path)


def test_tokens_without_names_and_a_grid_are_told_each():
    gates = np.eye(3, dtype=np.float32)
    assert [line.split()[:2] for line in _by_token(Route(gates), [])] == [["token", str(n)] for n in range(3)]
