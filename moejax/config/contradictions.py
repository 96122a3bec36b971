"""Values of a configuration that make no sense, alone or beside the others."""

from moejax.arguments import sparse_problems
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
    moe, t = config.moe, config.train
    at_least_one = [
        *("model.stem", "model.kernel", "model.stride", "model.width", "model.depth", "model.embedding"),
        *("model.second_hidden", "model.heads", "model.moe_every", "model.room", "data.vocabulary", "data.length"),
        *("moe.num_experts", "moe.hidden", "moe.slots"),
        *("train.epochs", "train.batch_size", "train.evaluation_batch", "train.chunk", "train.evaluate_every"),
    ]
    above_zero = [
        *("moe.scale", "moe.weight_scale", "moe.temperature", "moe.final_temperature"),
        *("train.learning_rate", "train.router_learning_rate", "train.task_weight", "train.clip_norm"),
        *("data.limit", "data.evaluation_limit"),
        *("model.init_scale", "train.stop_rise", "train.stop_below"),
    ]
    not_negative = [
        *("data.validation", "model.neighbours", "model.upcycling_noise", "moe.shared", "moe.bias_rate"),
        *("moe.balance_weight", "moe.z_weight", "moe.importance_weight"),
        *("moe.load_weight", "moe.entropy_weight", "moe.usage_weight", "moe.assignment_weight", "moe.l2_weight"),
        *("train.weight_decay", "train.consistency", "train.shift", "train.rotate", "train.elastic", "train.blur"),
    ]
    below_one = [
        *("model.dropout", "moe.jitter", "train.average"),
        *("train.warmup", "train.label_smoothing", "train.zoom", "train.crop"),
    ]
    values = {name: value for name, value in flatten(config).items() if value is not None}
    problems = [f"{n} is {values[n]}; it must be at least 1." for n in at_least_one if values[n] < 1]
    problems += [f"{n} is {values[n]}; it must be above 0." for n in above_zero if n in values and not values[n] > 0]
    problems += [f"{n} is {values[n]}; it must not be negative." for n in not_negative if not values[n] >= 0]
    problems += [f"{n} is {values[n]}; it must be at least 0 and below 1." for n in below_one if not 0 <= values[n] < 1]
    if not 0 <= config.seed < 2**32:
        problems.append(f"seed is {config.seed}; it must be from 0 to {2**32 - 1}.")
    problems += _of_a_model(config)
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
    if t.tested == "best" and config.data.validation == 0:
        problems.append(
            "train.tested is best, but data.validation is 0, so that no epoch can be the best; give data.validation"
            " some examples or choose train.tested=last."
        )
    problems += mesh_problems(config)
    if t.shift > 14:
        problems.append(f"train.shift is {t.shift:g}; beyond 14 pixels little is left of a 28 × 28 image.")
    return problems


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
        *("num_experts", "k", "router", "expert_groups", "chosen_groups"),
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
