"""Writes tests/data/logits: what transformers computes from the weights of two real GGUF files over 2,000 tokens of text.

The weights are dequantised by the gguf package and put into transformers' LlamaForCausalLM or Gemma3ForCausalLM, which
runs in float64; tests/data/logits/README.md says how to read the result.

    pip install torch transformers safetensors gguf numpy
    python tools/record_real_models.py --smollm2 SmolLM2-135M-Instruct.Q4_1.gguf --gemma3 gemma-3-270m-q4_k_m.gguf \\
        --lora smollm2-135m-recall-8k.lora.safetensors          # each of the three may be left out
"""

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

import record_reference as ref

OUT = Path(__file__).resolve().parent.parent / "tests/data/logits"
TEXT = Path("/usr/share/common-licenses/GFDL-1.3")  # Debian package base-files; may be copied verbatim
NUM_TOKENS = 2000
POSITIONS = [0, 7, 255, 1023, 1500, 1999]
LORA_POSITIONS = [1023, 1999]
NUM_TOP = 32
NUM_FIXED = 64
HEAD_CHUNK = 200  # positions per multiplication with the output matrix: bounds memory at 0.4 GB for 262,144 tokens


def metadata(reader):
    return {key: field.contents() for key, field in reader.fields.items() if "tokenizer" not in key and "." in key}


def config_of(reader, num_vocab):
    """The transformers configuration that a GGUF's metadata describes."""
    meta = metadata(reader)
    arch = meta["general.architecture"]

    def get(key, default=None):
        value = meta.get(f"{arch}.{key}", default)
        if value is None:
            raise KeyError(f"{arch}.{key}")
        return value

    common = dict(
        vocab_size=num_vocab,
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=get("attention.head_count"),
        num_key_value_heads=get("attention.head_count_kv"),
        max_position_embeddings=get("context_length"),
        # The file holds float32; the model was trained with the decimal number that rounds to it.
        rms_norm_eps=float(f"{get('attention.layer_norm_rms_epsilon'):.6g}"),
        tie_word_embeddings=True,
    )
    assert not any(t.name == "output.weight" for t in reader.tensors)
    if arch == "llama":
        return LlamaConfig(**common, rope_theta=get("rope.freq_base")), LlamaForCausalLM
    if arch == "gemma3":
        config = Gemma3TextConfig(
            **common,
            head_dim=get("attention.key_length"),
            query_pre_attn_scalar=get("attention.key_length"),
            sliding_window=get("attention.sliding_window"),
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": get("rope.freq_base")},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        )
        return config, Gemma3ForCausalLM
    raise ValueError(arch)


def load(path, lora=None):
    """The GGUF at path as a float64 transformers model; lora ({GGUF name + .lora_a/.lora_b: array}) is merged."""
    reader = gguf.GGUFReader(path)
    arch = metadata(reader)["general.architecture"]
    tensors = {t.name: t for t in reader.tensors}
    config, model_class = config_of(reader, int(tensors["token_embd.weight"].shape[1]))
    model = model_class._from_config(config, attn_implementation="eager", dtype=torch.float64).eval()
    used = set()
    for name, p in model.named_parameters():
        target = ref.gguf_name(name, arch)
        tensor = tensors[target]
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64).reshape(p.shape)
        if lora and target + ".lora_a" in lora:
            weight = weight + lora[target + ".lora_b"].astype(np.float64) @ lora[target + ".lora_a"].astype(np.float64)
            used.add(target)
        if arch == "llama" and ref.heads_of(name, config.to_dict()):
            weight = ref.pairs_in_halves(weight, ref.heads_of(name, config.to_dict()))
        if arch == "gemma3" and weight.ndim == 1:
            weight = weight - 1
        p.data.copy_(torch.from_numpy(weight))
    assert len(list(model.named_parameters())) == len(tensors), "a tensor of the file has no place"
    assert not lora or 2 * len(used) == len(lora), "a matrix of the adapter has no place"
    return model


