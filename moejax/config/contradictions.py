"""Values of a configuration that make no sense, alone or beside the others."""

from pathlib import Path

from moejax.arguments import sparse_problems
from moejax.config.bounds import abridged, out_of_bounds
from moejax.config.mesh_shape import mesh_problems
from moejax.config.overlay import flatten
from moejax.config.schema import Config, MoeConfig

_IMAGES = ("mnist", "fashion_mnist")
DATA_OF_MODELS = {
    **dict.fromkeys(("image", "flat", "lstm"), _IMAGES),
    "clusters": ("clusters",),
    "pair": ("mrpc",),
    "encoder": ("mrpc_pieces",),
}


def contradictions(config: Config) -> list[str]:
    """One sentence for each."""
    others = _of_texts(config) + _beside_each_other(config)
    # A field that others bound more closely is said once.
    outside = out_of_bounds(flatten(config)).items()
    return [said for name, said in outside if not any(p.startswith(f"{name} is") for p in others)] + others


def _beside_each_other(config: Config) -> list[str]:
    moe, problems = config.moe, _of_a_model(config)
    if moe.layer == "sparse" and moe.num_experts > 0:
        problems += _of_a_sparse_layer(moe)
    if moe.learn_temperature and moe.final_temperature is not None:
        problems.append(
            f"moe.final_temperature is {moe.final_temperature:g}, but moe.learn_temperature is true; a temperature is"
            " either annealed or learnt."
        )
    if config.model.name == "clusters":
        problems += _of_clusters(config)
    problems += _of_guidance(config)
    if config.train.tested == "best" and config.data.validation == 0:
        problems.append(
            "train.tested is best, but data.validation is 0, so that no epoch can be the best; give data.validation"
            " some examples or choose train.tested=last."
        )
    return problems + mesh_problems(config)


def _of_texts(config: Config) -> list[str]:
    problems, name = [], config.name
    if name in ("", ".", "..") or len(name) > 100 or any(c in "/\\" or not c.isprintable() for c in name):
        problems.append(
            f"name is {abridged(repr(name))}; it is part of a folder's name: 1 to 100 printable characters, without"
            " slashes."
        )
    if config.train.frozen == "":
        problems.append(
            "train.frozen is '', with which every parameter's path begins; give it the beginning of some, or none."
        )
    paths = {"data.dir": config.data.dir, "data.tokenizer": config.data.tokenizer}
    return problems + [f"{field} is {bad}" for field, path in paths.items() if (bad := path_problem(path))]


def path_problem(path: str | None) -> str:
    """Why no file system has such a path; empty for one that may be there."""
    if path is None:
        return ""
    if not path or "\0" in path:
        return f"{abridged(repr(path))}, which can be no path."
    parts = [part.encode(errors="surrogatepass") for part in Path(path).parts]
    if sum(map(len, parts)) > 4000 or any(len(part) > 255 for part in parts):
        return f"{abridged(repr(path))}; a path has at most 4,000 bytes, and each of its names 255."
    return ""


def _of_a_model(config: Config) -> list[str]:
    model, moe, data = config.model.name, config.moe, config.data.name
    problems = []
    if data not in DATA_OF_MODELS[model]:
        problems.append(f"model.name is {model}, which cannot read {data}; use {' or '.join(DATA_OF_MODELS[model])}.")
    if model == "pair":
        if moe.layer == "sparse" and moe.dispatch == "grouped":
            problems.append("moe.dispatch is grouped, which the experts of model.name pair cannot use; use gather.")
        if moe.shared:
            problems.append(f"moe.shared is {moe.shared}, but model.name pair has no shared expert; use 0.")
    elif moe.expert in ("cnn", "rnn"):
        problems.append(f"moe.expert is {moe.expert}, which reads sentences; with model.name {model} use mlp or glu.")
    if model == "encoder":
        heads, width = config.model.heads, config.model.width
        if heads > 0 and width % heads:
            problems.append(f"model.heads is {heads}, which does not divide model.width, {width}.")
        if moe.expert == "glu":
            problems.append("moe.expert is glu, but the experts of model.name encoder are copies of an MLP; use mlp.")
    return problems


def _of_guidance(config: Config) -> list[str]:
    moe, problems = config.moe, []
    for name in ("deep_gate", "guided"):
        if getattr(moe, name) and (moe.layer != "dense" or config.model.name != "flat"):
            problems.append(
                f"moe.{name} is true, but moe.layer is {moe.layer} and model.name {config.model.name}; it is for the"
                " dense layer of the flat model."
            )
    if moe.guided and moe.num_experts < 2:
        problems.append(f"moe.guided is true, but moe.num_experts is {moe.num_experts}; guide to one of at least 2.")
    if moe.assignment_weight and not moe.guided:
        problems.append(
            f"moe.assignment_weight is {moe.assignment_weight:g}, but moe.guided is false, so nothing is assigned;"
            " set it to true."
        )
    return problems


def _of_a_sparse_layer(moe: MoeConfig) -> list[str]:
    shared_with_the_layer = (
        *("num_experts", "k", "router", "num_expert_groups", "topk_group"),
        *("dispatch", "capacity_factor", "eval_capacity_factor", "group_size"),
    )
    problems = sparse_problems(prefix="moe.", **{name: getattr(moe, name) for name in shared_with_the_layer})
    if moe.load_weight and moe.router not in ("noisy_top_k", "vmoe"):
        problems.append(
            f"moe.load_weight is {moe.load_weight:g}, but moe.router {moe.router} has no noise to expect a load from;"
            " use noisy_top_k or vmoe."
        )
    return problems


def _of_clusters(config: Config) -> list[str]:
    problems = []
    if config.moe.layer == "soft":
        problems.append("moe.layer is soft, which cannot route by a sum of patches (model.name clusters); use sparse.")
    if config.model.activation not in ("linear", "cubic"):
        problems.append(f"model.activation is {config.model.activation}, but clusters' filters are linear or cubic.")
    if config.moe.hidden % 2:
        problems.append(f"moe.hidden is {config.moe.hidden}; half of a clusters expert's filters is for each class.")
    if config.moe.shared:
        problems.append(f"moe.shared is {config.moe.shared}, but model.name clusters has no shared expert; use 0.")
    return problems
