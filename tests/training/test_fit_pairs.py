"""A whole run on sentence pairs, which have no images: F1, the majority answer and a report."""

import json

import numpy as np

from moejax.config import make_config
from moejax.data.dataset import Dataset
from moejax.interrupt import StopSignal
from moejax.report import render
from moejax.training.fit import Fit
from moejax.training.folder import RunFolder
from moejax.training.progress import Progress


def pairs(n: int, seed: int) -> dict[str, np.ndarray]:
    """The second sentence is the first one turned round, or another one: learnt in a few steps."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.6).astype(np.int32)
    first, other = rng.integers(1, 30, (2, n, 6), dtype=np.int32)
    return {"first": first, "second": np.where(label[:, None] == 1, first[:, ::-1], other), "label": label}


def test_a_run_on_pairs_ends_with_f1_and_a_report(tmp_path):
    data = Dataset("mrpc", "dir", "made on the spot", {}, pairs(120, 0), pairs(30, 1), pairs(60, 2), 2)
    config = make_config(
        name="pairs",
        data=dict(name="mrpc", vocabulary=30, length=6),
        model=dict(name="pair", width=8, embedding=4, dropout=0.1),
        moe=dict(layer="sparse", num_experts=2, hidden=8, k=1),
        train=dict(epochs=3, batch_size=12, learning_rate=2e-2, chunk=10),
    )
    fit = Fit(config, data, RunFolder.create(tmp_path / "run", config), Progress())
    assert fit.train(StopSignal())
    summary = fit.test()
    assert summary["test_accuracy"] > 0.9
    assert summary["test_f1"] > 0.9
    for name, split in (("majority", data.test), ("validation_majority", data.validation)):
        share = float(split["label"].mean())
        assert summary[name] == max(share, 1 - share)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("f1" in record for record in records if record["kind"] != "train")
    assert "F1" in render(tmp_path / "run").read_text()
    with np.load(fit.folder.path / "routing.npz") as arrays:
        assert not any(name.startswith("sample") for name in arrays)
    assert RunFolder.open(tmp_path / "run")[1] == config
