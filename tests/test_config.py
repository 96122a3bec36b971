"""The configuration: a round trip is exact, and everything that is wrong is said at once, in sentences."""

import json
import math
import typing

import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from moejax.config import configured, flatten, from_json, make_config, to_json, wrong_words
from moejax.config.schema import everything
from moejax.data import DATASETS
from moejax.errors import UserError
from moejax.options import Needs, names_of
from moejax.presets import PRESETS
from moejax.routers import ROUTERS

SPARSE = make_config(moe={"layer": "sparse"})
NUMBERS = {
    name: field
    for name, declared in everything().items()
    for field in [next(iter(declared.values()))]
    if {int, float} & set(typing.get_args(field.annotation) or (field.annotation,)) and not names_of(field)
}


def said_of(words, base=SPARSE):
    return configured(words, base, words=True)[1]


def with_choices(name):
    """A configuration that has the option, and where it has an effect."""
    brought, field = next(iter(everything()[name].items()))
    words = [part.split() for part in brought.split(" with ")] if brought else []
    values = dict(words)
    models = {"clusters": "clusters", "mnist_tasks": "tasks", "mrpc": "pair", "mrpc_pieces": "encoder"}
    models |= {"python": "decoder"}
    sets = {model: data for data, model in models.items()}
    if "model.name" in values:
        values |= {"data.name": sets.get(values["model.name"], "mnist")}
    elif "data.name" in values:
        values |= {"model.name": models.get(values["data.name"], "image")}
    if values.get("model.name") == "clusters":
        values |= {"moe.layer": "sparse"}
    for need in field.metadata:
        if isinstance(need, Needs) and not callable(need.values):
            values[f"{name.rpartition('.')[0]}.{need.other}"] = need.values[0]
    config, problems = configured(values)
    return config, problems


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_sound_and_survives_json(name):
    config = PRESETS[name].config
    assert config.name == name
    assert from_json(to_json(config), "config.json") == (config, [])


@given(st.integers(1, 9999), st.floats(1e-6, 1e3), st.sampled_from(["dense", "sparse", "soft"]), st.none() | st.text())
def test_any_values_survive_json(epochs, rate, layer, folder):
    if folder is not None and (not folder or "\0" in folder or len(folder.encode(errors="surrogatepass")) > 255):
        folder = None
    config = make_config(data={"dir": folder}, moe={"layer": layer}, train={"epochs": epochs, "learning_rate": rate})
    assert from_json(to_json(config), "config.json") == (config, [])


def test_another_configuration_keeps_what_is_not_named():
    """Also `parallel.data`, which is called like a section."""
    spread = SPARSE.replace(name="spread", data={"limit": 300}, parallel={"data": 8})
    assert spread.replace(seed=1).replace(seed=0) == spread
    assert spread.replace(seed=1).parallel.data == 8


def test_words_are_typed():
    words = {"train.epochs": "3", "train.learning_rate": "1e-4", "moe.group_size": "98", "seed": "7"}
    config, problems = configured(words, SPARSE, words=True)
    assert problems == []
    assert (config.train.epochs, config.train.learning_rate, config.moe.group_size, config.seed) == (3, 1e-4, 98, 7)
    assert configured({"moe.group_size": "none"}, config, words=True)[0].moe.group_size is None
    assert config.replace(seed=0, train={"epochs": 5, "learning_rate": 2e-3}, moe={"group_size": None}) == SPARSE


