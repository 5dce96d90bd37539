#!/usr/bin/env python3
"""Make train.json: training runs of the tiny models arch_*.gguf, in float64, to hold the trainer against.

    make_train.py           (needs torch and gguf; the tests only read what it writes)
    make_train.py --check   (runs train_a/ instead and holds it against its golden.json; writes nothing)

A run is an object: "file"; "sequences" of ids, each of which attends to itself alone; "weights", a number for each id as a
target (the first of a sequence is none); AdamW's "beta1", "beta2", "eps", "weight_decay", "decay_all" (else matrices only);
"clip" (0: off); "lr_each" step; "losses", before each step and after the last: the mean over the targets of -ln p, by
weight; "grad_norms" before clipping; and for every tensor its sum of squares and 12 of its numbers at even distances, of the
first step's gradient in "grads" and after the last step in "final".
"""
import argparse
import json
import math
import os
import random

import gguf
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
F64 = torch.float64


def read_model(path):
    file = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in file.fields.items()}
    prefix = fields["general.architecture"] + "."
    meta = {name[len(prefix):] if name.startswith(prefix) else name: value for name, value in fields.items()}
    return meta, {tensor.name: torch.tensor(tensor.data.astype("float64")) for tensor in file.tensors}


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rope(x, n_rot, base, scale, factors, halves):
    pair = torch.arange(n_rot // 2)
    first, second = (pair, pair + n_rot // 2) if halves else (2 * pair, 2 * pair + 1)
    angle = torch.arange(len(x), dtype=F64)[:, None] * scale * base ** (-2 * pair.to(F64) / n_rot) / factors
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    out = x.clone()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def attention(q, k, v, window):
    n, heads, head = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    behind = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    seen = (behind >= 0) & (behind < (window or n))
    score = (torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(head)).masked_fill(~seen, -math.inf)
    return torch.einsum("hqk,khd->qhd", score.softmax(-1), v).reshape(n, -1)


def log_probabilities(meta, tensors, ids):
    is_gemma = meta["general.architecture"] == "gemma3"
    eps = meta["attention.layer_norm_rms_epsilon"]
    heads, kv = meta["attention.head_count"], meta["attention.head_count_kv"]
    head = meta.get("attention.key_length", meta["embedding_length"] // heads)
    n_rot = meta.get("rope.dimension_count", head)
    linear = 1 / meta["rope.scaling.factor"] if meta.get("rope.scaling.type") == "linear" else 1.0
    factors = tensors.get("rope_freqs.weight", 1.0)

    def linear_map(name, x):
        return x @ tensors[name + ".weight"].T + tensors.get(name + ".bias", 0.0)

    def norm(name, x):
        return rms_norm(x, tensors[name + ".weight"], eps)

    def activation(x):
        return torch.nn.functional.gelu(x, approximate="tanh") if is_gemma else torch.nn.functional.silu(x)

    x = tensors["token_embd.weight"][ids]
    if is_gemma:
        x = x * math.sqrt(meta["embedding_length"])
    for i in range(meta["block_count"]):
        at = f"blk.{i}."
        base, scale, window = meta["rope.freq_base"], linear, meta.get("attention.sliding_window")
        if is_gemma and i % 6 == 5:
            window = None
        elif is_gemma:
            base, scale = 10000.0, 1.0
        h = norm(at + "attn_norm", x)
        q = linear_map(at + "attn_q", h).reshape(len(ids), heads, head)
        k = linear_map(at + "attn_k", h).reshape(len(ids), kv, head)
        v = linear_map(at + "attn_v", h).reshape(len(ids), kv, head)
        if at + "attn_q_norm.weight" in tensors:
            q, k = norm(at + "attn_q_norm", q), norm(at + "attn_k_norm", k)
        q, k = (rope(y, n_rot, base, scale, factors, meta["general.architecture"] != "llama") for y in (q, k))
        h = linear_map(at + "attn_output", attention(q, k, v, window))
        x = x + (norm(at + "post_attention_norm", h) if is_gemma else h)
        h = norm(at + "ffn_norm", x)
        h = linear_map(at + "ffn_down", activation(linear_map(at + "ffn_gate", h)) * linear_map(at + "ffn_up", h))
        x = x + (norm(at + "post_ffw_norm", h) if is_gemma else h)
    return linear_map("output" if "output.weight" in tensors else "token_embd", norm("output_norm", x)).log_softmax(-1)


def loss_of(meta, tensors, run):
    total, weight = 0.0, 0.0
    for ids, weights in zip(run["sequences"], run["weights"]):
        ids, weights = torch.tensor(ids), torch.tensor(weights, dtype=F64)
        if len(ids) < 2:
            continue
        total = total - (log_probabilities(meta, tensors, ids[:-1]).gather(1, ids[1:, None])[:, 0] * weights[1:]).sum()
        weight += weights[1:].sum()
    return total / weight


def summary(tensor):
    flat = tensor.detach().reshape(-1)
    step = max(len(flat) // 12, 1)
    return [float((flat * flat).sum())] + [float(x) for x in flat[::step][:12]]


def train(meta, tensors, run):
    """Fill in what the run comes to; return the gradients and the weights."""
    trained = {name: x.requires_grad_() for name, x in tensors.items() if name != "rope_freqs.weight"}
    groups = [dict(params=[x for x in trained.values() if run["decay_all"] or x.dim() > 1], weight_decay=run["weight_decay"]),
              dict(params=[x for x in trained.values() if not run["decay_all"] and x.dim() == 1], weight_decay=0.0)]
    opt = torch.optim.AdamW([g for g in groups if g["params"]], lr=0, betas=(run["beta1"], run["beta2"]), eps=run["eps"])
    run["losses"], run["grad_norms"], first = [], [], None
    for lr in run["lr_each"]:
        opt.zero_grad()
        loss = loss_of(meta, tensors, run)
        loss.backward()
        first = first or {name: x.grad.clone() for name, x in trained.items()}
        run["losses"].append(loss.item())
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), run["clip"] or 1e300)
        run["grad_norms"].append(norm.item())
        for group in opt.param_groups:
            group["lr"] = lr
        opt.step()
    run["losses"].append(loss_of(meta, tensors, run).item())
    return first, trained


def schedule(lr, n_warmup, n_steps):
    return [lr * (i + 1) / n_warmup if i < n_warmup else
            lr * 0.5 * (1 + math.cos(math.pi * (i - n_warmup) / (n_steps - n_warmup))) for i in range(n_steps)]


RUNS = {
    "llama_plain": dict(clip=0.5),
    "llama_untied": dict(clip=0.0, decay_all=True),
    "llama_linear": dict(clip=0.0, masked=True),
    "llama3_rope": dict(clip=1.0),
    "llama_bias": dict(clip=0.0),
    "llama_partial": dict(clip=0.0, masked=True),
    "mistral": dict(clip=0.3),
    "gemma3": dict(clip=0.0),
    "gemma3_linear": dict(clip=1.0, masked=True),
    "qwen2": dict(clip=0.0),
    "qwen3": dict(clip=0.7, decay_all=True),
}


def make():
    runs = []
    for number, (name, options) in enumerate(RUNS.items()):
        rng = random.Random(number)
        meta, tensors = read_model(os.path.join(HERE, f"arch_{name}.gguf"))
        n_vocab = len(tensors["token_embd.weight"])
        lengths = [1, 70, 5, 33, 90, 2]
        sequences = [[rng.randrange(n_vocab) for _ in range(n)] for n in lengths]
        weights = [[1.0] * n for n in lengths]
        if options.get("masked"):   # prompts teach nothing, and some answers count half
            weights = [[0.0 if i < n // 2 else rng.choice([1.0, 0.5]) for i in range(n)] for n in lengths]
        run = dict(file=f"arch_{name}.gguf", sequences=sequences, weights=weights, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1,
                   decay_all=options.get("decay_all", False), clip=options["clip"], lr_each=schedule(2e-3, 2, 6))
        first, final = train(meta, tensors, run)
        run["grads"] = {name: summary(x) for name, x in first.items()}
        run["final"] = {name: summary(x) for name, x in final.items()}
        runs.append(run)
        print(name, run["losses"][0], run["losses"][-1], run["grad_norms"][0])
    with open(os.path.join(HERE, "train.json"), "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(run, separators=(",", ":")) for run in round_all(runs)) + "\n]\n")


def round_all(x):
    """Numbers to 10 digits: far beyond what float32 holds."""
    if isinstance(x, dict):
        return {key: round_all(value) for key, value in x.items()}
    if isinstance(x, list):
        return [round_all(value) for value in x]
    return float(f"{x:.10g}") if isinstance(x, float) else x


def check():
    """train_a/ is a Hugging Face folder: halves turn, which is all that sets it apart here."""
    import numpy
    golden = json.load(open(os.path.join(HERE, "train_a", "golden.json")))
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
             "down_proj": "ffn_down"}
    with open(os.path.join(HERE, "train_a", "model.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        parts = name.split(".")
        ours = names[parts[-2]] + ".weight"
        begin, end = entry["data_offsets"]
        values = numpy.frombuffer(data[begin:end], "<f4").astype("float64").reshape(entry["shape"])
        tensors[f"blk.{parts[2]}.{ours}" if "layers" in parts else ours] = torch.tensor(values)
    meta = {"general.architecture": "qwen2", "attention.layer_norm_rms_epsilon": 1e-5, "attention.head_count": 2,
            "attention.head_count_kv": 2, "embedding_length": 32, "block_count": 2, "rope.freq_base": 10000.0}
    run = dict(sequences=golden["sequences"], weights=[[1.0] * 16], beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, decay_all=True, clip=0,
               lr_each=golden["lr_each"])
    train(meta, tensors, run)
    print("train_a: losses differ by at most", max(abs(a - b) for a, b in zip(run["losses"], golden["losses_f64"])))


parser = argparse.ArgumentParser()
parser.add_argument("--check", action="store_true")
torch.manual_seed(0)
check() if parser.parse_args().check else make()
