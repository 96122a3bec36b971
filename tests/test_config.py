"""The schema: a round trip is exact, and everything that is wrong is said at once, in sentences."""

import dataclasses
import json
import math
from dataclasses import is_dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.config import (
    BOUNDS,
    Config,
    DataConfig,
    ModelConfig,
    MoeConfig,
    TrainConfig,
    contradictions,
    flatten,
    from_json,
    overlay,
    to_json,
)
from moejax.data import DATASETS, SOURCES
from moejax.errors import UserError
from moejax.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_sound_and_survives_json(name):
    config = PRESETS[name].config
    assert config.name == name
    assert contradictions(config) == []
    assert from_json(to_json(config), "config.json") == (config, [])


@given(st.integers(1, 9999), st.floats(1e-6, 1e3), st.sampled_from(["dense", "sparse", "soft"]), st.none() | st.text())
def test_any_values_survive_json(epochs, rate, layer, folder):
    if folder is not None and folder.lower() == "none":
        folder = None
    config = Config(
        data=DataConfig(dir=folder),
        moe=MoeConfig(layer=layer),
        train=TrainConfig(epochs=epochs, learning_rate=rate),
    )
    assert from_json(to_json(config), "config.json") == (config, [])


def test_overrides_are_typed():
    config, problems = overlay(
        Config(), {"train.epochs": "3", "train.learning_rate": "1e-4", "moe.group_size": "98", "seed": "7"}
    )
    assert problems == []
    assert (config.train.epochs, config.train.learning_rate, config.moe.group_size, config.seed) == (3, 1e-4, 98, 7)
    assert overlay(config, {"moe.group_size": "none"})[0].moe.group_size is None
    assert dataclasses.replace(config.train, epochs=5, learning_rate=2e-3) == Config().train


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("train.epcohs", "3", "There is no field train.epcohs; did you mean train.epochs?."),
        ("epochs", "3", "There is no field epochs; did you mean train.epochs?."),
        ("confg", "x", "There is no field confg; did you mean config?."),
        ("qqqqqq", "x", "There is no field qqqqqq; --help lists all fields."),
        ("train.epochs", "3.5", "train.epochs is '3.5', which is not a whole number."),
        ("train.learning_rate", "fast", "train.learning_rate is 'fast', which is not a number."),
        ("train.learning_rate", "nan", "train.learning_rate is 'nan', which is not a number."),
        ("moe.capacity_factor", "inf", "moe.capacity_factor is 'inf', which is not a number or none."),
        ("moe.layer", "spare", "moe.layer is 'spare', which is not one of dense, sparse, soft."),
        ("moe.group_size", "x", "moe.group_size is 'x', which is not a whole number or none."),
        ("moe", "soft", "There is no field moe; did you mean moe.k?."),
    ],
)
def test_a_wrong_override_is_one_sentence(name, text, sentence):
    config, problems = overlay(Config(), {name: text}, options=("config",))
    assert problems == [sentence]
    assert config == Config()


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("moe.k", "9", "moe.k is 9, but there are only 8 experts"),
        ("moe.k", "0", "moe.k is 0; it must be at least 1."),
        ("moe.capacity_factor", "0", "moe.capacity_factor is 0.0; it must be above 0, or none"),
        ("moe.eval_capacity_factor", "-1", "moe.eval_capacity_factor is -1.0; it must be above 0, or none"),
        ("moe.num_experts", "0", "moe.num_experts is 0; it must be at least 1."),
        ("moe.group_size", "0", "moe.group_size is 0; it must be at least 1, or none."),
        ("moe.router", "switch", "moe.k is 2, but moe.router switch chooses 1 expert; use softmax_top_k or k 1."),
        (
            "moe.num_expert_groups",
            "3",
            "moe.num_expert_groups is 3, which does not divide the 8 experts (moe.num_experts).",
        ),
        ("moe.topk_group", "2", "moe.topk_group is 2; it must be from 1 to 1 (all groups)."),
        ("moe.load_weight", "0.1", "moe.load_weight is 0.1, but moe.router softmax_top_k has no noise"),
        ("moe.jitter", "1", "moe.jitter is 1.0; it must be at least 0 and below 1."),
        ("moe.temperature", "0", "moe.temperature is 0.0; it must be above 0."),
        ("train.batch_size", "0", "train.batch_size is 0; it must be at least 1."),
        ("train.learning_rate", "-0.1", "train.learning_rate is -0.1; it must be above 0."),
        ("train.weight_decay", "-1", "train.weight_decay is -1.0; it must not be negative."),
        ("train.warmup", "1", "train.warmup is 1.0; it must be at least 0 and below 1."),
        ("train.zoom", "1.5", "train.zoom is 1.5; it must be at least 0 and below 1."),
        ("train.shift", "20", "train.shift is 20; beyond 14 pixels"),
        ("train.crop", "1", "train.crop is 1.0; it must be at least 0 and below 1."),
        ("train.blur", "-1", "train.blur is -1.0; it must not be negative."),
        ("data.validation", "-5", "data.validation is -5; it must not be negative."),
        ("model.heads", "0", "model.heads is 0; it must be at least 1."),
        ("model.name", "encoder", "model.name is encoder, which cannot read mnist; use mrpc_pieces."),
        ("train.consistency", "-1", "train.consistency is -1.0; it must not be negative."),
        ("seed", "-1", "seed is -1; it must be from 0 to 4294967295."),
        ("seed", str(2**32), "seed is 4294967296; it must be from 0 to 4294967295."),
    ],
)
def test_a_value_that_makes_no_sense_is_one_sentence(name, text, sentence):
    config, problems = overlay(Config(moe=MoeConfig(layer="sparse")), {name: text})
    assert problems == []
    found = [p for p in contradictions(config) if sentence in p]
    assert len(found) == 1


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"k": 1, "router": "top_k_softmax"}, "moe.k is 1, which gives moe.router top_k_softmax no gradient"),
        ({"k": 3, "num_expert_groups": 4}, "moe.k is 3, but the chosen groups hold only 2 experts"),
        (
            {"num_expert_groups": 4, "router": "hash"},
            "only the routers softmax_top_k and sigmoid limit the choice to groups",
        ),
        (
            {"dispatch": "grouped", "router": "expert_choice"},
            "moe.dispatch is grouped, which sorts tokens by the expert",
        ),
        ({"learn_temperature": True, "final_temperature": 0.5}, "a temperature is either annealed or learnt"),
        ({"deep_gate": True}, "moe.deep_gate is true, but moe.layer is sparse and model.name image"),
        ({"guided": True}, "moe.guided is true, but moe.layer is sparse and model.name image"),
        ({"assignment_weight": 0.5}, "moe.assignment_weight is 0.5, but moe.guided is false"),
    ],
)
def test_values_that_make_no_sense_together_are_one_sentence(values, sentence):
    problems = contradictions(Config(moe=MoeConfig(layer="sparse", **values)))
    assert [sentence in p for p in problems] == [True]


