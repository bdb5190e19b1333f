"""Writes tests/data/models: tiny random checkpoints of every family and RoPE variant with their reference logits.

Each folder holds one model (safetensors + config.json + tokenizer.json, or model.gguf, or a LoRA adapter for another
folder's model) and an expected.json; tests/data/README.md says how to read them. Every number comes from
transformers (and peft for the adapters), never from this project's engine.

    pip install torch transformers safetensors gguf numpy peft
    python tools/record_tiny_models.py            # rewrites tests/data/models
"""

import copy
import json
import math
import shutil
import tempfile
import warnings
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

import record_reference as ref

OUT = Path(__file__).resolve().parent.parent / "tests/data/models"
NUM_TOKENS = 72
POSITIONS = [0, 1, 7, 15, 16, 17, 31, 32, 33, 47, 63, 71]
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("a", "n"), ("e", "r"), ("o", "n"), ("an", "d")]
SPECIALS = ["<|begin|>", "<|end|>", "<|pad|>"]


# --- vocabulary -------------------------------------------------------------------------------------------------------


def byte_level_vocab():
    """256 byte tokens, one token per merge, 3 specials: 267, on purpose not a multiple of any block."""
    return sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in MERGES] + SPECIALS


VOCAB = byte_level_vocab()
BOS, EOS, PAD = (VOCAB.index(s) for s in SPECIALS)


def write_tokenizer_json(path):
    ids = {token: i for i, token in enumerate(VOCAB) if token not in SPECIALS}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    path.write_text(tokenizer.to_str(pretty=False) + "\n")


# --- configurations, in the form checkpoints have on model hubs --------------------------------------------------------


def base_config(architecture, model_type, **changes):
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": len(VOCAB),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "hidden_act": "silu",
    }
    config.update(changes)
    return config


def llama(**changes):
    return base_config("LlamaForCausalLM", "llama", **({"attention_bias": False, "mlp_bias": False} | changes))


def mistral(**changes):
    return base_config("MistralForCausalLM", "mistral", **changes)


def qwen2(**changes):
    config = {"use_sliding_window": False, "sliding_window": 32, "max_window_layers": 2, "rms_norm_eps": 1e-6}
    return base_config("Qwen2ForCausalLM", "qwen2", **(config | changes))


def qwen3(**changes):
    config = {"head_dim": 32, "attention_bias": False, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0}
    return base_config("Qwen3ForCausalLM", "qwen3", **(config | changes))


def gemma3(**changes):
    config = {
        "hidden_size": 48,  # not a square: a rounded embedding scale would show
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "num_hidden_layers": 7,  # layers 0-4 and 6 slide, layer 5 is global
        "sliding_window": 16,
        "sliding_window_pattern": 6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attention_bias": False,
    }
    merged = base_config("Gemma3ForCausalLM", "gemma3_text", **(config | changes))
    del merged["hidden_act"]
    return merged


LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
YARN_EXPLICIT = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "attention_factor": 0.8,
    "beta_fast": 8.0,
    "beta_slow": 0.5,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}

NO_SCALING = {"without rope scaling": {"rope_scaling": None}}
NO_WINDOW = {"without attention window": {"sliding_window": None}}

