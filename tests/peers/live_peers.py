"""The peers themselves, built live: Hugging Face's MoE blocks, soft-moe-pytorch's and st-moe-pytorch's. Needs torch."""

import importlib
import json

import numpy as np
import torch

TINY = {"d": 8, "h": 12, "experts": 8}
NORM, RAW = {"norm_topk_prob": True}, {"norm_topk_prob": False}
GROUPS = {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "n_shared_experts": 2}

# Name: model type, k, and what else its configuration says.
CASES = {
    "mixtral": ("mixtral", 2, {}),
    "mixtral_k1": ("mixtral", 1, {}),
    "olmoe": ("olmoe", 2, RAW),
    "olmoe_normalised": ("olmoe", 2, NORM),
    "qwen3_moe": ("qwen3_moe", 2, NORM),
    "qwen2_moe": ("qwen2_moe", 2, RAW | {"shared_expert_intermediate_size": 10}),
    "granitemoe": ("granitemoe", 2, {"hidden_act": "gelu"}),
    "deepseek_v3": ("deepseek_v3", 3, NORM | GROUPS),
    "deepseek_v3_raw": ("deepseek_v3", 2, RAW | GROUPS | {"n_group": 1, "topk_group": 1, "n_shared_experts": 1}),
    "deepseek_v2": ("deepseek_v2", 3, GROUPS | {"topk_method": "group_limited_greedy"}),
    "deepseek_v2_greedy": ("deepseek_v2", 2, GROUPS | {"topk_method": "greedy"}),
    "glm4_moe": ("glm4_moe", 3, NORM | GROUPS | {"n_shared_experts": 1}),
    "qwen3_next": ("qwen3_next", 2, NORM | {"shared_expert_intermediate_size": 10}),
    "qwen3_vl_moe": ("qwen3_vl_moe", 2, {}),
    "gpt_oss": ("gpt_oss", 2, {"swiglu_limit": 1.0}),
    "switch": ("switch_transformers", 1, {"expert_capacity": 2}),
}

