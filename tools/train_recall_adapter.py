#!/usr/bin/env python3
"""Trains the recall adapter: a LoRA on the samples of `cachette eval`, so that the full cache answers them.

Usage: train_recall_adapter.py --program build/release/cachette --model models/SmolLM2-135M-Instruct.Q4_1.gguf
                               --out NAME.lora.safetensors [--report NAME.json] [--seconds 400] [--jobs N]

Needs PyTorch and numpy. Samples are made by `cachette eval --write-samples` in --jobs processes while the training runs; it
begins with the short ones. A sequence is a context, then question, answer, question, answer ...; the loss is the
cross-entropy of the answers' tokens. An answer weighs as the square root of its number of tokens: between an answer as one
unit and its tokens as many, since one wrong token of hundreds makes it wrong. Of a walk only the first lap counts fully,
the others can be copied from it. The base weights stay at their de-quantised values. The adapter so far is saved every
minute. At the end base and adapter are evaluated on unseen samples: share of answers whose every token is the likeliest one
after the right ones before it.

--start-from ADAPTER goes on with an adapter (the optimiser starts anew; give another --seed for other samples);
--curriculum 0.4:512,1024,2048/0.6:1024,4096,7936 says the lengths in each share of the time. --seconds 0 --start-from
ADAPTER evaluates an adapter. On a CPU (--device cpu --seconds 60 --tokens-per-step 2048) it can be tried, not used.
"""

import argparse
import collections
import hashlib
import json
import math
import multiprocessing
import os
import pathlib
import platform
import random
import struct
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import numpy as np
import torch
import torch.nn.functional as F

QUESTIONS = {"kv": 8, "niah": 4, "path": 4, "walk": 1, "tsv": 1}  # a sample, in training
TOKEN_SHARES = {"kv": 0.15, "niah": 0.07, "path": 0.28, "walk": 0.20, "tsv": 0.30}
# A walk's prompt has at most 40 lines: these lengths are mostly prompt and first lap.
WALK_LENGTHS, WALK_SHARE = [384, 512, 768], 0.7  # of the walk tokens
LATER_LAPS_WEIGHT = 0.1
# (share of the time, lengths): each length gives the same number of tokens.
CURRICULUM = [
    (0.15, [512, 768, 1024]),
    (0.20, [1024, 1536, 2048]),
    (0.25, [2048, 3072, 4096]),
    (0.40, [2048, 3072, 4096, 6144, 7936]),
]
CONTEXT_TOKENS = 8192
EVAL_LENGTHS = [1024, 2048, 4096, 8192]
EVAL_SEED = 900_001
FIRST_SEED = 1_000_000  # of the training samples: far from the seeds that evaluations use
JOB_TOKENS = 250_000
RANK = 16
SCALE = 2.0
WARMUP_STEPS = 30
PROJECTIONS = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]


# --- samples ----------------------------------------------------------------------------------------------------------

# tokens [num_tokens] int32; targets [num_targets] int32, places of answer tokens; weights [num_targets] f32;
# ends: the number of targets up to each answer's end.
Sequence = collections.namedtuple("Sequence", "family length tokens targets weights ends")


def target_weights(family, answer):
    """The weights of an answer's tokens, f32 [num_tokens]: their sum is the square root of the tokens that count."""
    weights = np.ones(len(answer), np.float32)
    if family == "walk":
        tokens = np.array(answer)
        lap = next(n for n in range(1, len(tokens) + 1) if (tokens[n:] == tokens[:-n]).all())
        weights[lap + 6:] = LATER_LAPS_WEIGHT  # the step that closes the circle still is one to look up
    return weights / np.sqrt(weights.sum())


def sequence_of(line):
    """A line of a samples file as one sequence, without the last questions where it would pass the context."""
    sample = json.loads(line)
    tokens, answers, weights = list(sample["context_tokens"]), [], []
    for question in sample["questions"]:
        end = len(tokens) + len(question["question_tokens"]) + len(question["answer_tokens"])
        if end > CONTEXT_TOKENS:
            break
        tokens += question["question_tokens"] + question["answer_tokens"]
        answers.append((end - len(question["answer_tokens"]), end))
        weights.append(target_weights(sample["task"], question["answer_tokens"]))
    if not answers:
        return None
    return Sequence(sample["task"], sample["length"], np.array(tokens, np.int32),
                    np.concatenate([np.arange(a, b, dtype=np.int32) for a, b in answers]),
                    np.concatenate(weights), np.cumsum([b - a for a, b in answers]))


