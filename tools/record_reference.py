"""What the record_*.py scripts share: reference logits from transformers, and how far known roundings move them.

The reference runs transformers' own modules with float64 weights and activations. Inside, transformers computes RMS
norms, the softmax and the rotary angles in float32 whatever the model's dtype is, so a reference logit is good to
about 1e-6 of the logits' rms; compare with `noise.float32` in the recorded files.
"""

import contextlib
import copy
import importlib
import sys

import numpy as np
import torch
from torch import nn

# Each is one thing an engine may do in lower precision. The recorded distance to the reference is what that choice
# alone costs, so a test's tolerance can be a small multiple of a measured number instead of a guess.
NOISES = ("float32", "bf16_linear", "int8_activations", "f16_kv")


def versions():
    """Versions that decide the recorded numbers."""
    names = ("torch", "transformers", "gguf", "numpy", "tokenizers", "peft")
    import importlib.metadata as metadata

    found = {"python": sys.version.split()[0]}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def round_to_int8_blocks(x, block=32):
    """Rounds x to 8-bit integers with one float scale per 32 elements, the form of Q8_0 activations."""
    pad = -x.shape[-1] % block
    blocks = nn.functional.pad(x, (0, pad)).unflatten(-1, (-1, block))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    rounded = torch.where(scale > 0, (blocks / scale).round() * scale, torch.zeros_like(blocks))
    return rounded.flatten(-2)[..., : x.shape[-1]]


@contextlib.contextmanager
def noise(model, kind):
    """Yields model (float64) with the rounding `kind` of NOISES applied; it is as before afterwards."""
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    undo = []
    if kind == "bf16_linear":
        # A tied lm_head shares its tensor with the embedding: rebind, so that the embedding stays as it is.
        for m in linears:
            kept = m.weight
            m.weight = nn.Parameter(kept.bfloat16().to(kept.dtype), requires_grad=False)
            undo.append(lambda m=m, kept=kept: setattr(m, "weight", kept))
            hook = m.register_forward_pre_hook(lambda _, args: (args[0].bfloat16().to(args[0].dtype),))
            undo.append(hook.remove)
    elif kind == "int8_activations":
        for m in linears:
            undo.append(m.register_forward_pre_hook(lambda _, args: (round_to_int8_blocks(args[0]),)).remove)
    elif kind == "f16_kv":
        module = importlib.import_module(type(model).__module__)
        eager = module.eager_attention_forward

        def rounded(mod, query, key, value, *args, **kwargs):
            return eager(mod, query, key.half().to(key.dtype), value.half().to(value.dtype), *args, **kwargs)

        module.eager_attention_forward = rounded
        undo.append(lambda: setattr(module, "eager_attention_forward", eager))
    elif kind == "float32":
        # A copy: constants that are not exact in float32 (Gemma's embedding scale) would not come back.
        model = copy.deepcopy(model).float()
    else:
        raise ValueError(kind)
    try:
        yield model
    finally:
        for step in undo:
            step()


@torch.no_grad()
def logits_of(model, ids):
    """Logits [num_tokens][vocab] (float64 array) of one uncached forward over ids."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().numpy()


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def distance(a, b):
    """Distance of logits b from reference a, both [num_positions][vocab]."""
    return {
        "rms": rms(b - a),
        "max": float(np.abs(b - a).max()),
        "top1_agreement": float(np.mean(a.argmax(-1) == b.argmax(-1))),
    }


def pairs_adjacent(weight, num_heads):
    """Rows of a query or key projection (or its bias) from transformers' order (halves) to GGUF llama's (adjacent).

    Within a head, row i of the first half and row i of the second half rotate together; llama files put them side by
    side: rows 0, d/2, 1, d/2 + 1, ...
    """
    head_dim = weight.shape[0] // num_heads
    order = np.arange(head_dim).reshape(2, head_dim // 2).T.reshape(-1)
    return weight.reshape(num_heads, head_dim, *weight.shape[1:])[:, order].reshape(weight.shape)


def pairs_in_halves(weight, num_heads):
    """Inverse of pairs_adjacent."""
    head_dim = weight.shape[0] // num_heads
    order = np.arange(head_dim).reshape(head_dim // 2, 2).T.reshape(-1)
    return weight.reshape(num_heads, head_dim, *weight.shape[1:])[:, order].reshape(weight.shape)


def gguf_name(name, arch):
    """GGUF tensor name of a transformers parameter."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    module, _, kind = rest.rpartition(".")
    module = module.removeprefix("self_attn.").removeprefix("mlp.")
    modules = {
        "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
        "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
        "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm" if arch == "gemma3" else "ffn_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    }  # fmt: skip
    return f"blk.{layer}.{modules[module]}.{kind}"


def heads_of(name, config):
    """Number of heads whose rows a llama file reorders in this parameter, or 0; config is a dict."""
    if "q_proj" in name:
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if "k_proj" in name else 0