# Name of a whole model: model type, and what else its configuration says.
WHOLE = {
    "mixtral": ("mixtral", {"num_key_value_heads": 2, "tie_word_embeddings": False}),
    "mixtral_tied": ("mixtral", {"num_key_value_heads": 4, "tie_word_embeddings": True, "sliding_window": 6}),
    "olmoe": ("olmoe", RAW | {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "olmoe_tied": ("olmoe", NORM | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
}

# What the names of its classes begin with; and its block.
BLOCKS = {
    "mixtral": ("Mixtral", "SparseMoeBlock"),
    "olmoe": ("Olmoe", "SparseMoeBlock"),
    "qwen2_moe": ("Qwen2Moe", "SparseMoeBlock"),
    "qwen3_moe": ("Qwen3Moe", "SparseMoeBlock"),
    "qwen3_next": ("Qwen3Next", "SparseMoeBlock"),
    "qwen3_vl_moe": ("Qwen3VLMoeText", "SparseMoeBlock"),
    "deepseek_v2": ("DeepseekV2", "Moe"),
    "deepseek_v3": ("DeepseekV3", "MoE"),
    "glm4_moe": ("Glm4Moe", "MoE"),
    "granitemoe": ("GraniteMoe", "MoE"),
    "gpt_oss": ("GptOss", "MLP"),
    "switch_transformers": ("SwitchTransformers", "SparseMLP"),
}

WIDTHS = dict.fromkeys(("mixtral", "olmoe", "granitemoe", "gpt_oss"), "intermediate_size")
COUNTS = dict.fromkeys(("mixtral", "granitemoe", "gpt_oss"), "num_local_experts")
COUNTS |= dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe"), "n_routed_experts")


def huggingface_config(kind, k, more, *, d, h, experts):
    """The entries of a configuration that make it this one."""
    if kind == "switch_transformers":
        return {"d_model": d, "d_ff": h, "num_experts": experts, "dense_act_fn": "relu"} | more
    width, count = WIDTHS.get(kind, "moe_intermediate_size"), COUNTS.get(kind, "num_experts")
    return {"hidden_size": d, width: h, count: experts, "num_experts_per_tok": k, "hidden_act": "silu"} | more


def huggingface_class(kind, name):
    """A class of transformers."""
    return getattr(importlib.import_module(f"transformers.models.{kind}.modeling_{kind}"), BLOCKS[kind][0] + name)


def huggingface_block(kind, k, more, *, seed=0, bias=0.2, **sizes):
    """The live block with random weights, and the entries of its configuration that were set."""
    entries = huggingface_config(kind, k, more, **sizes)
    config = huggingface_class(kind, "Config")(**entries, num_attention_heads=2)
    config._experts_implementation = "eager"  # the definition, not one of its kernels
    block = huggingface_class(kind, BLOCKS[kind][1])(config)
    return randomise(block, seed, bias), entries | {"model_type": kind}


def huggingface_model(kind):
    """A whole model of 3 layers in bfloat16, all with random weights, and its MoE blocks by name."""
    _, k, more = next(case for case in CASES.values() if case[0] == kind)
    entries = huggingface_config(kind, k, more, **TINY) | {"num_hidden_layers": 3, "num_attention_heads": 2}
    entries |= {"vocab_size": 16, "pad_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": 1}
    model = huggingface_class(kind, "Model")(huggingface_class(kind, "Config")(**entries))
    block_class = huggingface_class(kind, BLOCKS[kind][1])
    model = randomise(model, seed=0).to(torch.bfloat16)
    return model, {name: module for name, module in model.named_modules() if type(module) is block_class}


def draw(seed):
    """A source of random numbers."""
    return torch.Generator().manual_seed(seed)


def randomise(block, seed, bias=0.2):
    """Random weights in place of the block's own: matrices of n columns of deviation 1/√n, vectors of `bias`."""
    source = draw(seed)
    with torch.no_grad():
        for value in block.state_dict().values():
            value.normal_(std=value.shape[-1] ** -0.5 if value.ndim > 1 else bias, generator=source)
    return block.requires_grad_(False).eval()


def weights_of(block):
    """The block's state dict as numpy arrays."""
    return {name: value.numpy() for name, value in block.state_dict().items()}


def tokens(block, shape, seed=0):
    """Random tokens whose choice of experts does not hang on the last bits: a little noise leaves it as it is.

    Else two correct programs that round differently could choose differently, and no tolerance would tell that from a
    mistake.
    """
    source = draw(seed + 1)
    g, t, d = shape
    x = torch.randn(2 * g * t, d, generator=source)
    router = block.router if hasattr(block, "router") else block.gate
    noise = 1e-4 * torch.randn(x.shape, generator=source)
    chosen = [choice(router, x + step) for step in (-noise, 0 * noise, noise)]
    same = (chosen[0] == chosen[1]).all(-1) & (chosen[1] == chosen[2]).all(-1)
    assert same.sum() >= g * t
    return x[same][: g * t].reshape(shape)


def choice(router, x):
    """The experts of each token, sorted: some routers leave the order open."""
    if type(router).__name__ == "SwitchTransformersTop1Router":
        return router.classifier(x).argmax(-1, keepdim=True)
    return router(x)[2].sort(-1).values


def answer(block, x, seed=0):
    """x, y, a cotangent, and the gradient of Σ y · cotangent by x, as numpy arrays."""
    x = x.clone().requires_grad_()
    y = block(x)
    y = y[0] if isinstance(y, tuple) else y  # gpt-oss: and the weights
    cotangent = torch.randn(y.shape, generator=draw(seed + 2))
    (gradient,) = torch.autograd.grad(y, x, cotangent)
    arrays = {"x": x, "y": y, "cotangent": cotangent, "x_gradient": gradient}
    return {name: value.detach().numpy() for name, value in arrays.items()}


def huggingface_case(name):
    """Configuration, weights and answers of one small case."""
    kind, k, more = CASES[name]
    block, config = huggingface_block(kind, k, more, **TINY)
    arrays = answer(block, tokens(block, (2, 10, TINY["d"])))
    return {"config": config, "weights": weights_of(block)} | arrays


def whole_model(name):
    """A small language model with random weights, those of its norms around 1, and its whole configuration."""
    kind, more = WHOLE[name]
    entries = huggingface_config(kind, 2, more, d=16, h=12, experts=4)
    entries |= {"vocab_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16}
    entries |= {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": None}
    config = huggingface_class(kind, "Config")(**entries)
    model = randomise(huggingface_class(kind, "ForCausalLM")(config), seed=9)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(value.ndim == 1)
    return model, config


def whole_case(name):
    """Its configuration and weights, the logits of two texts, and what it writes after their first 5 tokens."""
    model, config = whole_model(name)
    tokens = torch.randint(0, 24, (2, 14), generator=draw(10))
    written = model.generate(tokens[:, :5], attention_mask=torch.ones(2, 5), max_new_tokens=9, do_sample=False)
    arrays = {"tokens": tokens.int(), "logits": model(tokens).logits, "written": written.int()}
    entries = json.loads(config.to_json_string())
    return {"config": entries, "weights": weights_of(model)} | {n: a.numpy() for n, a in arrays.items()}


def soft_case():
    """soft-moe-pytorch's SoftMoE, 3 experts of 2 slots. Its norms keep their gains of 1."""
    from soft_moe_pytorch import SoftMoE

    block = SoftMoE(dim=8, num_experts=3, num_slots=2, expert_mult=1.5)
    randomise(block, seed=3)
    with torch.no_grad():
        block.norm.gamma.fill_(1)
        block.slot_norm.gamma.fill_(1)
        block.slot_embeds.mul_(4)  # far above the eps of our norm
    return {"weights": weights_of(block)} | answer(block, 2 * torch.randn(2, 10, 8, generator=draw(4)))


def st_case():
    """st-moe-pytorch's top-2 MoE of 5 experts: no second choice left to chance, gradients through the combine alone."""
    from st_moe_pytorch import MoE

    block = MoE(
        dim=8,
        num_experts=5,
        expert_hidden_mult=2.25,
        capacity_factor_eval=1.75,  # 7 slots for 20 tokens: some choices are dropped
        straight_through_dispatch_tensor=False,
    )
    randomise(block, seed=5)
    with torch.no_grad():
        block.gate.threshold_eval.zero_()
        for expert in block.experts.experts:
            expert.net[1].mult_bias.add_(1)
    x = torch.randn(2, 20, 8, generator=draw(6))
    return {"weights": weights_of(block)} | answer(lambda x: block(x).outputs, x)


def lstm_case():
    """`torch.nn.LSTM(3, 4)` on 2 sequences of 5 steps, and its gradient by every parameter as `d_NAME`."""
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 4, batch_first=True)
    x, cotangent = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 4)
    y = lstm(x)[0]
    (y * cotangent).sum().backward()
    arrays = {"x": x, "cotangent": cotangent, "y": y, "x_gradient": x.grad}
    arrays |= {f"d_{name}": parameter.grad for name, parameter in lstm.named_parameters()}
    return {"weights": weights_of(lstm)} | {name: a.detach().numpy() for name, a in arrays.items()}


def save(path, case):
    """One compressed file; names and numbers as JSON."""
    case = dict(case)
    weights = {f"weights/{name}": value for name, value in case.pop("weights").items()}
    words = {name: json.dumps(case.pop(name)) for name in list(case) if not isinstance(case[name], np.ndarray)}
    np.savez_compressed(path, **weights, **words, **case)


def bert_case():
    """Hugging Face's BERT of 3 blocks, random, on two pairs of different length; padding last."""
    from transformers import BertConfig, BertModel

    config = {
        **{"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4},
        **{"intermediate_size": 24, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    }
    block = randomise(BertModel(BertConfig(**config, attn_implementation="eager")), seed=7)
    lengths, second = [(7, 4), (3, 6)], np.zeros((2, 14), np.int64)
    pieces = np.zeros((2, 14), np.int64)
    for row, (a, b) in enumerate(lengths):
        pieces[row, : a + b] = torch.randint(1, 50, (a + b,), generator=draw(8 + row))
        second[row, a : a + b] = 1
    return {"config": config, "weights": weights_of(block)} | bert_answer(block, pieces, second)


def minilm_case(folder):
    """The real encoder on two real pairs; its weights are not recorded."""
    from tokenizers import Tokenizer
    from transformers import BertModel

    pairs = [
        ("The company's shares fell 2.7 per cent on Tuesday.", "On Tuesday its stock lost 2.7 % of its value."),
        ("She left.", "Nobody knew that the long-awaited committee would meet in Genève."),
    ]
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(pairs)
    pieces, second = (np.array([getattr(pair, name) for pair in encoded]) for name in ("ids", "type_ids"))
    block = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    return {"weights": {}, "pairs": pairs} | bert_answer(block, pieces, second)


def bert_answer(block, pieces, second):
    """What it makes of each piece, and of the pair."""
    real = pieces != 0
    with torch.no_grad():
        given = {"input_ids": pieces, "token_type_ids": second, "attention_mask": real}
        y = block(**{name: torch.tensor(array) for name, array in given.items()})
    return {
        **{"pieces": pieces.astype(np.int32), "second": second.astype(bool)},
        **{"y": y.last_hidden_state.numpy(), "pooled": y.pooler_output.numpy()},
    }
