"""The benchmark suite's tables, comparisons and pictures, from rows made up here; nothing is timed for its time."""

import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.harness import compare, draw
from benchmarks.harness.interleave import interleave
from benchmarks.peers.grouped_products import forward_with, ragged_dot, relative_error
from benchmarks.suite import convergence, generation, gpu_layers, gpu_text, growth, peers, pictures, scaling, training
from benchmarks.suite.cases import Case, forward, sparse, tokens, with_gradients
from benchmarks.suite.layers import BASE, cases, table
from benchmarks.suite.loops import make_loops, random_images
from moejax.data.dataset import Dataset
from moejax.errors import UserError
from moejax.models import build_model
from moejax.presets import PRESETS

ROOT = Path(__file__).parent.parent
SMALL = Case(tokens=64, d=8, h=16, experts=4, k=2)
TINY = PRESETS["mnist_tiny"].config


def results(path, rows, device="a cpu"):
    path.write_text(json.dumps({"rows": rows, "environment": {"device": device}}))
    return path


def times(**of):
    return {"median": of.pop("median"), "low": 0.9, "high": 3.0}


def test_a_change_is_a_factor_above_1_where_the_new_is_slower():
    old = [
        {"case": {"tokens": 1, "factor": 1.25}, "ms": {"gather": 10.0, "gone": 1.0}, "dropped": 0.5, "capacity": 3},
        {"preset": "a", "batch_size": 16, "examples_per_second": {"scanned": 100.0}},
        {"preset": "b", "batch_size": 16, "examples_per_second": {"scanned": 100.0}},
    ]
    new = [
        {"preset": "a", "batch_size": 16, "examples_per_second": {"scanned": 50.0}},
        {"case": {"tokens": 1, "factor": 1.25}, "ms": {"gather": 15.0, "new": 1.0}, "dropped": 0.9, "capacity": 4},
        {"case": {"tokens": 2, "factor": 1.25}, "ms": {"gather": 90.0}},
        {"preset": "b", "batch_size": 32, "examples_per_second": {"scanned": 1.0}},
    ]
    found = {(change.row, change.name): change.factor for change in compare.changes(old, new)}
    assert found == {
        ("batch_size 16, preset a", "examples_per_second.scanned"): 2.0,
        ("factor 1.25, tokens 1", "ms.gather"): 1.5,
    }


@pytest.mark.parametrize(("tolerance", "status"), [("1.6", 0), ("1.4", 1)])
def test_compare_says_by_its_status_whether_anything_is_slower(tmp_path, capsys, tolerance, status):
    old = results(tmp_path / "old.json", [{"what": "import", "seconds": 2.0}])
    new = results(tmp_path / "new.json", [{"what": "import", "seconds": 3.0}])
    assert compare.main([str(old), str(new), "--tolerance", tolerance]) == status
    assert "| what import | seconds | 2 | 3 | 1.50× |" in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_sentence(tmp_path, capsys):
    row = {"what": "import", "seconds": 2.0}
    old, other = results(tmp_path / "a.json", [row]), results(tmp_path / "b.json", [row], device="a gpu")
    with pytest.raises(UserError, match=r"b\.json of a gpu; compare results of one kind of device\.$"):
        compare.main([str(old), str(other)])
    for rows, sentence in (
        ([row | {"what": "else"}], "have no row in common"),
        ([row | {"seconds": 0.0}], r"c\.json keeps no times, so that nothing in it can become slower; compare another"),
        ([row | {"seconds": 10**400}], r"a\.json or .*c\.json has other rows than a benchmark writes; make it anew\.$"),
    ):
        with pytest.raises(UserError, match=sentence):
            compare.compare(old, results(tmp_path / "c.json", rows))
    predicted = ROOT / "benchmarks" / "results" / scaling.DEVICE / "scaling.json"
    with pytest.raises(UserError, match="keeps no times"):
        compare.compare(predicted, predicted)
    with pytest.raises(SystemExit):
        compare.main([str(old), str(old), "--tolerance", "nan"])
    assert "--tolerance: 'nan' must be a number above 0" in capsys.readouterr().err