def token_ids(path):
    """The first tokens of TEXT as transformers' own tokenizer cuts it, with the model's first token where it wants one."""
    path = Path(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    fields = gguf.GGUFReader(path).fields
    starts_with_bos = bool(fields["tokenizer.ggml.add_bos_token"].contents())
    ids = tokenizer(TEXT.read_text(), add_special_tokens=False)["input_ids"]
    if starts_with_bos:
        ids = [int(fields["tokenizer.ggml.bos_token_id"].contents())] + ids
    return ids[:NUM_TOKENS]


@torch.no_grad()
def evaluate(model, ids, positions):
    """Logits at positions, argmax at every position, and the mean negative log-likelihood of ids[1:] in nats."""
    hidden = model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    rows, argmax, losses = {}, [], []
    for first in range(0, len(ids), HEAD_CHUNK):
        logits = model.lm_head(hidden[first : first + HEAD_CHUNK]).double()
        argmax += logits.argmax(-1).tolist()
        following = torch.tensor(ids[first + 1 : first + 1 + HEAD_CHUNK])
        scored = logits[: len(following)]
        losses.append(scored.logsumexp(-1) - scored.gather(1, following[:, None])[:, 0])
        for p in positions:
            if first <= p < first + HEAD_CHUNK:
                rows[p] = logits[p - first].numpy()
    nll = torch.cat(losses)
    assert len(nll) == len(ids) - 1
    return {"rows": np.stack([rows[p] for p in positions]), "argmax": argmax, "nll": float(nll.mean())}


def summary_of(row, fixed_ids):
    top = np.argsort(-row, kind="stable")[:NUM_TOP]
    peak = row.max()
    return {
        "logsumexp": round(float(peak + np.log(np.exp(row - peak).sum())), 6),
        "mean": round(float(row.mean()), 6),
        "rms": round(ref.rms(row), 6),
        "top_ids": top.tolist(),
        "top_logits": [round(float(x), 5) for x in row[top]],
        "fixed_logits": [round(float(x), 5) for x in row[fixed_ids]],
    }


def record(model, ids, positions, with_noise=True):
    reference = evaluate(model, ids, positions)
    num_vocab = reference["rows"].shape[1]
    fixed_ids = np.sort(np.random.default_rng(7).choice(num_vocab, NUM_FIXED, replace=False))
    print(f"  reference: nll {reference['nll']:.4f} logits rms {ref.rms(reference['rows']):.3f}", flush=True)
    noises = {}
    for kind in ref.NOISES if with_noise else ():
        with ref.noise(model, kind) as noisy:
            other = evaluate(noisy, ids, positions)
        noises[kind] = {
            "rms": ref.rms(other["rows"] - reference["rows"]),
            "max": float(np.abs(other["rows"] - reference["rows"]).max()),
            "rms_per_position": [ref.rms(row) for row in other["rows"] - reference["rows"]],
            "top1_agreement": float(np.mean(np.equal(other["argmax"], reference["argmax"]))),
            "mean_nll": other["nll"],
        }
        print(f"  {kind}: {noises[kind]}", flush=True)
    return {
        "vocab_size": num_vocab,
        "mean_nll": reference["nll"],
        "logits_rms": ref.rms(reference["rows"]),
        "noise": noises,
        "fixed_ids": fixed_ids.tolist(),
        "positions": [{"position": p} | summary_of(row, fixed_ids) for p, row in zip(positions, reference["rows"])],
        "argmax": reference["argmax"],
    }


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_json(path, value):
    lines = []
    for key, item in value.items():
        if key == "positions":
            body = ",\n    ".join(json.dumps(entry) for entry in item)
            lines.append(f'  "positions": [\n    {body}\n  ]')
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(item)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", help="GGUF file")
    parser.add_argument("--gemma3", help="GGUF file")
    parser.add_argument("--lora", help="adapter for --smollm2, safetensors with GGUF tensor names and row order")
    parser.add_argument("--only", choices=("smollm2", "gemma3", "smollm2-recall-lora"), help="write this one file")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    OUT.mkdir(parents=True, exist_ok=True)

    def write(name, path, ids, recorded, **more):
        head = {
            "model_file": Path(path).name,
            "model_sha256": sha256(path),
            **more,
            "text": f"first {len(ids)} tokens of {TEXT.name}, SHA-256 {sha256(TEXT)}",
            "computed_in": "float64; RMS norms, softmax and rotary angles in float32",
            "versions": ref.versions(),
        }
        write_json(OUT / f"{name}.json", head | recorded | {"ids": ids})

    for name, path in (("smollm2", options.smollm2), ("gemma3", options.gemma3)):
        if path and options.only in (None, name):
            print(name, flush=True)
            ids = token_ids(path)
            write(name, path, ids, record(load(path), ids, POSITIONS))
    if options.smollm2 and options.lora and options.only in (None, "smollm2-recall-lora"):
        print("smollm2-recall-lora", flush=True)
        ids = token_ids(options.smollm2)
        model = load(options.smollm2, load_file(options.lora))
        adapter = {"adapter_file": Path(options.lora).name, "adapter_sha256": sha256(options.lora)}
        write("smollm2-recall-lora", options.smollm2, ids, record(model, ids, LORA_POSITIONS), **adapter)


if __name__ == "__main__":
    main()