# Safetensors folders. `ablations`: config edits that switch the feature off; how far they move the logits is recorded,
# which proves that a test on this folder fails when the engine ignores the feature.
CHECKPOINTS = [
    dict(name="llama-tied", dtype="float16", config=llama()),
    dict(name="llama-untied-mha", dtype="float32", config=llama(num_hidden_layers=1, tie_word_embeddings=False, num_key_value_heads=4)),
    dict(name="llama-attention-bias", dtype="bfloat16", config=llama(num_hidden_layers=1, attention_bias=True), ablations={"without biases": "biases"}),
    dict(name="llama-head-dim", dtype="bfloat16", config=llama(head_dim=32, num_key_value_heads=1)),
    dict(name="llama-rope-linear", dtype="float16", config=llama(num_hidden_layers=1, rope_scaling=LINEAR), ablations=NO_SCALING),
    dict(name="llama-rope-linear-old-key", dtype="float16", config=llama(num_hidden_layers=1, rope_scaling={"type": "linear", "factor": 2.5}), ablations=NO_SCALING),
    dict(name="llama-rope-llama3", dtype="bfloat16", config=llama(num_hidden_layers=1, rope_theta=500000.0, head_dim=32, rope_scaling=LLAMA3), ablations=NO_SCALING),
    dict(name="llama-rope-yarn", dtype="bfloat16", config=llama(num_hidden_layers=1, rope_scaling=YARN), ablations=NO_SCALING),
    dict(name="llama-rope-yarn-explicit", dtype="bfloat16", config=llama(num_hidden_layers=1, head_dim=32, rope_scaling=YARN_EXPLICIT), ablations=NO_SCALING),
    dict(name="llama-rope-dynamic", dtype="float16", config=llama(num_hidden_layers=1, max_position_embeddings=32, rope_scaling=DYNAMIC), ablations=NO_SCALING, prompts=[NUM_TOKENS, 24]),
    dict(name="llama-rope-llama3-new-keys", dtype="bfloat16", config=llama(num_hidden_layers=1, rope_theta=500000.0, rope_scaling=LLAMA3), ablations=NO_SCALING, new_config=True),
    dict(name="mistral-window", dtype="bfloat16", config=mistral(sliding_window=16), ablations=NO_WINDOW),
    dict(name="mistral-full", dtype="bfloat16", config=mistral(sliding_window=None, head_dim=32, tie_word_embeddings=False, rope_theta=1000000.0)),
    dict(name="qwen2-tied", dtype="bfloat16", config=qwen2(), ablations={"without biases": "biases", "window though use_sliding_window is false": {"use_sliding_window": True, "max_window_layers": 0}}),
    dict(name="qwen2-untied", dtype="bfloat16", config=qwen2(tie_word_embeddings=False, rope_theta=1000000.0), ablations={"without biases": "biases"}),
    dict(name="qwen2-window", dtype="bfloat16", config=qwen2(use_sliding_window=True, sliding_window=16, max_window_layers=1), ablations={"without attention window": {"use_sliding_window": False}, "window in all layers": {"max_window_layers": 0}}),
    dict(name="qwen2-yarn", dtype="bfloat16", config=qwen2(num_hidden_layers=1, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}), ablations=NO_SCALING),
    dict(name="qwen3-tied", dtype="bfloat16", config=qwen3(), ablations={"without query and key norms' weights": "qk_norms"}),
    dict(name="qwen3-untied", dtype="float16", config=qwen3(tie_word_embeddings=False, head_dim=16, num_attention_heads=2, num_key_value_heads=2), ablations={"without query and key norms' weights": "qk_norms"}),
    dict(name="gemma3", dtype="bfloat16", config=gemma3(), ablations={"without attention window": {"sliding_window": 4096}, "global base in all layers": {"rope_local_base_freq": 1000000.0}, "all layers sliding": {"sliding_window_pattern": 100}, "scale by head_dim": {"query_pre_attn_scalar": 32}}),
    dict(name="gemma3-rope-linear", dtype="bfloat16", config=gemma3(num_hidden_layers=3, sliding_window_pattern=2, query_pre_attn_scalar=32, rope_scaling={"rope_type": "linear", "factor": 8.0}), ablations=NO_SCALING),
    dict(name="gemma3-new-keys", dtype="float16", config=gemma3(num_hidden_layers=3, sliding_window_pattern=3, rope_scaling={"rope_type": "linear", "factor": 8.0}), ablations=NO_SCALING, new_config=True),
]


# --- models -----------------------------------------------------------------------------------------------------------