def test_rows_nested_too_deeply_to_be_compared_are_one_sentence(monkeypatch):
    row: dict = {"ms": 1.0}
    for _ in range(10**4):
        row = {"ms": row}
    monkeypatch.setattr(compare, "read", lambda _: ([row], "a cpu"))
    with pytest.raises(UserError, match=r"^a\.json or b\.json has other rows than a benchmark writes; make it anew\.$"):
        compare.compare(Path("a.json"), Path("b.json"))


@pytest.mark.parametrize(
    "text", ["{}", "[]", "no JSON", "[" * 10**5, '{"rows": [1], "environment": {"device": "cpu"}}']
)
def test_a_file_of_something_else_is_one_sentence(tmp_path, text):
    file = tmp_path / "peers.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"peers.json is no results file"):
        compare.compare(file, file)
    with pytest.raises(UserError, match=r"peers.json is no results file"):
        draw.draw(file)


@pytest.mark.parametrize("name", ["layers", "growth", "peers"])
def test_rows_of_something_else_are_not_drawn(tmp_path, name):
    with pytest.raises(UserError, match=f"has other rows than {name} writes; make it anew by  python -m benchmarks"):
        draw.draw(results(tmp_path / f"{name}.json", [{"what": "import"}]))


def test_the_recorded_results_have_numbers_to_compare():
    measured = [f for f in (ROOT / "benchmarks" / "results").glob("*/*.json") if f.parent.name != scaling.DEVICE]
    for file in measured:
        found = compare.compare(file, file)
        assert {change.factor for change in found} == {1.0}, file
        assert len({(change.row, change.name) for change in found}) == len(found), file


@pytest.fixture(scope="module")
def peer_rows():
    sparse_part = {
        "ms": {"einsum": 3.0, "gather": 1.0, "grouped": 2.0, "Mixtral eager": 4.0},
        "peak_mb": {"einsum": 3.0, "gather": 17.2, "grouped": 2.0},
        "best": "gather",
        "to_ours": {"Mixtral eager": times(median=4.0)},
        "to_grouped": {"Mixtral eager": times(median=2.0)},
    }
    soft = {"ms": {"soft": 1.5}, "peak_mb": {"soft": 8.0}, "best": "soft", "to_ours": {}, "to_grouped": {}}
    first = {"case": SMALL._asdict() | {"group": 4}, "dropped": 0.125, "sparse": sparse_part, "soft": soft}
    alone = first | {"sparse": sparse_part | {"to_ours": {}}}
    return [first, alone]


def test_the_table_of_peers_leaves_blank_what_was_not_measured(peer_rows):
    header, _, first, alone = peers.table(peer_rows).splitlines()
    assert header.startswith(
        "| T, d, h, E, k | dropped | einsum, ms | gather, ms | grouped, ms | Mixtral eager | soft, ms"
    )
    assert first == "| 64, 8, 16, 4, 2 | 12.5% | 3.0 | **1.0** | 2.0 | 4.00× | 1.5 |"
    assert alone == "| 64, 8, 16, 4, 2 | 12.5% | 3.0 | **1.0** | 2.0 |  | 1.5 |"