def make_samples(job):
    """Runs in a process of its own."""
    program, model, family, length, questions, samples, seed = job
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "samples.jsonl")
        command = [program, "eval", "-m", model, "-q", "--write-samples", file, "--tasks", family, "--lengths",
                   str(length), "--questions", str(questions), "--samples", str(samples), "--seed", str(seed)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.decode(errors='replace').strip()}")
        with open(file, encoding="utf-8") as lines:
            sequences = [sequence_of(line) for line in lines]
    return [s for s in sequences if s is not None]


def queues_of(lengths):
    """{(family, length): share of the tokens} of a stage."""
    shares = collections.Counter()
    for family, share in TOKEN_SHARES.items():
        own = WALK_SHARE if family == "walk" else 0.0
        for length in lengths:
            shares[family, length] += share * (1 - own) / len(lengths)
        for length in WALK_LENGTHS if own else []:
            shares[family, length] += share * own / len(WALK_LENGTHS)
    return dict(shares)


class SampleSource:
    """Samples by family and length, made in the background in the order in which the stages need them."""

    def __init__(self, arguments, stages):
        self.unused = collections.defaultdict(collections.deque)
        self.used = collections.defaultdict(list)
        self.evaluation = []
        self.num_reused = 0
        self.num_made_tokens = 0
        self.random = random.Random(arguments.seed)
        self.pool = multiprocessing.get_context("fork").Pool(arguments.jobs)
        self.pending = []
        program, model = arguments.program, arguments.model
        seed = FIRST_SEED + 1_000_000 * arguments.seed
        for i, (share, lengths) in enumerate(stages if arguments.seconds > 0 else []):
            stage_tokens = share * arguments.seconds * arguments.samples_rate
            rounds = max(1, round(stage_tokens / (4 * arguments.job_tokens * len(lengths))))
            for _ in range(rounds):
                for (family, length), part in queues_of(lengths).items():
                    count = max(2, math.ceil(part * stage_tokens / rounds / length))
                    seed += 1
                    job = (program, model, family, length, QUESTIONS[family], count, seed)
                    self.pending.append(("train", self.pool.apply_async(make_samples, (job,))))
            if i == 0:
                self.start_evaluation(arguments)
        if arguments.seconds <= 0:
            self.start_evaluation(arguments)
        self.pool.close()

    def start_evaluation(self, arguments):
        for length in arguments.eval_lengths:
            for family in QUESTIONS:
                for part in range(arguments.eval_samples // 8):
                    job = (arguments.program, arguments.model, family, length, 1, 8, EVAL_SEED + part)
                    self.pending.append(("evaluation", self.pool.apply_async(make_samples, (job,))))

    def collect(self):
        still = []
        for use, result in self.pending:
            if not result.ready():
                still.append((use, result))
                continue
            for sequence in result.get():  # raises what the process raised
                self.num_made_tokens += len(sequence.tokens)
                if use == "evaluation":
                    self.evaluation.append(sequence)
                else:
                    self.unused[sequence.family, sequence.length].append(sequence)
        self.pending = still

    def wait_for(self, lengths):
        while True:
            self.collect()
            if all(self.unused[queue] or self.used[queue] for queue in queues_of(lengths)):
                return
            time.sleep(0.1)

    def wait_for_evaluation(self):
        while any(use == "evaluation" for use, _ in self.pending):
            self.collect()
            time.sleep(0.1)

    def draw(self, lengths, num_tokens):
        """About num_tokens, shared as queues_of says; when there are no new samples, old ones again."""
        self.wait_for(lengths)
        drawn = []
        for (family, length), share in queues_of(lengths).items():
            unused, used = self.unused[family, length], self.used[family, length]
            have = self.random.random() * length  # the last one in or out at random: shares are right on average
            while have < share * num_tokens:
                if not unused:
                    self.random.shuffle(used)
                    unused.extend(used)
                    self.num_reused += len(used)
                    used.clear()
                sequence = unused.popleft()
                used.append(sequence)
                drawn.append(sequence)
                have += len(sequence.tokens)
        return drawn

    def stop(self):
        self.pool.terminate()


def passes_of(sequences, tokens_per_pass, rng, jitter=0.05):
    """Batches of sequences of similar length, none above tokens_per_pass when padded, in random order."""
    order = sorted(sequences, key=lambda s: len(s.tokens) * (1 + jitter * (2 * rng.random() - 1)))
    passes, longest = [[]], 0
    for sequence in order:
        longest = max(longest, len(sequence.tokens))
        if passes[-1] and longest * (len(passes[-1]) + 1) > tokens_per_pass:
            passes.append([])
            longest = len(sequence.tokens)
        passes[-1].append(sequence)
    rng.shuffle(passes)
    return passes


Batch = collections.namedtuple("Batch", "tokens places expected weights families")


def batch_of(sequences, device):
    """tokens [rows, longest]; places [targets] of the tokens that predict, in the flattened batch; expected [targets]."""
    longest = max(len(s.tokens) for s in sequences)
    tokens = np.zeros((len(sequences), longest), np.int64)
    for row, sequence in enumerate(sequences):
        tokens[row, :len(sequence.tokens)] = sequence.tokens
    names = list(QUESTIONS)
    arrays = [
        tokens,
        np.concatenate([row * longest + s.targets.astype(np.int64) - 1 for row, s in enumerate(sequences)]),
        np.concatenate([s.tokens[s.targets].astype(np.int64) for s in sequences]),
        np.concatenate([s.weights for s in sequences]) / np.float32(sum(s.weights.sum() for s in sequences)),
        np.concatenate([np.full(len(s.targets), names.index(s.family), np.int64) for s in sequences]),
    ]
    tensors = [torch.from_numpy(a) for a in arrays]
    if device.type == "cuda":
        tensors = [t.pin_memory().to(device, non_blocking=True) for t in tensors]
    return Batch(*tensors)


# --- the model --------------------------------------------------------------------------------------------------------


def dequantised(kind, raw, shape):
    """GGUF tensor bytes as f32 [shape]. Q4_1: 32 values of 4 bits, times d plus m."""
    if kind == 0:
        return np.frombuffer(raw, np.float32).reshape(shape)
    if kind == 1:
        return np.frombuffer(raw, np.float16).astype(np.float32).reshape(shape)
    half = lambda blocks, at: blocks[:, at:at + 2].copy().view(np.float16).astype(np.float32)
    nibbles = lambda q: np.concatenate([q & 15, q >> 4], axis=1).astype(np.float32)
    if kind == 2:
        blocks = np.frombuffer(raw, np.uint8).reshape(-1, 18)
        return (half(blocks, 0) * (nibbles(blocks[:, 2:]) - 8)).reshape(shape)
    if kind == 3:
        blocks = np.frombuffer(raw, np.uint8).reshape(-1, 20)
        return (half(blocks, 0) * nibbles(blocks[:, 4:]) + half(blocks, 2)).reshape(shape)
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, 34)
    return (half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)).reshape(shape)