def build(config_dict):
    """A model with transformers' own (uninteresting) initial weights, from a config as it stands in a config.json."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config_dict))
        config = AutoConfig.from_pretrained(folder)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def randomise(model, seed):
    """Weights that make every part matter: peaked attention, norm weights off 1, biases off 0, logits of rms 1-3."""
    generator = torch.Generator().manual_seed(seed)
    is_gemma = model.config.model_type.startswith("gemma")
    hidden = model.config.hidden_size
    for name, p in model.named_parameters():
        z = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if name.endswith("bias"):
            value = 0.4 * z
        elif "q_norm" in name or "k_norm" in name:
            value = (0.6 if is_gemma else 1.6) + 0.3 * z
        elif p.dim() == 1:
            value = (0.0 if is_gemma else 1.0) + 0.25 * z
        elif "embed_tokens" in name:
            value = z * ((1.0 if is_gemma else 2.0) / math.sqrt(hidden))
        elif "lm_head" in name:
            value = z * (2.0 / math.sqrt(hidden))
        elif "q_proj" in name or "k_proj" in name:
            value = z * (1.5 / math.sqrt(p.shape[1]))
        else:
            value = z / math.sqrt(p.shape[1])
        p.data.copy_(value)
    return model


def prompt_ids(num_tokens, seed):
    return torch.randint(0, 256, (num_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def switched_off(folder, model, edit):
    """The folder's model with a feature removed: config keys replaced, or named parameters made neutral."""
    if edit in ("biases", "qk_norms"):
        other = copy.deepcopy(model)
        for name, p in other.named_parameters():
            if edit == "biases" and name.endswith("bias"):
                p.data.zero_()
            if edit == "qk_norms" and ("q_norm" in name or "k_norm" in name):
                p.data.fill_(1.0)
        return other
    with tempfile.TemporaryDirectory() as changed:
        shutil.copytree(folder, changed, dirs_exist_ok=True)
        path = Path(changed, "config.json")
        path.write_text(json.dumps(SPEC_CONFIGS[folder.name] | edit))
        return load(changed)


SPEC_CONFIGS = {spec["name"]: spec["config"] for spec in CHECKPOINTS}


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return model.eval()


def record(folder, model, fields, seed, prompts=(NUM_TOKENS,), ablations=None):
    """Runs the reference and writes expected.json and logits.f32 into folder."""
    cases, rows, reference = [], [], []
    for num_tokens in prompts:
        ids = prompt_ids(num_tokens, seed + num_tokens)
        positions = [p for p in POSITIONS if p < num_tokens]
        if positions[-1] != num_tokens - 1:
            positions.append(num_tokens - 1)
        logits = ref.logits_of(model, ids)
        cases.append({"ids": ids, "positions": positions, "first_row": sum(len(r) for r in rows), "argmax": logits.argmax(-1).tolist()})
        rows.append(logits[positions])
        reference.append((ids, logits))
    all_rows = np.concatenate(rows).astype("<f4")
    all_rows.tofile(folder / "logits.f32")

    ids, logits = reference[0]
    noises = {}
    for kind in ref.NOISES:
        with ref.noise(model, kind) as noisy:
            noises[kind] = ref.distance(logits, ref.logits_of(noisy, ids))
    assert np.array_equal(logits, ref.logits_of(model, ids)), "a noise was not undone"
    moved = {}
    for label, edit in (ablations or {}).items():
        moved[label] = ref.rms(ref.logits_of(switched_off(folder, model, edit), ids) - logits)

    # A checkpoint that cannot tell right from wrong is of no use: refuse to write it.
    logits_rms = ref.rms(logits)
    assert 0.3 < logits_rms < 10, (folder.name, logits_rms)
    assert len(set(logits.argmax(-1))) > NUM_TOKENS // 4, folder.name
    assert all(change > 0.02 * logits_rms for change in moved.values()), (folder.name, moved)
    assert noises["float32"]["rms"] < 1e-4 * logits_rms, (folder.name, noises)

    expected = fields | {
        "computed_in": "float64; RMS norms, softmax and rotary angles in float32",
        "versions": ref.versions(),
        "vocab_size": int(all_rows.shape[1]),
        "logits_file": "logits.f32",
        "logits_rms": logits_rms,
        "noise": noises,
        "rms_change_when": moved,
        "cases": cases,
    }
    write_json(folder / "expected.json", expected)
    summary = " ".join(f"{k} {v['rms'] / logits_rms:.1e}" for k, v in noises.items())
    print(f"{folder.name:28s} rms {logits_rms:.2f} | {summary} | {moved}")