def test_a_word_is_wrong_by_itself_if_no_choice_takes_it():
    """Two routers declare a score function, each of its own."""
    assert wrong_words({"moe.score_function": "softmax"}) == wrong_words({"moe.score_function": "sqrtsoftplus"}) == []
    (sentence,) = wrong_words({"moe.score_function": "tanh"})
    assert sentence.startswith("moe.score_function is tanh; it must be one of ")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("train.epcohs", "3", "There is no option train.epcohs; did you mean train.epochs?"),
        ("epochs", "3", "There is no option epochs; did you mean train.epochs?"),
        ("lr", "3", "There is no option lr; did you mean train.learning_rate?"),
        ("train.lr", "3", "There is no option train.lr; did you mean train.learning_rate?"),
        ("moe.experts", "3", "There is no option moe.experts; did you mean moe.num_experts?"),
        ("moe.num_expert", "3", "There is no option moe.num_expert; did you mean moe.num_experts?"),
        ("confg", "x", "There is no option confg; did you mean config?"),
        ("qqqqqq", "x", "There is no option qqqqqq; --help lists them all."),
        ("train.epochs", "3.5", "train.epochs is '3.5'; it must be a whole number from 1 to 1,000,000."),
        ("train.learning_rate", "fast", "train.learning_rate is fast; it must be a number above 0."),
        ("train.learning_rate", "nan", "train.learning_rate is nan; it must be a number above 0."),
        ("moe.capacity_factor", "inf", "moe.capacity_factor is inf; it must be a number above 0 and of at most 65,536"),
        ("moe.layer", "spare", "moe.layer is spare; it must be one of dense, sparse, soft, multi_gate."),
        ("moe.group_size", "x", "moe.group_size is x; it must be a whole number from 0 to 16,777,216, or none."),
        ("moe.renormalize", "0", "moe.renormalize is '0'; it must be true or false."),
        ("moe.k", "9", "moe.k is 9, but there are only 8 experts (moe.num_experts)."),
        ("moe.router", "switch", "moe.k is 2, but the router switch chooses 1 expert; use softmax_top_k or moe.k 1."),
        ("moe.num_expert_groups", "3", "moe.num_expert_groups is 3, which does not divide the 8 experts"),
        ("moe.topk_group", "2", "moe.topk_group is 2; it must be from 1 to 1 (moe.num_expert_groups)."),
        ("moe.load_weight", "0.1", "moe.load_weight is 0.1, but moe.router is softmax_top_k; it has an effect only"),
        ("train.router_learning_rate", "1", "but train.optimizer is adamw; it has an effect only where"),
        ("moe.jitter", "1", "moe.jitter is 1.0; it must be a number of at least 0 and below 1."),
        ("train.shift", "20", "train.shift is 20.0; it must be a number from 0 to 14."),
        ("model.name", "encoder", "model.name is encoder, which cannot read mnist; use mrpc_pieces."),
        ("seed", "-1", "seed is -1; it must be a whole number from 0 to 4,294,967,295."),
        ("train.frozen", "", "train.frozen is '', with which every parameter's path begins"),
        ("moe", "soft", "There is no option moe; did you mean moe."),
    ],
)
def test_a_wrong_word_is_one_sentence(name, text, sentence):
    _, problems = configured({name: text}, SPARSE, words=True, others=("config",))
    assert len(problems) == 1
    assert sentence in problems[0]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            {"moe.k": "3"},
            "moe.k has no effect with moe.layer soft; it belongs to moe.layer sparse. moe has here: slots",
        ),
        ({"moe.bias_update_rate": "1"}, "it belongs to moe.layer sparse with moe.router sigmoid."),
        ({"data.setting": "s1"}, "data.setting has no effect with data.name mnist; it belongs to data.name clusters."),
        ({"model.guided": "true"}, "model.guided has no effect with model.name image; it belongs to model.name flat."),
        (
            {"moe.shared": "8"},
            "moe.shared is 8, but moe.layer is soft; it has an effect only where moe.layer is sparse",
        ),
        ({"moe.balance_weight": "0"}, "moe.balance_weight is 0.0, but moe.layer is soft"),
        (
            {"moe.balance_over": "sequence"},
            "moe.balance_over is sequence, but moe.layer is soft; it has an effect only",
        ),
    ],
)
def test_an_option_without_effect_says_where_it_belongs(words, sentence):
    [said] = said_of(words, PRESETS["mnist_soft"].config)
    assert sentence in said


@pytest.mark.parametrize(
    ("optimizer", "option", "default", "where"),
    [
        ("adamw", "router_learning_rate", "0.1", "normalized"),
        ("adam", "clip_norm", "1", "adamw or one of optax"),
        ("normalized", "clip_norm", "1", "adamw or one of optax"),
        ("normalized", "weight_decay", "0.05", "adamw, adam or one of optax that takes a weight decay"),
        ("optax.sgd", "weight_decay", "0.05", "adamw, adam or one of optax that takes a weight decay"),
    ],
)
def test_an_option_without_effect_is_in_no_file_and_refused_though_it_be_the_default(optimizer, option, default, where):
    config = make_config(train={"optimizer": optimizer})
    assert f"train.{option}" not in flatten(config)
    [said] = said_of({f"train.{option}": default}, config)
    assert said.startswith(f"train.{option} is {float(default)}, but train.optimizer is ")
    assert said.endswith(f"; it has an effect only where train.optimizer is {where}.")
    older = json.loads(to_json(config))
    older["train"][option] = float(default)
    assert from_json(json.dumps(older), "config.json") == (config, [])


def test_to_switch_off_what_has_no_effect_is_no_mistake():
    words = {"train.optimizer": "normalized", "train.clip_norm": "none", "train.weight_decay": "0"}
    assert said_of(words) == []
    assert not {"train.clip_norm", "train.weight_decay"} & flatten(configured(words, SPARSE, words=True)[0]).keys()


def test_a_capacity_has_no_effect_on_a_dispatch_that_drops_nothing():
    [said] = said_of({"moe.dispatch": "grouped", "moe.capacity_factor": "1"})
    assert said.startswith("moe.capacity_factor is 1.0, but moe.dispatch is grouped")
    assert "capacity_factor" not in flatten(SPARSE.replace(moe={"dispatch": "grouped"}))


