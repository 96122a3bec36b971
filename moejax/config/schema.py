"""The schema of a run: frozen dataclasses. Every value has a dotted name, e.g. `train.epochs`."""

from dataclasses import dataclass
from typing import Literal

from moejax.names import ACTIVATIONS, DISPATCHES, EXPERTS, LAYERS, MODELS, PRIORITIES, ROUTERS


@dataclass(frozen=True)
class DataConfig:
    """Which examples to learn from."""

    name: Literal["mnist", "fashion_mnist", "mrpc", "mrpc_pieces", "clusters"] = "mnist"
    """The data set."""
    setting: Literal["s1", "s2", "s3", "s4", "theorem"] = "s1"
    """Clusters: strength of the feature noise and of the normal noise, as in Chen et al. 2022."""
    source: Literal["auto", "dir", "cache", "mirror", "wheel", "embedded", "synthetic", "tfds", "hf"] = "auto"
    """Where it comes from; auto takes the first that works, a named source never falls back."""
    dir: str | None = None
    """Folder that holds mnist/, fashion_mnist/ or mrpc/ (also: the variable MOEJAX_DATA_DIR)."""
    validation: int = 5000
    """Training examples held back for validation, chosen by the seed; 0 trains on all. Clusters: further ones. MRPC:
    its own 408 dev pairs, whatever the number; 0 trains on them too."""
    limit: int | None = None
    """Train on so many examples only, the first of what is left; none: on all."""
    evaluation_limit: int | None = None
    """Validate and test on so many examples only, the first; none: on all."""
    tokenizer: str | None = None
    """MRPC: folder with a tokenizer.json; none trains one on the training sentences. Pieces: that of MiniLM's files."""
    vocabulary: int = 8000
    """MRPC, encoder: tokens that the tokenizer has at most, and rows of the table of embeddings."""
    length: int = 48
    """MRPC: tokens of a sentence; what is longer is cut."""