def test_without_pytorch_there_is_one_sentence_and_the_rest(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in (peers, training):
        for name in ("layers", "training", "models"):
            monkeypatch.delitem(sys.modules, f"benchmarks.peers.{name}", raising=False)
            monkeypatch.delattr(f"benchmarks.peers.{name}", raising=False)
        assert module.pytorch() is None
        assert "pip install 'moejax[peers]'" in capsys.readouterr().out
    row = {
        "preset": "p",
        "batch_size": 8,
        "compile_seconds": {"scanned": 1.0, "plain": 2.0},
        "examples_per_second": {"scanned": 3000.0, "plain": 2000.0},
        "scanned_to": {"plain": times(median=1.5)},
    }
    assert training.table([row]).splitlines()[2] == "| `p` | 8 | 1.0 | 3,000 | 2,000 |  |  |"


def test_training_is_compared_with_the_faster_way_in_pytorch():
    rates = {"scanned": 3000.0, "plain": 2000.0, "torch loop": 500.0, "torch einsum": 1000.0}
    row = {
        "preset": "p",
        "batch_size": 8,
        "compile_seconds": {"scanned": 1.0, "plain": 2.0},
        "examples_per_second": rates,
        "scanned_to": {"torch loop": times(median=6.0), "torch einsum": times(median=3.0)},
    }
    assert training.table([row]).splitlines()[2].endswith("| 1,000 | 3.00× |")


def test_the_loops_train_alike():
    config = TINY.replace(train={"batch_size": 4, "shift": 0.0})
    loops = make_loops(config, random_images(12), steps=3, schedule=6)
    states = [loop.call() for loop in loops.values()]
    assert [int(state.step) for state in states] == [3, 3, 3]
    first, *others = [jax.tree.leaves(state.model) for state in states]
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert int(loops["scanned"].call().step) == 6


def test_a_rest_is_not_timed():
    seconds = interleave({"nothing": lambda: None}, 2, rest=0.05)
    assert seconds["nothing"].shape == (2,)
    assert seconds["nothing"].min() < 0.05


def test_the_table_of_layers_shows_both_passes():
    def of(ms, share, to_mlp):
        return {"ms": ms, "of_limit": share, "to_mlp": times(median=to_mlp)}

    case = BASE._asdict() | {"group": BASE.group_size}
    ways = {"mlp": {"forward": of(24.84, 0.849, 1.0), "forward_backward": of(99.5, 0.636, 1.0)}}
    ways["gather"] = {"forward": of(36.0, 0.5, 1.45), "forward_backward": of(117.0, 0.4, 1.18), "dropped": 0.01}
    (line,) = table([{"case": case, "layers": ways}]).splitlines()[2:]
    assert line == "| 2048, 256, 1024, 16, 2 | 1.0% | 24.8, 99.5 | 85%, 64% | 1.45×, 1.18× |"


def test_convergence_says_when_the_images_will_not_do(monkeypatch):
    embedded = Dataset("mnist", "embedded", "", {}, {}, {}, {}, 10)
    monkeypatch.setattr(convergence.data, "load", lambda *_, **__: embedded)
    with pytest.raises(UserError, match="convergence needs all of MNIST, and none was found: set MOEJAX_DATA_DIR"):
        convergence.mnist(TINY)


def test_convergence_stops_where_it_is_good_enough_and_at_the_end(dataset):
    config = TINY.replace(train={"batch_size": 8, "evaluation_batch": 50})
    trainer = convergence.Trainer(config, dataset, every=5)
    reached = trainer.until(0.0, dataset, seed=0)
    assert reached["steps"] == 0
    ended = trainer.until(1.1, dataset, seed=1)
    assert not ended["reached"]
    assert ended["steps"] == trainer.steps == trainer.per_epoch * config.train.epochs
    rows = [{"preset": "p", "seed": 0, **reached}, {"preset": "q", "seed": 0, **ended}]
    assert "| `q` | 1 | not reached by 1 |" in convergence.table(rows)


def test_a_product_by_other_hands_is_the_same_layer():
    layer, (x, dy) = sparse(SMALL, "grouped"), tokens(SMALL)
    ours, theirs = (jax.jit(with_gradients(f))(layer, x, dy) for f in (forward, forward_with(ragged_dot())))
    assert relative_error(theirs, ours) < 1e-5


def test_relative_error_by_hand():
    assert relative_error([jnp.array([3.0]), jnp.array([4.0, 0.0])], [jnp.array([0.0]), jnp.array([4.0, 0.0])]) == 0.75


def test_every_way_on_the_gpu_has_the_parameters_of_one():
    made = gpu_layers.ways(SMALL._replace(factor=2.0))
    assert [made[name][1].capacity_factor for name in ("einsum", "gather")] == [2.0, 2.0]
    assert [layer.dispatch for _, layer in made.values()] == ["grouped", "grouped", "einsum", "gather"]
    first = jax.tree.leaves(made["grouped"][1])
    for _, layer in made.values():
        assert all(a is b for a, b in zip(first, jax.tree.leaves(layer), strict=True))


def test_what_fails_on_the_gpu_says_so_in_its_place():
    assert gpu_layers.attempt(lambda x: x @ x, jnp.ones((2, 3))).startswith("TypeError: dot_general")
    entries = gpu_layers.timed({"grouped": gpu_layers.attempt(lambda x: x + 1, jnp.ones(3)), "x": "no"}, 1.0, 2)
    assert entries["x"] == {"failed": "no"}
    assert entries["grouped"]["to_grouped"]["median"] == 1
    good = {"ms": 2.0, "of_rate": 0.7}
    ways = {"grouped": good, "x": {"failed": "no"}, "y": good | {"error": 0.5}, "z": good | {"error": float("nan")}}
    row = {"case": SMALL._asdict() | {"group": 4}, "dropped": 0.0}
    row |= {"layers": {name: {"forward": entry} for name, entry in ways.items()}}
    _, _, forward_line, backward = gpu_layers.table([row]).splitlines()
    assert forward_line == "| 64, 8, 16, 4, 2 | 4 | 0.0% | forward | 2.0 ms, 70% | failed | wrong | wrong |"
    assert backward == "|  |  |  | and backward |  |  |  |  |"


def test_the_language_model_on_the_gpu_is_large_and_its_work_is_counted():
    config = PRESETS["text_sparse"].config.replace(**gpu_text.LARGE)
    model = jax.eval_shape(lambda: build_model(config, gpu_text.BYTES, nnx.Rngs(0)))
    met = all_of_them = 0.0
    for path, leaf in jax.tree.leaves_with_path(model):
        of_token = config.moe.k / config.moe.num_experts if "experts" in jax.tree_util.keystr(path) else 1
        met += of_token * leaf.size * (leaf.ndim > 1)  # norms multiply no matrix
        all_of_them += leaf.size
    assert round(all_of_them / 1e6) == 368
    assert round(met / 1e6) == 114
    keys = 12 * 768 * (512 + 1)
    assert gpu_text.flops_per_token(config) == 6 * (met + keys)
    for moe in (dict(layer="soft"), dict(zero_experts=2)):
        with pytest.raises(ValueError, match="flops_per_token counts the experts that tokens choose, each of which"):
            gpu_text.flops_per_token(config.replace(moe=moe))


def test_the_language_model_on_the_gpu_in_small():
    (row,) = gpu_text.run(quick=True)
    assert row["tokens_per_second"] > 0
    assert 0 < row["of_rate"] < 1
    line = gpu_text.table([row]).splitlines()[2]
    assert line.startswith(f"| {row['parameters'] / 1e6:.2f} M | 2 × 8 | ")


def test_without_a_gpu_the_gpu_s_command_is_one_sentence():
    command = [sys.executable, "-m", "benchmarks", "gpu"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("moejax: The benchmark gpu needs a GPU, and JAX sees only cpu;")
    assert result.stderr.count("\n") == 1


def test_every_sweep_gets_its_panel(tmp_path):
    def of(case, n):
        ways = {"mlp": 1.0, "gather": 1.0 + n / 10, "dense": 8.0}
        entries = {name: {"forward_backward": {"to_mlp": times(median=value)}} for name, value in ways.items()}
        return {"case": case._asdict() | {"group": case.group_size}, "layers": entries}

    rows = [of(case, n) for n, case in enumerate(cases(False))]
    assert [value for value, _ in pictures.sweep(rows, "tokens")] == [512, BASE.tokens, 8192]
    picture = draw.draw(results(tmp_path / "layers.json", rows))
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no picture; name the results of layers or growth or peers"):
        draw.draw(tmp_path / "limit.json")


def test_growth_has_each_case_once_and_multiples_of_the_least(tmp_path):
    every = growth.cases(quick=False)
    assert len(set(every)) == len(every) == sum(map(len, growth.SWEEPS.values())) - 3
    cost = {"ms": 6.0, "mb": 3.0}
    rows = [{"case": c._asdict(), "least": {"ms": 2.0, "mb": 2.0}, "layers": {"gather": cost}} for c in every]
    assert growth.table(rows).splitlines()[2] == "| 2048, 256, 512, 16, 2 | 2.0 ms, 2 MB | 3.00×, 1.50× |"
    assert draw.draw(results(tmp_path / "growth.json", rows)).read_bytes().startswith(b"\x89PNG")
    assert growth.held(Case(3, 5, 7, 2, 1)) == 4 * (2 * 2 * 2 * 5 * 7 + 4 * 3 * 5)


def test_peers_are_drawn(tmp_path, peer_rows):
    assert draw.draw(results(tmp_path / "peers.json", peer_rows)).exists()


def test_a_step_reads_the_experts_that_its_tokens_go_to():
    size = generation.Size(16, 1, (4,))
    dense, sparse_model = (build_model(config, 256, nnx.Rngs(0)) for config in generation.configs(size))
    others = 4 * (256 * 16 + 3 * 16 + 4 * 16 * 16)  # embeddings, norms, attention
    assert generation.bytes_of_step(dense, 1) == generation.bytes_of_step(dense, 8) == others + 4 * (3 * 16 * 64 + 16)
    for samples, read in {1: 2, 2: 3}.items():  # 4 (1 - (1 / 2)^2)
        assert generation.bytes_of_step(sparse_model, samples) == others + 4 * (16 * 4 + read * 3 * 16 * 32)


def test_a_row_of_generation_is_told_against_its_limit():
    case = dict(width=64, depth=3, experts=8, k=2, samples=8)
    row = dict(case=case, tokens_per_second=1500.0, bytes_of_step=2.5e6, bandwidth=1e10, limit=6000.0, share=0.25)
    assert generation.table([row]).splitlines()[2] == "| 64, 3, 8, 2 | 8 | 1,500 | 2.5 | 10.0 | 6,000 | 25% |"


def test_peers_in_pytorch_have_our_slots_flops_and_choices():
    pytest.importorskip("torch", reason="the peers need torch: pip install moejax[peers]")
    theirs = importlib.import_module("benchmarks.peers.layers")
    assert [theirs.gated(h) for h in (256, 1024, 12)] == [168, 680, 8]
    for group, experts, slots in ((64, 8, 20), (256, 64, 10), (256, 16, 40)):
        case = Case(group, 8, 4 * group, experts, 2)
        assert int(case.group_size * theirs.factor(case, slots) / experts) == slots


def test_a_peer_with_our_weights_answers_as_ours_and_drops_the_same():
    torch = pytest.importorskip("torch", reason="the peers need torch: pip install moejax[peers]")
    pytest.importorskip("mixture_of_experts", reason="pip install moejax[peers]")
    theirs = importlib.import_module("benchmarks.peers.layers")
    case = Case(tokens=64, d=8, h=64, experts=4, k=2, skew=1.0)
    x, ours = tokens(case)[0], sparse(case, "gather")
    ours.experts.activation = functools.partial(jax.nn.gelu, approximate=False)  # as theirs is
    layer = theirs.SPARSE["mixture-of-experts"].make(case, ours.capacity(case.group_size, train=True)).train()
    with torch.no_grad():
        for parameter, value in (
            (layer.layer.gate.w_gating, ours.router.kernel),
            (layer.layer.experts.w1, ours.experts.up.kernel),
            (layer.layer.experts.w2, ours.experts.down.kernel),
        ):
            parameter.copy_(torch.tensor(np.asarray(value)))
        answer = layer(torch.tensor(np.asarray(x)).reshape(-1, case.group_size, case.d)).reshape(x.shape)
    expected, routing = jax.jit(lambda layer, x: layer(x, train=True))(ours, x)
    assert not routing.kept.all()
    np.testing.assert_allclose(answer.numpy(), expected, atol=1e-5)
