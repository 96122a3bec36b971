"""What a run found, for its summary.json: on its data, on the test examples, on its network."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from moejax.data.dataset import Dataset, Examples, rows
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


def facts_of_test(result: Evaluation, of_tasks: dict[str, float], data: Dataset) -> dict[str, Any]:
    """How well it does on the test examples beside the most frequent answer, and how its experts are used."""
    return {
        "test_accuracy": result.accuracy,
        **({"test_accuracy_of": of_tasks} if of_tasks else {}),
        "test_loss": result.loss,
        **({} if result.f1 is None else {"test_f1": result.f1}),
        "majority": majority(data.test),
        **({"validation_majority": majority(data.validation)} if rows(data.validation) else {}),
        **routing_facts(result, data.test, data.num_classes),
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
    count = rows(examples)
    of_tasks = examples["label"].reshape(count, -1).T
    return float(np.mean([np.bincount(labels).max() / count for labels in of_tasks]))
