"""What a run found, for its summary.json: on its data, on the test examples, on its network."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from moejax import metrics
from moejax.config import Config
from moejax.data.dataset import Dataset, Examples, is_text, rows
from moejax.parameters import parameters
from moejax.training.environment import describe_device
from moejax.training.evaluate import Evaluation, flops_per_example, routing_facts


def facts_of_data(data: Dataset) -> dict[str, Any]:
    """Where they are from, and how many there are."""
    return {
        "dataset": data.name,
        "data_source": data.source,
        "data_origin": data.origin,
        "data_sha256": data.sha256,
        "train_examples": rows(data.train),
        "validation_examples": rows(data.validation),
        "test_examples": rows(data.test),
    }


def scores(result: Evaluation, examples: Examples, data: Dataset) -> dict[str, Any]:
    """Scores of a split beside loss and accuracy: each task's accuracy, F1, bits a byte; those that there are."""
    of_tasks = dict(zip(data.tasks, result.of_tasks, strict=True))
    size = data.bytes_per_token(examples)
    return {
        **({"accuracy_of": of_tasks} if of_tasks else {}),
        **({} if result.f1 is None else {"f1": result.f1}),
        **({} if size is None else {"bits_per_byte": metrics.bits_per_byte(result.loss, size)}),
    }


def in_words(beside: Mapping[str, Any]) -> str:
    """Such scores in a line, each with two blanks before it."""
    f1, bits = beside.get("f1"), beside.get("bits_per_byte")
    said = [] if f1 is None else [f"F1 {f1:.2%}"]
    said += [] if bits is None else [f"{bits:.3f} bits a byte"]
    said += [f"{task} {accuracy:.2%}" for task, accuracy in beside.get("accuracy_of", {}).items()]
    return "".join(f"  {one}" for one in said)


def facts_of_validation(records: Iterable[Mapping[str, Any]], step: int) -> dict[str, float]:
    """What metrics.jsonl has of the validation examples after so many steps: those whose parameters are tested."""
    of_step = [record for record in records if (record["kind"], record["step"]) == ("validation", step)]
    names = ("accuracy", "loss", "f1", "bits_per_byte")
    return {f"validation_{name}": of_step[-1][name] for name in names if of_step and name in of_step[-1]}


def gates_of_layer(config: Config, data: Dataset) -> int:
    """How many gates a layer has to the same experts."""
    return len(data.tasks) if config.moe.layer == "multi_gate" else 1


def facts_of_test(result: Evaluation, data: Dataset, gates: int) -> dict[str, Any]:
    """How well it does on the test examples beside the most frequent answer, and how its experts are used."""
    return {
        "test_accuracy": result.accuracy,
        "test_loss": result.loss,
        **{f"test_{name}": value for name, value in scores(result, data.test, data).items()},
        "majority": majority(data.test),
        **({"validation_majority": majority(data.validation)} if rows(data.validation) else {}),
        **routing_facts(result, data.test, gates),
    }


def facts_of_network(model: nnx.Module, data: Dataset, batch_size: int) -> dict[str, Any]:
    """Its size, and what it runs on."""
    return {
        "parameters": sum(p.size for p in jax.tree.leaves(parameters(model))),
        "flops_per_example": flops_per_example(model, data.test, batch_size),
        "device": describe_device(),
    }


def majority(examples: Examples) -> float:
    """The accuracy of always giving the most frequent label; of several tasks the mean."""
    label = examples["label"]
    of_tasks = [label.ravel()] if is_text(examples) else label.reshape(len(label), -1).T
    return float(np.mean([np.bincount(labels).max() / len(labels) for labels in of_tasks]))