def test_guiding_needs_two_experts():
    config = Config(model=ModelConfig(name="flat"), moe=MoeConfig(layer="dense", num_experts=1, guided=True))
    problem = "moe.guided is true, but moe.num_experts is 1; guide to one of at least 2."
    assert contradictions(config) == [problem]


def test_truth_values_are_words():
    config, problems = overlay(Config(), {"moe.renormalize": "False", "moe.learn_temperature": "true"})
    assert (config.moe.renormalize, config.moe.learn_temperature, problems) == (False, True, [])
    _, problems = overlay(Config(), {"moe.renormalize": "0"})
    assert problems == ["moe.renormalize is '0', which is not true or false."]


def test_a_file_that_is_not_a_config_is_one_sentence():
    with pytest.raises(UserError, match=r"c\.json is not valid JSON \(line 1"):
        from_json("{", "c.json")
    with pytest.raises(UserError, match="holds list"):
        from_json("[]", "c.json")
    _, problems = from_json(json.dumps({"train": {"epochs": "many", "x": 1}, "moe": None}), "c.json")
    assert len(problems) == 3


def test_the_schema_names_the_sources_and_sets_that_there_are():
    hints = DataConfig.__dataclass_fields__
    assert str(SOURCES)[1:-1] in str(hints["source"].type)
    assert str(tuple(DATASETS))[1:-1] in str(hints["name"].type)
    assert list(flatten(Config()))[:3] == ["name", "seed", "data.name"]