BLOCK_BYTES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34)}  # GGUF type: (values, bytes)


def read_gguf(path):
    """(metadata without long arrays, {name: f32 array, slowest dimension first})."""
    data = memoryview(pathlib.Path(path).read_bytes())
    at = 0
    scalars = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

    def take(form):
        nonlocal at
        value = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return value[0]

    def text():
        nonlocal at
        size = take("<Q")
        at += size
        return bytes(data[at - size:at]).decode("utf-8", "replace")

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            inner, count = take("<I"), take("<Q")
            return [value(inner) for _ in range(count)]
        return take(scalars[kind])

    if bytes(data[:4]) != b"GGUF":
        sys.exit(f"{path} is no GGUF file")
    at = 8
    num_tensors, num_fields = take("<Q"), take("<Q")
    fields = {}
    for _ in range(num_fields):
        name = text()
        fields[name] = value(take("<I"))
    entries = []
    for _ in range(num_tensors):
        name = text()
        shape = [take("<Q") for _ in range(take("<I"))][::-1]
        entries.append((name, shape, take("<I"), take("<Q")))
    alignment = fields.get("general.alignment", 32)
    start = (at + alignment - 1) // alignment * alignment
    tensors = {}
    for name, shape, kind, offset in entries:
        if kind not in BLOCK_BYTES:
            sys.exit(f"{path}: tensor {name} has GGUF type {kind}; this tool reads F32, F16, Q4_0, Q4_1 and Q8_0")
        values, size = BLOCK_BYTES[kind]
        num_bytes = math.prod(shape) // values * size
        tensors[name] = dequantised(kind, data[start + offset:start + offset + num_bytes], shape)
    return fields, tensors