def test_a_width_of_blocks_without_experts_has_no_effect_where_every_block_has_them():
    text = PRESETS["text_sparse"].config
    with pytest.raises(UserError, match=r"^model\.hidden is 7, but every block has an MoE layer"):
        text.replace(model={"hidden": 7})
    with pytest.raises(UserError, match=r"^model\.hidden is 7, but every block has an MoE layer"):
        text.replace(model={"hidden": 7, "moe_every": 2, "depth": 1})
    assert text.replace(model={"hidden": 7, "moe_every": 2}).model.hidden == 7


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"k": 1, "router": "top_k_softmax"}, "moe.k is 1, which gives the router top_k_softmax no gradient"),
        ({"k": 3, "num_expert_groups": 4}, "moe.k is 3, but the chosen groups hold only 2 experts"),
        ({"num_expert_groups": 4, "router": "hash"}, "moe.num_expert_groups has no effect with moe.layer sparse with"),
        (
            {"dispatch": "grouped", "router": "expert_choice"},
            "moe.dispatch is grouped, which sorts tokens by the expert",
        ),
        (
            {"layer": "dense", "learn_temperature": True, "final_temperature": 0.5},
            "a temperature is either annealed or learnt",
        ),
    ],
)
def test_values_that_make_no_sense_together_are_one_sentence(values, sentence):
    with pytest.raises(UserError) as error:
        SPARSE.replace(moe=values)
    assert len(error.value.args) == 1
    assert sentence in error.value.args[0]


def test_a_guided_model_needs_a_dense_layer_of_two_experts_or_more():
    flat = {"name": "flat", "guided": True}
    with pytest.raises(UserError, match=r"model.guided is true, but moe.layer is soft; it is for the dense layer"):
        make_config(model=flat)
    with pytest.raises(UserError, match=r"model.guided is true, but moe.num_experts is 1; guide to one of at least 2"):
        make_config(model=flat, moe={"layer": "dense", "num_experts": 1})
    for model in ("flat", "image"):
        with pytest.raises(UserError, match=r"moe.assignment_weight is 0.5, but nothing is assigned to experts"):
            make_config(model={"name": model}, moe={"layer": "dense", "assignment_weight": 0.5})


def test_what_a_new_choice_has_no_option_for_is_left_and_the_rest_kept():
    soft = PRESETS["mnist_soft"].config.replace(moe={"hidden": 96, "slots": 5})
    sparse = soft.replace(moe={"layer": "sparse"})
    assert (sparse.moe.hidden, sparse.moe.k, hasattr(sparse.moe, "slots")) == (96, 2, False)
    assert sparse.train == soft.train
    cnn = make_config(data={"name": "mrpc"}, model={"name": "pair"}, moe={"expert": "cnn"})
    assert cnn.replace(data={"name": "mnist"}, model={"name": "image"}).moe.expert == "mlp"


def test_what_has_no_effect_beside_a_new_choice_is_not_kept():
    sparse = SPARSE.replace(moe={"z_weight": 0.25})
    dense = sparse.replace(moe={"layer": "dense"})
    assert from_json(to_json(dense), "config.json") == (dense, [])
    assert dense == make_config(moe={"layer": "dense"})
    grouped = sparse.replace(moe={"dispatch": "grouped", "capacity_factor": None})
    assert from_json(to_json(grouped), "config.json") == (grouped, [])


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_just_out_of_bounds_is_one_sentence(name):
    config, problems = with_choices(name)
    assert problems == []
    field = NUMBERS[name]
    limits = {
        k: v for note in field.metadata for k in ("ge", "gt", "le", "lt") if (v := getattr(note, k, None)) is not None
    }
    assert len(limits) >= 2, "every number has bounds"
    whole = int in (typing.get_args(field.annotation) or (field.annotation,))
    for kind, limit in limits.items():
        sign = -1 if kind in ("ge", "gt") else 1
        outside = limit + sign if whole else limit if kind in ("gt", "lt") else math.nextafter(limit, sign * math.inf)
        said = said_of({name: repr(outside)}, config)
        assert len(said) == 1
        assert said[0].startswith(f"{name} is ")


@given(st.sampled_from(sorted(NUMBERS)), st.integers(31, 300), st.booleans())
def test_far_out_of_bounds_is_one_short_sentence(name, digits, negative):
    config, _ = with_choices(name)
    whole = int in (typing.get_args(NUMBERS[name].annotation) or (NUMBERS[name].annotation,))
    value = (-1 if negative else 1) * (10**digits if whole else 10.0 ** max(digits, 39))
    [said] = said_of({name: repr(value)}, config)
    assert len(said) < 420


def test_all_that_is_wrong_is_said_at_once():
    words = {"moe.k": "9", "train.epochs": "0", "seed": "x", "trian.epochs": "1", "moe.slots": "2"}
    assert len(said_of(words)) == 5