def write_json(path, value):
    """JSON with one line per key of the top level and per case, so that diffs stay readable."""
    lines = []
    for key, item in value.items():
        if key == "cases":
            body = ",\n    ".join(json.dumps(case) for case in item)
            lines.append(f'  "cases": [\n    {body}\n  ]')
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(item)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def fresh_folder(name):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_checkpoint(spec, seed):
    folder = fresh_folder(spec["name"])
    model = randomise(build(spec["config"]), seed).to(getattr(torch, spec["dtype"]))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if not spec.get("new_config"):
        # transformers 5 writes "rope_parameters"; nearly all published checkpoints have "rope_theta" + "rope_scaling".
        (folder / "config.json").write_text(json.dumps(spec["config"] | {"torch_dtype": spec["dtype"]}, indent=2) + "\n")
    write_tokenizer_json(folder / "tokenizer.json")
    fields = {"name": spec["name"], "model": ".", "family": spec["config"]["model_type"], "weights": spec["dtype"]}
    record(folder, load(folder), fields, seed, spec.get("prompts", (NUM_TOKENS,)), spec.get("ablations"))


# --- GGUF -------------------------------------------------------------------------------------------------------------


def random_k_blocks(rows, cols, kind, std, rng):
    """Random Q4_K, Q5_K or Q6_K bytes [rows][bytes] whose values have about zero mean and the given std.

    All scale, minimum and quant bits are uniform, so every bit of the format is exercised, which quantising a smooth
    matrix would not do. Some block scales of Q6_K are subnormal halves, as in published files.
    """
    num_blocks = rows * cols // 256

    def half(center):
        return (center * rng.uniform(0.6, 1.4, (num_blocks, 1))).astype("<f2").view(np.uint8)

    def bits(num_bytes):
        return rng.integers(0, 256, (num_blocks, num_bytes), dtype=np.uint8)

    # With 6-bit scales sc and minima m: w = d sc q - dmin m. dmin = E[q] d centres w; the divisors are std(w) / d.
    if kind == Type.Q4_K:
        d = std / 257
        blocks = np.concatenate([half(d), half(7.5 * d), bits(12), bits(128)], axis=1)
    elif kind == Type.Q5_K:
        d = std / 525
        blocks = np.concatenate([half(d), half(15.5 * d), bits(12), bits(32), bits(128)], axis=1)
    elif kind == Type.Q6_K:
        blocks = np.concatenate([bits(128), bits(64), bits(16), half(std / 1367)], axis=1)
    else:
        raise ValueError(kind)
    return blocks.reshape(rows, -1)


def write_gguf_header(writer, arch, config):
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("tiny random " + arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if arch == "llama":
        writer.add_rope_dimension_count(head_dim)
    if "head_dim" in config:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if arch == "gemma3":
        writer.add_sliding_window(config["sliding_window"])
        if config["sliding_window_pattern"] != 6:  # 6 is what a file without the key means
            writer.add_sliding_window_pattern(config["sliding_window_pattern"])
            writer.add_rope_freq_base_swa(config["rope_local_base_freq"])
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config, head_dim))

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(VOCAB)
    writer.add_token_types([gguf.TokenType.CONTROL if t in SPECIALS else gguf.TokenType.NORMAL for t in VOCAB])
    writer.add_token_merges([f"{a} {b}" for a, b in MERGES])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)


