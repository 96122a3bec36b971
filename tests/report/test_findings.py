"""What a page says of this run: each sentence worked out by hand from a few numbers."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moejax.report import findings
from moejax.report.ailments import HEALTHY as SOUND
from moejax.report.ailments import ailments
from moejax.report.headline import score
from moejax.report.record import Record
from moejax.report.sections import SECTIONS


def record(*, layer: str = "sparse", validation=(0.5, 0.4), **routing) -> Record:
    """Of one or two layers and as many experts as `load` says."""
    arrays = {name: np.array(value, np.float64) for name, value in routing.items()}
    columns = {"step": np.array([10.0, 20.0]), "loss": np.array(validation)}
    empty = {"environment": {}, "data": {}, "summary": {}, "train": {}, "test": {}, "remarks": ()}
    return Record(folder=Path(), config={"moe": {"layer": layer}}, validation=columns, routing=arrays, **empty)


EVEN = [[[0.25] * 4]]


def test_the_load_in_words():
    found = findings.load(record(load=[[[0.4, 0.3, 0.29, 0.01]]]))
    assert found == (
        "At the end the busiest expert, expert 0 of Layer 0, has 1.60 times an equal share, the idlest, expert 3 of"
        " Layer 0, 0.04; 1 is dead."
    )
    assert findings.load(record(load=EVEN)).endswith("1.00; none is dead.")


@pytest.mark.parametrize(
    ("entropy", "verdict"),
    [
        ([0.4, 0.6], "it decides"),
        ([0.4, 1.0], "it tells tokens apart, and is not sure"),
        ([1.38, 0.4], "in Layer 0 it tells hardly any two experts apart"),
        ([1.38, 1.37], "that is its ceiling: it tells hardly any two experts apart"),
    ],
)
def test_the_gate_in_words(entropy, verdict):
    """Of at most ln 4 = 1.39."""
    found = findings.gate(record(load=EVEN, gate_entropy=[entropy], dropped=[[0.02, 0.0]]))
    low, high = sorted(entropy)
    assert found == (
        f"The gate's entropy ends at {low:.2f} to {high:.2f} of 1.39 nats: {verdict}; 1.0% of the choices are dropped"
        " at the end."
    )


def test_curves_labels_and_mistakes_in_words():
    assert findings.curves(record()) == "Validation ends at 0.400 nats, where it is lowest or close to it."
    assert findings.curves(record(validation=(0.4, 0.5))) == (
        "Validation was best at step 10, with 0.400 nats, and ends at 0.500: it turned upwards."
    )
    a_little = record(validation=(0.4, 0.416))  # the caption and the head of the page say the same of it
    assert findings.curves(a_little).endswith("close to it.")
    assert "turned upwards" not in "".join(ailments(a_little))
    table = [[[6, 2], [1, 3]]]
    assert findings.labels(record(label_expert=table)) == (
        "Label 0 leans most on one expert: 75% of it goes to expert 0 of Layer 0; an equal share is 50%."
    )
    assert findings.confusion(record(confusion=[[9, 1], [0, 10]])) == (
        "Most often 0 is taken for 1, once; the hardest label is 0, with 10.0% wrong."
    )
    assert findings.confusion(record(confusion=[[9, 0], [0, 10]])) == "Nothing is wrong."


def test_a_slot_of_two_tokens_in_equal_parts_is_a_mixture_of_two():
    parts = np.zeros((1, 1, 4, 1, 1))
    parts[0, 0, :2] = 0.5
    assert findings.dispatch(record(sample_dispatch=parts)) == (
        "A slot is a mixture of about 2 of an image's 4 tokens."
    )


HEALTHY = dict(load=EVEN, gate_entropy=[[0.4]], dropped=[[0.0]], experts_by_position=[0.2])


@pytest.mark.parametrize(
    ("change", "said", "option"),
    [
        ({"load": [[[0.4, 0.3, 0.29, 0.01]]]}, "1 expert is dead", "moe.balance_weight"),
        ({"load": [[[0.97, 0.01, 0.01, 0.01]]]}, "one expert has 3.9 times an equal share, and 3 of 4", "sigmoid"),
        ({"gate_entropy": [[math.log(4)]]}, "entropy is at its ceiling in Layer 0", "moe.entropy_weight"),
        ({"dropped": [[0.3]]}, "30% of the choices are dropped in training", "moe.capacity_factor"),
        ({"experts_by_position": [0.97]}, "go by the token's place alone", "moe.router hash"),
        ({"validation": (0.4, 0.5)}, "Validation was best at step 10 and turned upwards", "train.tested best"),
    ],
)
def test_each_ailment_is_said_with_what_to_change(change, said, option):
    assert ailments(record(**HEALTHY)) == [SOUND]
    (sentence,) = ailments(record(**(HEALTHY | change)))
    assert said in sentence
    assert option in sentence


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        ([[0, 1, 2, 3], [1, 0, 3, 3], [0, 1, 2, 3]], "A frame before the last one, 25% of the tokens have the expert"),
        ([[1, 0, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]], "From step 20 on at least nine tokens in ten have the expert"),
        ([[0, 1, 2, 3]], ""),
    ],
)
def test_since_when_tokens_have_their_expert(frames, sentence):
    steps = 10 * np.arange(1, len(frames) + 1)
    said = findings.film(record(film=np.array(frames)[:, None, None], film_step=steps))
    assert said.startswith(sentence)
    assert bool(said) == bool(sentence)


def test_what_is_dropped_on_test_counts_before_what_is_dropped_in_training():
    tested = replace(record(**HEALTHY | {"dropped": [[0.3]]}), summary={"dropped": 0.03})
    assert ailments(tested)[0].startswith("3% of the choices are dropped on test. Raise moe.eval_capacity_factor")
    assert findings.gate(tested).endswith("30.0% of the choices are dropped at the end, 3.0% on test.")


def test_beside_the_accuracy_of_yes_or_no_stand_f1_and_the_most_frequent_answer():
    summary = {"test_accuracy": 0.7, "test_examples": 100, "test_f1": 0.8, "majority": 0.665}
    accuracy, meaning = score(replace(record(), summary=summary))
    assert accuracy == 0.7
    assert meaning == "test accuracy: 30 errors out of 100, F1 80.00%; always the most frequent answer 66.50%"


def test_a_dense_layer_is_not_told_of_options_it_has_not():
    ailing = HEALTHY | {"load": [[[0.97, 0.01, 0.01, 0.01]]], "gate_entropy": [[1.386]], "experts_by_position": [1.0]}
    sentences = " ".join(ailments(record(**ailing, layer="dense")))
    assert "moe.usage_weight" in sentences
    assert not any(option in sentences for option in ("balance_weight", "z_weight", "moe.router"))


def test_where_nothing_was_recorded_nothing_is_said():
    assert ailments(record()) == []
    assert ailments(record(load=[[[1.0]]])) == []
    assert findings.curves(replace(record(), validation={})) == ""


def test_numbers_that_are_none_are_said_or_left_out():
    bad = record(load=[[[math.nan] * 4]], gate_entropy=[[math.nan]], validation=(math.nan, math.nan))
    assert findings.load(bad) == "The last loads are not numbers."
    assert findings.gate(bad) == ""
    assert findings.curves(bad) == "No validation loss is a number."
    assert ailments(bad) == [
        "The last loads or losses are not finite numbers: the run has diverged. Lower train.learning_rate."
    ]
    half = record(load=EVEN, experts_by_content=[0.3], experts_by_position=[math.nan])
    assert findings.experts_by(half) == "Of what decides a token's experts, in Layer 0 the content 30%."


def with_options(found: Record, **of_moe) -> Record:
    return replace(found, config={**found.config, "moe": found.config["moe"] | of_moe})


def test_what_is_dropped_on_test_alone_is_said_in_the_caption():
    found = replace(record(load=EVEN, dropped=[[0.0]]), summary={"dropped": 0.3})
    assert findings.gate(found) == "0.0% of the choices are dropped at the end, 30.0% on test."
    assert findings.gate(record(load=EVEN, dropped=[[0.0]])) == "Nothing is dropped."


def test_no_advice_is_given_that_is_taken_already_or_has_no_effect():
    collapsed = record(load=[[[0.97, 0.01, 0.01, 0.01]]])
    assert "sigmoid" in ailments(collapsed)[0]
    assert "sigmoid" not in ailments(with_options(collapsed, router="sigmoid"))[0]
    even = record(load=EVEN, gate_entropy=[[1.386]], experts_by_position=[1.0])
    assert len(ailments(even)) == 2
    assert ailments(with_options(even, router="hash")) == [SOUND]
    turned = record(load=EVEN, validation=(0.4, 0.6))
    assert "train.tested best" in ailments(turned)[0]
    assert "train.tested" not in ailments(replace(turned, config=turned.config | {"train": {"tested": "best"}}))[0]
    left = with_options(replace(record(load=EVEN), summary={"dropped": 0.3}), router="expert_choice")
    assert "30.0% on test" in findings.gate(replace(left, routing=left.routing | {"dropped": np.full((1, 1), 0.4)}))
    assert ailments(left) == ["30% of the tokens are taken by no expert on test. Raise moe.eval_capacity_factor."]


def test_experts_that_compute_are_dead_where_those_that_do_not_take_all():
    found = with_options(record(load=[[[0.0, 0.0, 0.5, 0.5]]]), zero_experts=2)
    assert (found.computing, found.idle) == (2, "no computation: 2–3 zero")
    assert ailments(found)[0].startswith("2 experts are dead")


def test_an_expert_that_one_of_several_gates_leaves_is_not_dead():
    apart = [[[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]]
    assert ailments(record(load=apart, layer="multi_gate")) == [SOUND]
    assert findings.load(record(load=apart, layer="multi_gate")) == (
        "At the end the busiest expert, expert 0, has 1.00 times an equal share, the idlest, expert 0, 1.00; none is"
        " dead."
    )
    assert ailments(record(load=[[[0.5, 0.5, 0.0, 0.0]] * 2], layer="multi_gate"))[0].startswith("2 experts are dead")


def test_labels_of_several_tasks_are_said_to_be_the_first_one_s():
    found = replace(record(confusion=[[3, 2], [0, 5]]), summary={"test_accuracy_of": {"parity": 0.7, "digit": 0.9}})
    assert findings.confusion(found).startswith("Most often 0 of parity, the first task, is taken for 1, 2 times")


def test_of_a_held_out_text_that_is_too_long_what_is_shown_is_spoken_of():
    nats = np.full((16, 512), 0.5 * math.log(2))
    nats[15, 3] = 14 * math.log(2)
    assert findings.held_out(record(sample_nats=nats)).endswith("0.50 bits on average, the costliest 0.5.")


def test_only_images_are_spoken_of_as_images():
    pairs = replace(record(), data={"shapes": {"tokens": [60]}})
    assert {s.name for s in SECTIONS if s.speaks_of(record())} - {s.name for s in SECTIONS if s.speaks_of(pairs)} == {
        *("positions", "places", "favourites")
    }
