"""Every name that an argument or a configuration may give, with one line on what it means: the one table of names.

The configuration accepts these, `routers`, `layers` and `dispatch` implement them, README prints them and the tests go
through them. No imports, so that the command line can list them at once.
"""

MODELS = {
    "image": "a convolutional stem makes an image a grid of tokens; blocks with an MoE layer each; a linear head",
    "clusters": "experts of linear or cubic patch filters for synthetic clusters (Chen et al. 2022)",
    "flat": "an image is one token; the experts are classifiers, whose mixture gives the logits",
    "lstm": "images row by row: an LSTM, an MoE layer at every row, a second LSTM; a linear head over all rows",
    "pair": "words attend to the other sentence of a pair; an MoE layer routes each sentence; a linear head",
    "encoder": "a pre-trained BERT on both sentences, its feed-forward layers upcycled to MoE layers; a linear head",
}

LAYERS = {
    "dense": "all experts on all tokens, weighted by the router",
    "sparse": "the experts that the router chooses for each token",
    "soft": "every slot of an expert a mixture of tokens",
}

ROUTERS = {
    "softmax_top_k": "softmax, then the k best, renormalised (GShard, Mixtral) or not (OLMoE)",
    "top_k_softmax": "the k best, then a softmax of those alone (GraniteMoe)",
    "switch": "the one most probable expert, weighted by its probability (Switch)",
    "noisy_top_k": "normal noise of learnt spread, the k best, a softmax of those (Shazeer et al. 2017)",
    "vmoe": "normal noise of deviation 1/E, softmax, the k best (V-MoE)",
    "uniform": "uniform noise from 0 to 1, the k best, weighted by probability or by the logit (Chen et al. 2022)",
    "sigmoid": "each expert scored by itself, a bias keeps the load even (DeepSeek-V3)",
    "sinkhorn": "the k best of a balanced plan (BASE, S-BASE)",
    "expert_choice": "each expert takes the tokens that suit it best (Expert Choice)",
    "hash": "a fixed random table of the token's position or id (Hash layers)",
    "random": "by lot: the baseline",
}

DISPATCHES = {
    "einsum": "products with masks: the definition",
    "gather": "the same slots, filled by index",
    "grouped": "no slots and no drops: tokens sorted by expert",
}

EXPERTS = {
    "mlp": "two linear maps with a GELU between them",
    "glu": "a gated linear unit with SiLU (SwiGLU)",
    "cnn": "pair model: a convolution over the words of a sentence",
    "rnn": "pair model: a gated recurrent unit (GRU) over the words of a sentence",
}

ACTIVATIONS = {
    "gelu": "Gaussian error linear unit",
    "relu": "rectified linear unit",
    "cubic": "the third power (Chen et al. 2022)",
    "linear": "none",
}

PRIORITIES = {
    "position": "first choices in token order, then second choices, ...",
    "weight": "the same in order of each token's highest weight (batch-prioritised, V-MoE)",
}