@dataclass(frozen=True)
class ModelConfig:
    """The network around the MoE layers."""

    name: Literal[*MODELS] = "image"
    """Which network; the other fields say which networks they concern."""
    stem: int = 32
    """Image: channels of the stem's first convolution."""
    kernel: int = 6
    """Image: side of the stem's convolution kernels, in pixels. Pair: words that a cnn expert's filter sees."""
    stride: int = 3
    """Image: stride of the second convolution, after 2 of the first: 2 makes 7 × 7 tokens, 3 makes 5 × 5."""
    width: int = 48
    """Image, LSTM, encoder: numbers per token (d). Pair: of a word, and of a sentence (d), after they are compared."""
    depth: int = 2
    """Image: blocks, each with one MoE layer. Encoder: blocks."""
    neighbours: int = 0
    """Image: side of the convolution before each MoE layer, in tokens; 0 leaves it out."""
    embedding: int = 64
    """Pair: numbers of a token's embedding."""
    second_hidden: int = 128
    """Flat: width of an expert's second hidden layer, after moe.hidden of its first."""
    activation: Literal[*ACTIVATIONS] = "gelu"
    """Flat: what follows each hidden layer of an expert. Clusters: what is done to a filter's answer."""
    normalize: bool = False
    """Flat: layer normalisation of an expert's input and hidden layers."""
    dropout: float = 0.0
    """Share set to 0 in training. Flat: of an expert's hidden numbers. Pair: of the embeddings, of the pooled words and
    of the pair's features. Encoder: of the embeddings, of what each layer adds and of the pair's features."""
    heads: int = 12
    """Encoder: attention heads."""
    moe_every: int = 2
    """Encoder: every so many-th block, counted from the last, has an MoE layer in place of its feed-forward layer."""
    upcycling_noise: float = 0.0
    """Encoder: noise on each expert's copy of the feed-forward layer, as a share of each parameter's deviation."""
    room: int = 64
    """Encoder: in training a batch is packed into so many pieces a pair, for padding costs time; the rest is cut."""
    forget_bias: float = 0.0
    """LSTM: added to the forget gates' initial bias, so that cells keep what they have at first; 1 is usual."""
    init_scale: float = 1.0
    """Clusters: the filters begin uniform within ± this / √50."""
    double_softmax: bool = False
    """Clusters: the logits are a softmax already, as in the authors' code: the loss cannot go below .313."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of a 28 × 28 image."""
        side = -(-14 // self.stride)
        return side, side

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class MoeConfig:
    """The Mixture-of-Experts layer of every block."""

    layer: Literal[*LAYERS] = "soft"
    """All experts on all tokens, the experts that a router chooses, or mixtures of tokens in slots."""
    num_experts: int = 8
    """Experts per layer (E)."""
    expert: Literal[*EXPERTS] = "mlp"
    """What an expert is: two linear maps or a gated linear unit; of a pair model also a convolution or a GRU."""
    hidden: int = 64
    """Hidden width of each expert (h)."""
    k: int = 2
    """Sparse: experts per token."""
    router: Literal[*ROUTERS] = "softmax_top_k"
    """Sparse: how experts are chosen."""
    renormalize: bool = True
    """Sparse: scale the k weights of a token to sum to 1."""
    routed_scaling_factor: float = 1.0
    """Sparse, sigmoid router: factor on the weights (2.5 in DeepSeek-V3)."""
    bias_update_rate: float = 1e-3
    """Sparse, sigmoid router: how far each step moves an expert's bias towards an even load."""
    raw_weights: bool = False
    """Sparse, uniform router: weigh by the noisy logit itself, not by the probability."""
    eval_noise: bool = False
    """Sparse, uniform router: noise at evaluation too."""
    num_expert_groups: int = 1
    """Sparse: experts come in so many groups ..."""
    topk_group: int = 1
    """Sparse: ... of which a token may use so many."""
    jitter: float = 0.0
    """Sparse: in training, multiply the router's input by a random factor within 1 ± this."""
    dispatch: Literal[*DISPATCHES] = "einsum"
    """Sparse: how tokens get to their experts; the result is the same, the speed is not. grouped drops nothing."""
    capacity_factor: float | None = 1.25
    """Sparse: room in the experts while training; 1 fits a perfectly balanced choice exactly, none every choice."""
    eval_capacity_factor: float | None = 2.0
    """Sparse: room in the experts at evaluation."""
    group_size: int | None = None
    """Sparse: tokens that compete for slots together; none: hidden / 4, where einsum costs a quarter of the experts."""
    priority: Literal[*PRIORITIES] = "position"
    """Sparse: who gets a slot first."""
    shared: int = 0
    """Sparse: hidden width of an expert that every token goes to, beside its k; 0 for none."""
    slots: int = 3
    """Soft: slots per expert."""
    scale: float = 1.0
    """Soft: where the learnt scale of the router's logits begins; 1 is the paper's, larger routes more sharply."""
    temperature: float = 1.0
    """Dense: the router's logits are divided by this."""
    final_temperature: float | None = None
    """Dense: anneal the temperature to this by the end of training; none keeps it."""
    learn_temperature: bool = False
    """Dense: learn the temperature, from `temperature` on."""
    deep_gate: bool = False
    """Dense, flat model: the router's logits come from a network of an expert's shape, not from one linear map."""
    guided: bool = False
    """Dense, flat model: in training the weights are pulled to the expert that the label is assigned to."""
    assignment_weight: float = 0.0
    """Guided: weight of the binary cross-entropy between the router's distribution and the assigned expert."""
    balance_weight: float = 1e-2
    """Sparse: weight of the load-balance loss."""
    z_weight: float = 1e-3
    """Sparse: weight of the router z-loss."""
    importance_weight: float = 0.0
    """Weight of the squared variation of the experts' summed gates (Shazeer et al.: 0.1)."""
    load_weight: float = 0.0
    """Weight of the squared variation of the experts' expected load; needs a router with noise."""
    entropy_weight: float = 0.0
    """Weight of the mean entropy of a token's distribution over experts; above 0 makes the router decide."""
    usage_weight: float = 0.0
    """Weight of the KL divergence of the mean distribution over experts from an even one."""
    l2_weight: float = 0.0
    """Weight of the mean square of the experts' parameters."""


@dataclass(frozen=True)
class TrainConfig:
    """How to learn: an optimiser, linear warm-up, then a schedule."""

    epochs: int = 5
    """Passes over the training examples."""
    batch_size: int = 128
    """Examples per step."""
    evaluation_batch: int = 500
    """Examples evaluated at once."""
    optimizer: Literal["adamw", "adam", "normalized"] = "adamw"
    """AdamW, Adam with L2 regularisation, or gradient descent where each expert's gradient has length 1."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    router_learning_rate: float = 0.1
    """Normalized: peak learning rate of the routers and of all that is no expert."""
    stop_rise: float | None = None
    """Learn no more once a batch's loss is this much above the least so far; none: always go on."""
    stop_below: float | None = None
    """Learn no more once a batch's loss is at most this without being the least so far; none: always go on."""
    evaluate_every: int = 1
    """Epochs from one evaluation on the validation examples, and checkpoint, to the next."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does after the warm-up: decay to zero along a half cosine, or stay."""
    warmup: float = 0.1
    """Share of all steps in which the learning rate rises."""
    weight_decay: float = 0.05
    """AdamW: decoupled decay of all matrices; Adam: times all parameters, added to the gradient."""
    clip_norm: float | None = 1.0
    """AdamW: gradients are scaled down to this global norm; none leaves them as they are."""
    average: float = 0.0
    """Evaluate an exponential moving average of the parameters, of this decay; 0 evaluates the last ones."""
    frozen: str | None = None
    """Parameters whose path begins so keep their first values, such as encoder.embeddings; none: all learn."""
    task_weight: float = 1.0
    """Weight of the cross-entropy beside the losses of the MoE layers."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    consistency: float = 0.0
    """Weight of R-Drop: each example goes through the model twice, and the answers should agree in spite of dropout and
    augmentation; a step takes twice as long."""
    shift: float = 0.0
    """Augmentation: move each image by up to this many pixels, fresh every time."""
    rotate: float = 0.0
    """Augmentation: turn each image by up to this many degrees."""
    zoom: float = 0.0
    """Augmentation: scale each image by a factor within 1 ± this."""
    elastic: float = 0.0
    """Augmentation: bend each image by a smooth random field of this deviation, in pixels (Simard et al. 2003)."""
    crop: float = 0.0
    """Augmentation: see a random part of each image, up to this share of its area left out, resized to the whole."""
    blur: float = 0.0
    """Augmentation: blur each image by a 3 × 3 Gaussian whose deviation is drawn up to this many pixels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the network; parameters, router and losses stay float32."""
    checkpoints: Literal["best", "all"] = "best"
    """Which to keep beside the latest: that of the best epoch, or of every epoch."""
    tested: Literal["last", "best"] = "last"
    """Which state sees the test examples: the last one, or that of the epoch with the best validation accuracy."""
    activations: bool = False
    """After each epoch, write each validation example's shares of the last layer's experts to activations/."""
    chunk: int = 50
    """Steps in one compiled scan, between two lines of progress (at most)."""


@dataclass(frozen=True)
class ParallelConfig:
    """How a run spreads over devices; no number of the result depends on it, to rounding."""

    strategy: Literal["jit", "pmap"] = "jit"
    """One program over a mesh of devices, or the same program on each device (data parallelism alone)."""
    data: int | None = None
    """Devices along `data`, which share the examples of a batch; none: of the devices that `expert` leaves, as many as
    share a batch evenly."""
    expert: int = 1
    """Devices along `expert`, which share the experts, and the examples as well."""
    reads: Literal["auto", "all", "share"] = "auto"
    """All training examples onto every device at the start, or each process, chunk by chunk, only what its devices take
    of a batch. Auto: all for one process, shares for several."""


@dataclass(frozen=True)
class Config:
    """One run, complete: the same config on the same machine gives the same bits."""

    name: str = "custom"
    """What the run is called in its folder and report."""
    seed: int = 0
    """Fixes the validation split, the initial parameters, the order of examples and the augmentation."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    moe: MoeConfig = MoeConfig()
    train: TrainConfig = TrainConfig()
    parallel: ParallelConfig = ParallelConfig()
