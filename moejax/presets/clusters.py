"""Synthetic clusters (Chen et al. 2022): a single model and a mixture, linear and cubic; the setting by data.setting.

`clusters_moe_*` follow our own rule, which is the steadiest; `clusters_authors_*` the authors' code (raw gates, noise
also at test, a softmax of the softmax, their early stop); `clusters_paper_*` what the paper says.
"""

from moejax.presets.preset import Preset

TRAIN = 16_000  # all examples at once
_ACTIVATIONS = {"linear": "linear", "nonlinear": "cubic"}


def single(kind: str, filters: int = 128) -> dict:
    """One expert of so many filters, by Adam."""
    return dict(
        name=f"clusters_single_{kind}",
        data=dict(name="clusters"),
        model=dict(name="clusters", activation=_ACTIVATIONS[kind]),
        moe=dict(layer="dense", num_experts=1, hidden=filters),
        train=dict(
            epochs=801,
            batch_size=TRAIN,
            optimizer="adam",
            learning_rate=0.003 if kind == "linear" else 0.01,
            schedule="constant",
            warmup=0.0,
            weight_decay=5e-4,
            evaluate_every=100,
            chunk=1,
        ),
    )


def mixture(kind: str) -> dict:
    """Eight experts of 16 filters, top-1, by normalised gradient descent: the rule of the authors' code."""
    return dict(
        name=f"clusters_authors_{kind}",
        data=dict(name="clusters"),
        model=dict(name="clusters", activation=_ACTIVATIONS[kind], init_scale=1e-3, double_softmax=True),
        moe=dict(
            layer="sparse",
            num_experts=8,
            hidden=16,
            k=1,
            router="uniform",
            raw_weights=True,
            eval_noise=True,
            dispatch="grouped",
            group_size=1,
            balance_weight=0.0,
            z_weight=0.0,
        ),
        train=dict(
            epochs=501,
            batch_size=TRAIN,
            optimizer="normalized",
            learning_rate=1e-3,
            router_learning_rate=0.1,
            schedule="constant",
            warmup=0.0,
            stop_rise=0.02,
            stop_below=0.314,
            evaluate_every=100,
            chunk=1,
        ),
    )


def papers_mixture(kind: str) -> dict:
    """The paper's own rule: gates are probabilities, the logistic loss, noise in training alone."""
    config = mixture(kind)
    return config | dict(
        name=f"clusters_paper_{kind}",
        model=config["model"] | dict(double_softmax=False),
        moe=config["moe"] | dict(raw_weights=False, eval_noise=False),
        train=config["train"] | dict(stop_rise=None, stop_below=None),
    )


def our_mixture(kind: str) -> dict:
    """The paper's rule with a router that learns faster, and rates that decay before experts fit the normal noise.

    Chosen on validation examples of seeds above 99.
    """
    config = papers_mixture(kind)
    train = config["train"] | dict(epochs=400, schedule="cosine", router_learning_rate=0.3)
    return config | dict(name=f"clusters_moe_{kind}", train=train)


PRESETS = {
    "clusters_single_linear": Preset(single("linear"), "synthetic clusters, S1", "25 seconds", "70.1 %"),
    "clusters_single_nonlinear": Preset(single("nonlinear"), "synthetic clusters, S1", "100 seconds", "78.2 %"),
    "clusters_moe_linear": Preset(our_mixture("linear"), "synthetic clusters, S1", "30 seconds", "98.5 %; S2 95.8 %"),
    "clusters_moe_nonlinear": Preset(our_mixture("nonlinear"), "synthetic clusters, S1", "30 seconds", "99.99 %"),
    "clusters_authors_linear": Preset(mixture("linear"), "synthetic clusters, S1", "30 seconds", "93.7 %"),
    "clusters_authors_nonlinear": Preset(mixture("nonlinear"), "synthetic clusters, S1", "35 seconds", "98.6 %"),
    "clusters_paper_linear": Preset(papers_mixture("linear"), "synthetic clusters, S1", "30 seconds", "98.7 %"),
    "clusters_paper_nonlinear": Preset(papers_mixture("nonlinear"), "synthetic clusters, S1", "35 seconds", "99.99 %"),
}