def llama3_divisors(config, head_dim):
    """The rope_freqs tensor: by how much llama3 scaling divides each frequency, taken from transformers itself."""
    scaled, plain = build(config).model.rotary_emb, build(config | {"rope_scaling": None}).model.rotary_emb
    divisors = (plain.inv_freq.double() / scaled.inv_freq.double()).numpy().astype(np.float32)
    assert divisors.shape == (head_dim // 2,)
    return divisors


def write_gguf(spec, seed):
    """Quantises a random model into a GGUF and records the logits of exactly the weights that the file stores."""
    folder = fresh_folder(spec["name"])
    config, arch = spec["config"], spec["arch"]
    if "same_weights_as" in spec:
        model = load(OUT / spec["same_weights_as"])
        seed = spec["seed"]
    else:
        model = randomise(build(config), seed).double().eval()
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(folder / "model.gguf"), arch)
    write_gguf_header(writer, arch, config)

    kinds, types = iter(spec["types"] * 100), {}
    for name, p in model.named_parameters():
        target = ref.gguf_name(name, arch)
        weight = p.detach().double().numpy()
        if arch == "llama" and ref.heads_of(name, config):
            weight = ref.pairs_adjacent(weight, ref.heads_of(name, config))
        if weight.ndim == 1:
            # Norms and biases stay F32. Gemma files store 1 + w.
            shift = 1.0 if arch == "gemma3" else 0.0
            stored = (weight + shift).astype(np.float32)
            writer.add_tensor(target, stored)
            exact = stored.astype(np.float64) - shift
        else:
            kind = spec["embedding"] if target == "token_embd.weight" else next(kinds)
            types.setdefault(kind.name, []).append(target)
            if kind in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
                stored = random_k_blocks(*weight.shape, kind, weight.std(), rng)
            else:
                stored = gguf.quants.quantize(weight.astype(np.float32), kind)
            writer.add_tensor(target, stored, raw_dtype=kind)
            exact = gguf.quants.dequantize(stored, kind).astype(np.float64).reshape(weight.shape)
        if arch == "llama" and ref.heads_of(name, config):
            exact = ref.pairs_in_halves(exact, ref.heads_of(name, config))
        p.data.copy_(torch.from_numpy(exact))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fields = {"name": spec["name"], "model": "model.gguf", "family": config["model_type"], "weights": types}
    record(folder, model, fields, seed)


FLOATS = [Type.F32, Type.F16, Type.BF16]
SMALL_BLOCKS = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0]
K_BLOCKS = [Type.Q4_K, Type.Q5_K, Type.Q6_K]
K_SHAPE = dict(hidden_size=256, intermediate_size=256, num_attention_heads=8)
GEMMA_SHAPE = dict(hidden_size=64, intermediate_size=96, query_pre_attn_scalar=32)

GGUFS = [
    dict(name="gguf-llama-f16", arch="llama", config=llama(), embedding=Type.F16, types=[Type.F16], same_weights_as="llama-tied", seed=100),
    dict(name="gguf-llama-floats", arch="llama", config=llama(tie_word_embeddings=False, attention_bias=True), embedding=Type.BF16, types=FLOATS),
    dict(name="gguf-llama-small-blocks", arch="llama", config=llama(tie_word_embeddings=False), embedding=Type.Q5_1, types=SMALL_BLOCKS),
    dict(name="gguf-llama-k-blocks", arch="llama", config=llama(**K_SHAPE), embedding=Type.Q6_K, types=K_BLOCKS),
    dict(name="gguf-llama-rope-llama3", arch="llama", config=llama(rope_theta=500000.0, head_dim=32, rope_scaling=LLAMA3), embedding=Type.Q8_0, types=[Type.Q8_0, Type.Q5_0]),
    dict(name="gguf-llama-rope-linear", arch="llama", config=llama(rope_scaling=LINEAR), embedding=Type.Q8_0, types=[Type.Q8_0]),
    dict(name="gguf-llama-rope-yarn", arch="llama", config=llama(rope_scaling=YARN), embedding=Type.Q8_0, types=[Type.Q8_0, Type.Q4_1]),
    dict(name="gguf-qwen2", arch="qwen2", config=qwen2(), embedding=Type.Q5_0, types=[Type.Q8_0, Type.Q4_0, Type.Q5_1]),
    dict(name="gguf-qwen2-rope-yarn", arch="qwen2", config=qwen2(tie_word_embeddings=False, rope_scaling=YARN), embedding=Type.Q8_0, types=[Type.Q8_0]),
    dict(name="gguf-qwen3", arch="qwen3", config=qwen3(), embedding=Type.Q4_1, types=[Type.Q4_1, Type.Q8_0, Type.Q5_1]),
    dict(name="gguf-qwen3-untied", arch="qwen3", config=qwen3(tie_word_embeddings=False), embedding=Type.F16, types=[Type.BF16, Type.Q8_0]),
    dict(name="gguf-gemma3", arch="gemma3", config=gemma3(**GEMMA_SHAPE), embedding=Type.Q8_0, types=[Type.Q8_0, Type.Q5_0, Type.Q4_0]),
    dict(name="gguf-gemma3-rope-linear", arch="gemma3", config=gemma3(num_hidden_layers=3, sliding_window_pattern=2, rope_scaling={"rope_type": "linear", "factor": 8.0}, **GEMMA_SHAPE), embedding=Type.BF16, types=[Type.Q8_0, Type.F16]),
]  # fmt: skip