def test_a_file_that_is_not_a_config_is_one_sentence():
    with pytest.raises(UserError, match=r"c\.json is not valid JSON \(line 1"):
        from_json("{", "c.json")
    with pytest.raises(UserError, match="holds list"):
        from_json("[]", "c.json")
    _, problems = from_json('{"train": {"epochs": "many", "x": 1}, "moe": null}', "c.json")
    assert len(problems) == 3


def test_the_schema_begins_with_what_every_run_has():
    assert list(flatten(make_config()))[:6] == ["name", "seed", "init", "upcycle", "log", "data.name"]
    assert list(names_of(everything()["data.name"][""])) == list(DATASETS)


def test_the_best_of_no_epochs_is_one_sentence():
    with pytest.raises(UserError, match=r"train.tested is best, but data.validation is 0"):
        make_config(data={"validation": 0}, train={"tested": "best"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"x":' * 3000 + "1" + "}" * 3000, "is not a config.json: it holds objects within objects beyond counting."),
        ("[" * 100_000, "is not a config.json: it holds objects within objects beyond counting."),
        ('{"seed": %s}' % ("9" * 4301), "is not a config.json: Exceeds the limit (4300 digits)"),
    ],
    ids=["deep", "lists", "digits"],
)
def test_json_that_python_cannot_read_is_one_sentence(text, sentence):
    with pytest.raises(UserError) as error:
        from_json(text, "c.json")
    assert str(error.value).startswith(f"c.json {sentence}")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"seed": 1, "seed": 2}', "c.json gives seed twice; leave one out."),
        ('{"train": {"epochs": 1}, "train": {"epochs": 2}}', "c.json gives train.epochs twice; leave one out."),
        ('{"train": {"epochs": 1}, "train.epochs": 2}', "c.json gives train.epochs twice; leave one out."),
        ('{"name": null}', "name is none; it must be text."),
        ('{"name": ["a"]}', "name is ['a']; it must be text."),
        ('{"data": {"dir": 3}}', "data.dir is 3; it must be text, or none."),
        ('{"tran": {}}', "There is no option tran;"),
        ('{"seed": null}', "seed is none; it must be a whole number"),
        ('{"seed": true}', "seed is true; it must be a whole number"),
        ('{"seed": "1"}', "seed is '1'; it must be a whole number"),
        ('{"seed": 1e999}', "seed is inf; it must be a whole number"),
        ('{"moe": {"layer": 5}}', "moe.layer is 5; it must be one of dense, sparse"),
        ('{"moe": {"layer": null}}', "moe.layer is none; it must be one of dense, sparse"),
        ('{"moe": {"layer": "sparse", "router": 3.5}}', "moe.router is 3.5; it must be one of softmax_top_k"),
        ('{"moe": {"layer": "sparse", "dispatch": true}}', "moe.dispatch is true; it must be one of einsum"),
        ('{"moe": {"expert": [1]}}', "moe.expert is [1]; it must be one of mlp, glu."),
        ('{"data": {"name": true}}', "data.name is true; it must be one of mnist"),
        ('{"data": {"name": null}}', "data.name is none; it must be one of mnist"),
        ('{"model": {"name": [7]}}', "model.name is [7]; it must be one of image"),
    ],
)
def test_json_has_one_meaning_or_a_sentence(text, sentence):
    _, problems = from_json(text, "c.json")
    assert [p.startswith(sentence[:30]) for p in problems] == [True]


@pytest.mark.parametrize("router", [5, ROUTERS["vmoe"], ROUTERS["vmoe"](4, 3, 2, rngs=nnx.Rngs(0))])
def test_a_configuration_takes_a_router_by_its_name_alone(router):
    with pytest.raises(UserError, match=r"^moe\.router is .*; it must be one of softmax_top_k.*, random\.$"):
        SPARSE.replace(moe={"router": router})


def test_an_empty_section_of_json_says_nothing():
    assert from_json('{"train": {}}', "c.json") == (make_config(), [])


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "nul\0", "x" * 101, "😀" * 51, "line\nbreak", "\ud800"])
def test_a_name_that_is_no_folder_is_one_sentence(name):
    [problem] = said_of({"name": name})
    assert problem.startswith("name is ")


@pytest.mark.parametrize("path", ["", "nul\0", "half\ud800", "x" * 256, "/".join(["x" * 200] * 21)])
@pytest.mark.parametrize("field", ["dir", "tokenizer"])
def test_a_path_that_can_be_none_is_one_sentence(field, path):
    base = make_config(data={"name": "mrpc"}, model={"name": "pair"}, moe={"layer": "sparse"})
    [problem] = said_of({f"data.{field}": path}, base)
    assert problem.startswith(f"data.{field} is ")
    assert len(problem) < 200