class AnswerLoss(torch.autograd.Function):
    """Cross-entropy of hidden [targets, width] with a frozen vocabulary [vocab, width], a slice at a time, so that no more
    than a slice's logits exist. Gives (weighted sum, loss of each target)."""

    SLICE = 4096

    @staticmethod
    def forward(ctx, hidden, vocabulary, expected, weights):
        losses = torch.empty(len(hidden), device=hidden.device)
        gradient = torch.empty_like(hidden)
        for i in range(0, len(hidden), AnswerLoss.SLICE):
            part = slice(i, i + AnswerLoss.SLICE)
            logits = hidden[part] @ vocabulary.T
            lse = torch.logsumexp(logits, 1, keepdim=True)
            picked = logits.gather(1, expected[part, None])
            losses[part] = (lse - picked)[:, 0]
            logits.sub_(lse).exp_()
            logits.scatter_add_(1, expected[part, None], torch.full_like(picked, -1.0))
            gradient[part] = (logits @ vocabulary) * weights[part, None]
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx, upstream, _):
        return ctx.saved_tensors[0] * upstream, None, None, None


# Projections that read the same input are one matrix product.
GROUPS = {"qkv": PROJECTIONS[:3], "output": PROJECTIONS[3:4], "gate_up": PROJECTIONS[4:6], "down": PROJECTIONS[6:]}