# --- LoRA -------------------------------------------------------------------------------------------------------------


def write_adapters(seed):
    """One adapter on llama-tied in three namings; gguf-llama-f16 holds the same weights, so all logits are equal."""
    from peft import LoraConfig, get_peft_model

    base, config = "llama-tied", SPEC_CONFIGS["llama-tied"]
    rank, alpha = 4, 6.0
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, bias="none", task_type="CAUSAL_LM")
    peft_model = get_peft_model(load(OUT / base), lora)
    generator = torch.Generator().manual_seed(seed)
    for name, p in peft_model.named_parameters():
        if "lora_" in name:
            std = 1 / math.sqrt(p.shape[1]) if "lora_A" in name else 0.25
            # Values exactly representable in half precision, so that files of either precision mean the same model.
            p.data = (torch.randn(p.shape, generator=generator) * std).half().double()

    folder = fresh_folder("lora-peft")
    peft_model.float().save_pretrained(folder)
    peft_model.double()
    (folder / "README.md").unlink(missing_ok=True)
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = base  # never an absolute path
    settings["target_modules"] = sorted(settings["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")

    parts = {}
    for name, p in peft_model.named_parameters():
        if "lora_" not in name:
            continue
        module = name.removeprefix("base_model.model.").split(".lora_")[0]
        value = p.detach().numpy()
        side = "a" if "lora_A" in name else "b"
        if side == "b" and ref.heads_of(name, config):
            value = ref.pairs_adjacent(value, ref.heads_of(name, config))
        parts[ref.gguf_name(module + ".weight", "llama") + ".lora_" + side] = value

    merged = peft_model.merge_and_unload().eval()
    # "without adapter" is the distance that the adapter makes, as a test's proof that it was applied.
    plain = load(OUT / base)
    change = ref.rms(ref.logits_of(plain, prompt_ids(NUM_TOKENS, seed + NUM_TOKENS)) - ref.logits_of(merged, prompt_ids(NUM_TOKENS, seed + NUM_TOKENS)))
    fields = {"rank": rank, "alpha": alpha, "rms_change_without_adapter": change}
    common = {"family": "llama", "weights": "float16"}
    record(folder, merged, {"name": "lora-peft", "model": "../llama-tied", "adapter": ".", **common, **fields}, seed)

    folder = fresh_folder("lora-gguf")
    writer = gguf.GGUFWriter(str(folder / "adapter.gguf"), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, value in parts.items():
        writer.add_tensor(name, np.ascontiguousarray(value, dtype=np.float16 if name.endswith("_a") else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    record(folder, merged, {"name": "lora-gguf", "model": "../gguf-llama-f16/model.gguf", "adapter": "adapter.gguf", **common, **fields}, seed)

    folder = fresh_folder("lora-blk-names")
    scaled = {n: torch.from_numpy(np.ascontiguousarray(v * (alpha / rank if n.endswith("_b") else 1.0), dtype=np.float32)) for n, v in parts.items()}
    save_file(scaled, folder / "adapter.lora.safetensors")
    record(folder, merged, {"name": "lora-blk-names", "model": "../gguf-llama-f16/model.gguf", "adapter": "adapter.lora.safetensors", **common, **fields}, seed)


def main():
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the numbers then do not depend on the machine's number of cores
    for folder in OUT.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    for i, spec in enumerate(CHECKPOINTS):
        write_checkpoint(spec, seed=1000 + 10 * i)
    for i, spec in enumerate(GGUFS):
        write_gguf(spec, seed=2000 + 10 * i)
    write_adapters(seed=3000)


if __name__ == "__main__":
    main()