def test_the_best_of_no_epochs_is_one_sentence():
    config = Config(data=DataConfig(validation=0), train=TrainConfig(tested="best"))
    [problem] = contradictions(config)
    assert problem.startswith("train.tested is best, but data.validation is 0")


def numbers() -> dict[str, type]:
    """int or float, for each field that is a number or none, by its dotted name."""
    sections = {"": Config} | {f"{f.name}.": f.type for f in dataclasses.fields(Config) if is_dataclass(f.type)}
    kinds = {f"{s}{f.name}": f.type for s, cls in sections.items() for f in dataclasses.fields(cls)}
    return {name: number for name, kind in kinds.items() for number in (int, float) if kind in (number, number | None)}


def outside(name: str, kind: type) -> list[tuple[int | float, int | float]]:
    """Values just out of bounds, each with the bound that its sentence must name."""
    bound = BOUNDS[name]
    if kind is int:
        return [(bound.low - 1, bound.low), (bound.high + 1, bound.high)]
    above = bound.high if bound.below else math.nextafter(bound.high, math.inf)
    return [(math.nextafter(bound.low, -math.inf), bound.low), (above, bound.high)]


def test_every_number_has_bounds():
    assert set(numbers()) == set(BOUNDS)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("layer", ["sparse", "soft"])
def test_what_is_just_out_of_bounds_is_one_sentence(name, layer):
    base = Config(moe=MoeConfig(layer=layer))
    for value, bound in outside(name, numbers()[name]):
        config, problems = overlay(base, {name: repr(value)})
        assert problems == []
        [said] = [p for p in contradictions(config) if p.startswith(f"{name} is ")]
        if any(said.startswith(f"{name} is {value}{closer}") for closer in (", but", ", which", "; it must be from")):
            continue  # another field bounds it more closely
        sides = {0: ("negative", "from 0"), 1e-30: ("at least 1e-30",), 1: ("at least 1", "below 1", "from 1")}
        words = (*sides.get(bound, ()), f"{bound:g}", str(bound))
        assert any(word in said for word in words), said
        assert f"{value:g}" in said or str(value) in said


@given(st.sampled_from(sorted(BOUNDS)), st.integers(10, 300), st.booleans())
def test_far_out_of_bounds_is_one_short_sentence(name, digits, negative):
    kind = numbers()[name]
    value = (-1 if negative else 1) * (10**digits if kind is int else 10.0 ** max(digits, 39))
    config, problems = overlay(Config(moe=MoeConfig(layer="sparse")), {name: repr(value)})
    said = [p for p in contradictions(config) if p.startswith(f"{name} is ")]
    assert problems == []
    assert len(said) == 1
    assert len(said[0]) < 420


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
        ('{"name": null}', "name is null, which is not text."),
        ('{"name": ["a"]}', 'name is ["a"], which is not text.'),
        ('{"data": {"dir": 3}}', "data.dir is 3, which is not text or none."),
        ('{"tran": {}}', "There is no field tran;"),
        ('{"seed": null}', "seed is 'none', which is not a whole number."),
        ('{"seed": 1e999}', "seed is 'Infinity', which is not a whole number."),
    ],
)
def test_json_has_one_meaning_or_a_sentence(text, sentence):
    _, problems = from_json(text, "c.json")
    assert [p.startswith(sentence[:30]) for p in problems] == [True]


def test_an_empty_section_of_json_says_nothing():
    assert from_json('{"train": {}}', "c.json") == (Config(), [])


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "nul\0", "x" * 101, "line\nbreak", "\ud800"])
def test_a_name_that_is_no_folder_is_one_sentence(name):
    [problem] = contradictions(Config(name=name))
    assert problem.startswith("name is ")


@pytest.mark.parametrize("path", ["", "nul\0", "x" * 256, "/".join(["x" * 200] * 21)])
@pytest.mark.parametrize("field", ["dir", "tokenizer"])
def test_a_path_that_can_be_none_is_one_sentence(field, path):
    [problem] = contradictions(Config(data=DataConfig(**{field: path})))
    assert problem.startswith(f"data.{field} is ")
    assert len(problem) < 200


def test_freezing_everything_by_nothing_is_one_sentence():
    [problem] = contradictions(Config(train=TrainConfig(frozen="")))
    assert problem.startswith("train.frozen is '', with which every parameter's path begins")