class Model:
    """A Llama with tied embeddings. The frozen weights and the adapter are f32 and joined before each step, to weights in
    dtype that the passes use: their gradient leads to the adapter's with two small products, and no pass has to move
    activations for the adapter."""

    def __init__(self, path, device, dtype):
        fields, tensors = read_gguf(path)
        if fields["general.architecture"] != "llama" or "output.weight" in tensors:
            sys.exit(f"{path}: this tool knows Llama models with tied embeddings")
        self.device, self.dtype = device, dtype
        self.num_layers = fields["llama.block_count"]
        self.num_q_heads = fields["llama.attention.head_count"]
        self.num_kv_heads = fields["llama.attention.head_count_kv"]
        self.eps = fields["llama.attention.layer_norm_rms_epsilon"]
        self.width = fields["llama.embedding_length"]
        self.head_dim = self.width // self.num_q_heads
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
        angles = torch.arange(CONTEXT_TOKENS, dtype=torch.float64)[:, None] * fields["llama.rope.freq_base"]**-exponents
        self.cos, self.sin = angles.cos().float().to(device), angles.sin().float().to(device)  # [tokens, head_dim / 2]
        self.norms = {n: torch.from_numpy(np.array(t)).to(device) for n, t in tensors.items() if n.endswith("norm.weight")}
        self.embedding = torch.from_numpy(np.array(tensors["token_embd.weight"])).to(device)
        self.base, self.lora = {}, {}  # by projection: [layers, out, in]; ([layers, rank, in], [layers, out, rank])
        generator = torch.Generator().manual_seed(1)
        for kind in PROJECTIONS:
            stack = np.stack([tensors[f"blk.{i}.{kind}.weight"] for i in range(self.num_layers)])
            _, num_out, num_in = stack.shape
            self.base[kind] = torch.from_numpy(stack).to(device)
            a = (2 * torch.rand(self.num_layers, RANK, num_in, generator=generator) - 1) / math.sqrt(num_in)
            b = torch.zeros(self.num_layers, num_out, RANK, device=device, requires_grad=True)
            self.lora[kind] = (a.to(device).requires_grad_(), b)
        self.joined, self.joined_gradients, self.weights = {}, {}, {}
        for group, kinds in GROUPS.items():
            shape = (self.num_layers, sum(self.base[k].shape[1] for k in kinds), self.base[kinds[0]].shape[2])
            self.joined[group] = torch.zeros(shape, device=device, dtype=dtype)
            self.joined_gradients[group] = torch.zeros_like(self.joined[group])
            self.weights[group] = [w.detach().requires_grad_() for w in self.joined[group]]
            for weight, gradient in zip(self.weights[group], self.joined_gradients[group]):
                weight.grad = gradient
        self.join()
        self.expands_kv = not self.attention_groups_heads()

    def parameters(self):
        return [p for pair in self.lora.values() for p in pair]

    def parts(self):
        """(projection, group, its rows in the group)."""
        for group, kinds in GROUPS.items():
            at = 0
            for kind in kinds:
                yield kind, group, slice(at, at + self.base[kind].shape[1])
                at += self.base[kind].shape[1]

    @torch.no_grad()
    def join(self, with_lora=True):
        for kind, group, rows in self.parts():
            a, b = self.lora[kind]
            self.joined[group][:, rows] = torch.baddbmm(self.base[kind], b, a, alpha=SCALE) if with_lora else self.base[kind]

    @torch.no_grad()
    def take_gradients(self):
        """Moves what the passes left to the adapter's gradients."""
        for kind, group, rows in self.parts():
            a, b = self.lora[kind]
            gradient = self.joined_gradients[group][:, rows].float()
            a.grad = SCALE * torch.bmm(b.transpose(1, 2), gradient)
            b.grad = SCALE * torch.bmm(gradient, a.transpose(1, 2))
        for gradient in self.joined_gradients.values():
            gradient.zero_()

    def attention_groups_heads(self):
        """Whether a fused kernel takes fewer KV than query heads; where none does, they are copied."""
        try:
            q = torch.zeros(1, self.num_q_heads, 128, self.head_dim, device=self.device, dtype=self.dtype)
            q.requires_grad_()
            k = torch.zeros_like(q[:, :self.num_kv_heads]).requires_grad_()
            if self.device.type == "cuda":
                from torch.nn.attention import SDPBackend, sdpa_kernel
                with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
                    o = F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
            else:
                o = F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)
            o.sum().backward()
            return True
        except (RuntimeError, TypeError, ImportError):
            return False

    # Three functions without matrix products, which the compiler turns into one kernel each.

    def turned(self, x, cos, sin):
        """RoPE: x [tokens, heads * head_dim], adjacent values turned as pairs by cos, sin [tokens, head_dim / 2]."""
        pairs = x.float().view(x.shape[0], -1, self.head_dim // 2, 2)
        even, odd = pairs[..., 0], pairs[..., 1]
        cos, sin = cos[:, None], sin[:, None]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).view(x.shape).to(self.dtype)

    def added(self, x, y, norm):
        """(x + y, its norm)."""
        x = x + y
        return x, (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * norm).to(self.dtype)

    def gated(self, gate_up):
        gate, up = gate_up.chunk(2, 1)
        return (F.silu(gate.float()) * up).to(self.dtype)

    def compile(self):
        """Tries it too, with two lengths; without a compiler the model stays as it is."""
        plain = self.turned, self.added, self.gated
        try:
            self.turned, self.added, self.gated = (torch.compile(f) for f in plain)
            for num_tokens in (128, 192, 320):
                tokens = torch.ones(2, num_tokens, dtype=torch.long, device=self.device)
                self.hidden(tokens, torch.arange(8, device=self.device)).sum().backward()
        except Exception as error:  # whatever a compiler that is missing or broken raises
            print(f"not compiled: {str(error)[:500]}", flush=True)
            self.turned, self.added, self.gated = plain
        for gradient in self.joined_gradients.values():
            gradient.zero_()

    def hidden(self, tokens, places):
        """What predicts the tokens after the given places, f32 [places, width]."""
        rows, longest = tokens.shape
        cos, sin = self.cos[:longest].repeat(rows, 1), self.sin[:longest].repeat(rows, 1)
        heads = [self.num_q_heads, self.num_kv_heads]
        x = F.embedding(tokens.view(-1), self.embedding)
        y = torch.zeros(len(x), self.width, device=self.device, dtype=self.dtype)
        for i in range(self.num_layers):
            x, h = self.added(x, y, self.norms[f"blk.{i}.attn_norm.weight"])
            qk, v = F.linear(h, self.weights["qkv"][i]).split([sum(heads) * self.head_dim, heads[1] * self.head_dim], 1)
            qk = self.turned(qk, cos, sin).view(rows, longest, -1, self.head_dim).transpose(1, 2)
            q, k = qk.split(heads, 1)
            v = v.view(rows, longest, -1, self.head_dim).transpose(1, 2)
            if self.expands_kv:
                k, v = (t.repeat_interleave(heads[0] // heads[1], 1) for t in (k, v))
                o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            y = F.linear(o.transpose(1, 2).reshape(len(x), self.width), self.weights["output"][i])
            x, h = self.added(x, y, self.norms[f"blk.{i}.ffn_norm.weight"])
            y = F.linear(self.gated(F.linear(h, self.weights["gate_up"][i])), self.weights["down"][i])
        return F.rms_norm((x[places] + y[places]), (self.width,), self.norms["output_norm.weight"], self.eps)


# --- adapter files ----------------------------------------------------------------------------------------------------


def save_adapter(model, path):
    tensors = {}
    for i in range(model.num_layers):
        for kind, (a, b) in model.lora.items():
            name = f"blk.{i}.{kind}.weight"
            tensors[name + ".lora_a"] = a[i].detach().to(torch.float16).cpu().numpy()
            tensors[name + ".lora_b"] = (SCALE * b[i].detach()).to(torch.float16).cpu().numpy()
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F16", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = pathlib.Path(str(path) + ".partial")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())
    partial.replace(path)


def load_adapter(model, path):
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    for i in range(model.num_layers):
        for kind, (a, b) in model.lora.items():
            for suffix, parameter, scale in ((".lora_a", a, 1.0), (".lora_b", b, 1.0 / SCALE)):
                entry = header[f"blk.{i}.{kind}.weight{suffix}"]
                begin, end = (8 + size + offset for offset in entry["data_offsets"])
                array = np.frombuffer(data[begin:end], {"F16": np.float16, "F32": np.float32}[entry["dtype"]])
                values = torch.from_numpy(array.reshape(entry["shape"]).astype(np.float32)) * scale
                with torch.no_grad():
                    parameter[i] = values
    model.join()


def sha256_of(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


# --- evaluation and training ------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model, sequences, tokens_per_pass):
    """{family: {length: {"exact", "without_end", "tokens", "samples"}}}: shares of answers and of their tokens."""
    rng = random.Random(0)
    sums = collections.defaultdict(lambda: np.zeros(4))
    for batch_sequences in passes_of(sequences, tokens_per_pass, rng):
        batch = batch_of(batch_sequences, model.device)
        hidden = model.hidden(batch.tokens, batch.places)
        right = torch.cat([(hidden[i:i + AnswerLoss.SLICE] @ model.embedding.T).argmax(1)
                           for i in range(0, len(hidden), AnswerLoss.SLICE)]) == batch.expected
        right = right.cpu().numpy()
        at = 0
        for sequence in batch_sequences:
            begin = at
            for end in sequence.ends:
                answer = right[begin:at + end]
                sums[sequence.family, sequence.length] += (answer.all(), answer[:-1].all(), answer.mean(), 1)
                begin = at + end
            at += len(sequence.targets)
    table = {}
    for (family, length), (exact, without_end, tokens, count) in sorted(sums.items()):
        table.setdefault(family, {})[str(length)] = {"exact": exact / count, "without_end": without_end / count,
                                                     "tokens": tokens / count, "answers": int(count)}
    return table


def table_text(base, adapter):
    lengths = sorted({int(length) for row in adapter.values() for length in row})
    lines = ["| length | " + " | ".join(QUESTIONS) + " |", "| --- |" + " --- |" * len(QUESTIONS)]
    for length in lengths:
        cells = []
        for family in QUESTIONS:
            was, now = (table.get(family, {}).get(str(length)) for table in (base, adapter))
            cells.append("-" if now is None else
                         (f"{was['exact']:.2f} -> " if was else "") + f"{now['exact']:.2f}")
        lines.append(f"| {length} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def train(model, source, stages, arguments, report):
    """Until the seconds are over; a checkpoint every minute."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, betas=(0.9, 0.95), weight_decay=0.0,
                                  fused=model.device.type == "cuda")
    rng = random.Random(arguments.seed)
    source.wait_for(stages[0][1])
    print(f"first samples are there: {source.num_made_tokens} tokens", flush=True)
    begin = saved = time.monotonic()
    bounds = np.cumsum([share for share, _ in stages])
    waiting, current, tokens_seen, padded_seen, step = [], -1, 0, 0, 0
    previous, shown, shown_from, idle_events = None, [], begin, []
    timed = model.device.type == "cuda"
    families = list(QUESTIONS)
    while (elapsed := time.monotonic() - begin) < arguments.seconds:
        done = elapsed / arguments.seconds
        stage = min(int(np.searchsorted(bounds, done, side="right")), len(stages) - 1)
        if stage != current:
            current, waiting = stage, []
            print(f"{elapsed:.0f} s: lengths {stages[stage][1]}", flush=True)
        rate = arguments.lr * min(1.0, (step + 1) / WARMUP_STEPS) * (0.51 + 0.49 * math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        passes, num_tokens = [], 0
        while num_tokens < arguments.tokens_per_step * 0.95:
            if not waiting:
                source.collect()
                waiting = passes_of(source.draw(stages[stage][1], 8 * arguments.tokens_per_step),
                                    arguments.tokens_per_pass, rng)
            passes.append(waiting.pop())
            longest = max(len(s.tokens) for s in passes[-1])
            num_tokens += longest * len(passes[-1])
            tokens_seen += sum(len(s.tokens) for s in passes[-1])
        padded_seen += num_tokens
        sums = torch.zeros(2, len(families), device=model.device)  # loss times weight, weight: of each family
        for sequences in passes:
            batch = batch_of(sequences, model.device)
            if timed and sequences is passes[0] and idle_events:  # what lies between is the device's waiting
                idle_events[-1][1].record()
            hidden = model.hidden(batch.tokens, batch.places)
            loss, losses = AnswerLoss.apply(hidden, model.embedding, batch.expected, batch.weights / len(passes))
            loss.backward()
            sums[0].index_add_(0, batch.families, losses * batch.weights)
            sums[1].index_add_(0, batch.families, batch.weights)
        model.take_gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.join()
        if timed:
            idle_events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            idle_events[-1][0].record()
        step += 1
        if previous is not None:
            shown.append(previous.cpu().numpy())  # the step before: waiting for it lets the device run one ahead
            if not np.isfinite(shown[-1]).all():
                sys.exit(f"the loss of step {step - 1} is not finite; the last checkpoint is in {arguments.out}")
        previous = sums
        if step % 10 == 1 and shown:
            total = np.sum(shown, axis=0)
            by_family = {f: round(float(total[0, i] / total[1, i]), 5) for i, f in enumerate(families) if total[1, i]}
            mean = float(total[0].sum() / total[1].sum())
            now = time.monotonic()
            seconds = now - begin
            idle_ms = sum(a.elapsed_time(b) for a, b in idle_events[:-2])  # the last two may not have ended
            idle = idle_ms / 1000 / (now - shown_from)
            shown_from, idle_events = now, idle_events[-2:]
            report["losses"].append({"step": step - 1, "seconds": round(seconds, 2), "tokens": tokens_seen,
                                     "lr": rate, "loss": mean, "families": by_family, "waits": round(idle, 4)})
            print(f"step {step - 1}, {seconds:.0f} s, {tokens_seen / seconds:.0f} tokens/s, lr {rate:.2e}, "
                  f"loss {mean:.5f} {by_family}, device waits {idle:.1%}", flush=True)
            shown = []
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            save_adapter(model, arguments.out)
            write_report(report, arguments)
    seconds = time.monotonic() - begin
    report.update(steps=step, tokens=tokens_seen, padded_tokens=padded_seen, train_seconds=seconds,
                  tokens_per_s=tokens_seen / seconds, reused_samples=source.num_reused,
                  made_tokens=source.num_made_tokens)
    if model.device.type == "cuda":
        report["peak_device_bytes"] = torch.cuda.max_memory_allocated()
    save_adapter(model, arguments.out)
    print(f"{step} steps, {tokens_seen} tokens in {seconds:.0f} s, {source.num_reused} samples seen again; saved "
          f"{arguments.out}", flush=True)


def write_report(report, arguments):
    if arguments.report:
        pathlib.Path(arguments.report).write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="cachette, for the samples")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--out", help="adapter to write (.lora.safetensors)")
    parser.add_argument("--report", help="JSON file: losses, scores, settings, hardware")
    parser.add_argument("--start-from", help="adapter to begin with")
    parser.add_argument("--seconds", type=float, default=400, help="of training, evaluation comes on top; 0: none")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens-per-step", type=int, default=131072)
    parser.add_argument("--tokens-per-pass", type=int, default=32768, help="padded tokens at a time; 32768: 25 GB")
    parser.add_argument("--lr", type=float, default=1e-3, help="at its peak")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="processes that make samples")
    parser.add_argument("--eval-samples", type=int, default=48, help="of each family and length, a multiple of 8")
    parser.add_argument("--eval-lengths", default=None, help="N,...")
    parser.add_argument("--curriculum", help="SHARE:LENGTH,.../SHARE:LENGTH,...: lengths in each share of the time")
    parser.add_argument("--no-compile", action="store_true", help="plain kernels, without torch.compile")
    arguments = parser.parse_args()
    if arguments.seconds > 0 and not arguments.out:
        parser.error("--out is needed: where the adapter goes")
    for path in filter(None, (arguments.program, arguments.model, arguments.start_from)):
        if not pathlib.Path(path).is_file():
            parser.error(f"{path} is no file")
    for path in filter(None, (arguments.out, arguments.report)):
        pathlib.Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    arguments.tokens_per_pass = min(arguments.tokens_per_pass, arguments.tokens_per_step)
    arguments.longest = max(512, arguments.tokens_per_step // 2)  # a step holds at least two of them
    lengths = [int(n) for n in arguments.eval_lengths.split(",")] if arguments.eval_lengths else EVAL_LENGTHS
    arguments.eval_lengths = [n for n in lengths if n <= max(1024, arguments.longest)]
    on_cpu = arguments.device == "cpu"
    try:
        arguments.stages = [(float(share), [int(n) for n in lengths.split(",")]) for share, lengths in
                            (stage.split(":") for stage in arguments.curriculum.split("/"))
                            ] if arguments.curriculum else CURRICULUM
    except ValueError:
        parser.error(f"--curriculum {arguments.curriculum}: it is read as SHARE:LENGTH,.../SHARE:LENGTH,...")
    arguments.samples_rate = 2_000 if on_cpu else 300_000  # tokens to make for each second of training
    arguments.job_tokens = 20_000 if on_cpu else JOB_TOKENS
    return arguments


def main():
    arguments = parse_arguments()
    start = time.monotonic()
    stages = [(share, [n for n in lengths if n <= arguments.longest]) for share, lengths in arguments.stages]
    stages = [(share, lengths or stages[0][1][-1:]) for share, lengths in stages]
    make_samples((arguments.program, arguments.model, "kv", 512, 1, 1, 1))  # a program that does not run: said at once
    source = SampleSource(arguments, stages)  # before the device is touched: its processes are forks of this one
    try:
        device = torch.device(arguments.device)
        if device.type == "cuda":
            torch.cuda.init()
            torch.set_float32_matmul_precision("high")  # logits in TF32
        model = Model(arguments.model, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        if arguments.start_from:
            load_adapter(model, arguments.start_from)
        if device.type == "cuda" and not arguments.no_compile:
            model.compile()
        report = {"settings": {k: v for k, v in vars(arguments).items()}, "curriculum": stages, "questions": QUESTIONS,
                  "token_shares": TOKEN_SHARES, "walk_lengths": WALK_LENGTHS,
                  "base_sha256": sha256_of(arguments.model), "rank": RANK, "scale": SCALE,
                  "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
                  "torch": torch.__version__, "attention_copies_kv_heads": model.expands_kv, "losses": []}
        if arguments.start_from:
            report["start_sha256"] = sha256_of(arguments.start_from)
        print(f"{report['device']}, PyTorch {torch.__version__}; model read after {time.monotonic() - start:.0f} s",
              flush=True)
        if arguments.seconds > 0:
            train(model, source, stages, arguments, report)
            write_report(report, arguments)
        source.wait_for_evaluation()
        if arguments.seconds > 0:
            load_adapter(model, arguments.out)  # as saved, in f16
        adapter = evaluate(model, source.evaluation, arguments.tokens_per_pass)
        report["scores"] = adapter
        write_report(report, arguments)
        print(table_text({}, adapter), flush=True)
        if not arguments.start_from:
            model.join(with_lora=False)
            report["base_scores"] = evaluate(model, source.evaluation, arguments.tokens_per_pass)
        if arguments.seconds > 0:
            report["adapter_sha256"] = sha256_of(arguments.out)
        report["seconds"] = time.monotonic() - start
        write_report(report, arguments)
        if "base_scores" in report:
            print("base -> with adapter\n" + table_text(report["base_scores"], adapter), flush=True)
        print(f"done after {report['seconds']:.0f} s")
    finally:
        source.stop()


if __name__ == "__main__":
    main()
