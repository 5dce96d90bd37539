#!/usr/bin/env python3
"""Make train.json: training runs of the tiny models arch_*.gguf and hf_bert, in float64, to hold the trainer against.

    make_train.py           (needs torch and gguf; the tests only read what it writes)
    make_train.py NAME...   (makes those runs only, and leaves the others as they are)
    make_train.py --check   (runs train_a/ instead and holds it against its golden.json; writes nothing)

A run is an object: "file"; "sequences" of ids, each of which attends to itself alone; "weights", a number for each id as a
target (the first of a sequence is none); AdamW's "beta1", "beta2", "eps", "weight_decay", "decay_all" (else matrices only);
"clip" (0: off); "lr_each" step; "losses", before each step and after the last: the mean over the targets of -ln p, by
weight; "grad_norms" before clipping; and for every tensor its sum of squares and 12 of its numbers at even distances, of the
first step's gradient in "grads" and after the last step in "final".

With experts "balance" times this is added to what is minimised, and "balances" has its values: the mean over layers of
n_experts sum_e (the share of all pairs of a position and an expert that e has) (the mean over positions of e's probability).

A run of "pairs" has texts a_0, b_0, a_1, b_1, …; its losses are half the mean of -ln softmax(cosines of a_i with every b /
temperature)[i], and half that of b_i with every a; vectors are means over a text's positions.
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


def read_safetensors(folder):
    """Arrays by name."""
    import numpy
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    arrays = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            begin, end = entry["data_offsets"]
            arrays[name] = numpy.frombuffer(data[begin:end], "<f4").astype("float64").reshape(entry["shape"])
    return arrays


BERT_NAMES = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd", "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm", "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}


def read_bert(folder):
    config = json.load(open(os.path.join(folder, "config.json")))
    meta = {"general.architecture": "bert", "block_count": config["num_hidden_layers"], "embedding_length": config["hidden_size"],
            "attention.head_count": config["num_attention_heads"], "attention.layer_norm_epsilon": config["layer_norm_eps"]}
    tensors = {}
    for name, array in read_safetensors(folder).items():
        stem, kind = name.rsplit(".", 1)
        layer = ""
        if stem.startswith("encoder.layer."):
            number, stem = stem[len("encoder.layer."):].split(".", 1)
            layer = f"blk.{number}."
        if stem in BERT_NAMES:
            tensors[f"{layer}{BERT_NAMES[stem]}.{kind}"] = torch.tensor(array)
    return meta, tensors


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


def attention(q, k, v, window, causal=True):
    n, heads, head = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    behind = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    seen = (behind >= 0) & (behind < (window or n)) | (not causal)
    score = (torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(head)).masked_fill(~seen, -math.inf)
    return torch.einsum("hqk,khd->qhd", score.softmax(-1), v).reshape(n, -1)


def hidden_states(meta, tensors, ids, routes=None):
    """The last ones; routes gets each layer's router logits."""
    arch = meta["general.architecture"]
    is_gemma, is_bert, has_table = arch == "gemma3", arch == "bert", arch in ("gpt2", "bert")
    eps = meta.get("attention.layer_norm_rms_epsilon", meta.get("attention.layer_norm_epsilon"))
    heads = meta["attention.head_count"]
    kv = meta.get("attention.head_count_kv", heads)
    head = meta.get("attention.key_length", meta["embedding_length"] // heads)
    n_rot = meta.get("rope.dimension_count", head)
    linear = 1 / meta["rope.scaling.factor"] if meta.get("rope.scaling.type") == "linear" else 1.0
    factors = tensors.get("rope_freqs.weight", 1.0)

    def linear_map(name, x):
        return x @ tensors[name + ".weight"].T + tensors.get(name + ".bias", 0.0)

    def norm(name, x):
        if name + ".weight" not in tensors:
            return x
        if has_table:
            return torch.nn.functional.layer_norm(x, x.shape[-1:], tensors[name + ".weight"], tensors[name + ".bias"], eps)
        return rms_norm(x, tensors[name + ".weight"], eps)

    def activation(x):
        if is_gemma or has_table:
            return torch.nn.functional.gelu(x, approximate="none" if is_bert else "tanh")
        return torch.nn.functional.silu(x)

    def feed_forward(at, x):
        if has_table:
            return linear_map(at + "ffn_down", activation(linear_map(at + "ffn_up", x)))
        return linear_map(at + "ffn_down", activation(linear_map(at + "ffn_gate", x)) * linear_map(at + "ffn_up", x))

    def experts(at, x):
        """Each row by the experts with the largest router logits, weighted by a softmax over those."""
        logits = linear_map(at + "ffn_gate_inp", x)
        routes.append(logits)
        best, chosen = logits.topk(meta["expert_used_count"])
        gate, up, down = (tensors[f"{at}ffn_{name}_exps.weight"] for name in ("gate", "up", "down"))
        rows = []
        for row, (weights, which) in enumerate(zip(best.softmax(-1), chosen)):
            rows.append(sum(w * (down[e] @ (activation(gate[e] @ x[row]) * (up[e] @ x[row]))) for w, e in zip(weights, which)))
        return torch.stack(rows)

    x = tensors["token_embd.weight"][ids]
    if has_table:
        x = x + tensors["position_embd.weight"][:len(ids)]
    if is_bert:
        x = norm("token_embd_norm", x + tensors["token_types.weight"][0])
    if is_gemma:
        x = x * math.sqrt(meta["embedding_length"])
    for i in range(meta["block_count"]):
        at = f"blk.{i % meta.get('share_layers', 512)}."
        base, scale, window = meta.get("rope.freq_base"), linear, meta.get("attention.sliding_window")
        if is_gemma and i % 6 == 5:
            window = None
        elif is_gemma:
            base, scale = 10000.0, 1.0
        h = norm(at + "attn_norm", x)
        q, k, v = linear_map(at + "attn_qkv", h).chunk(3, -1) if arch == "gpt2" else (linear_map(at + "attn_" + name, h) for name in "qkv")
        q, k, v = q.reshape(len(ids), heads, head), k.reshape(len(ids), kv, head), v.reshape(len(ids), kv, head)
        if at + "attn_q_norm.weight" in tensors:
            q, k = norm(at + "attn_q_norm", q), norm(at + "attn_k_norm", k)
        if not has_table:
            q, k = (rope(y, n_rot, base, scale, factors, arch != "llama") for y in (q, k))
        h = linear_map(at + "attn_output", attention(q, k, v, window, not is_bert))
        x = norm(at + "attn_output_norm", x + (norm(at + "post_attention_norm", h) if is_gemma else h))
        h = norm(at + "ffn_norm", x)
        h = experts(at, h) if "expert_count" in meta else feed_forward(at, h)
        x = norm(at + "layer_output_norm", x + (norm(at + "post_ffw_norm", h) if is_gemma else h))
    return norm("output_norm", x)


def log_probabilities(meta, tensors, ids, routes=None):
    output = tensors.get("output.weight", tensors["token_embd.weight"])
    return (hidden_states(meta, tensors, ids, routes) @ output.T).log_softmax(-1)


def balance_of(meta, routes):
    """routes: for each sequence, each layer's logits."""
    total, n = 0.0, meta["expert_count"]
    for layer in zip(*routes):
        logits = torch.cat(layer)
        used = torch.nn.functional.one_hot(logits.topk(meta["expert_used_count"])[1], n).to(F64).mean((0, 1))
        total = total + n * (used * logits.softmax(-1).mean(0)).sum() / len(routes[0])
    return total


def pairs_loss(meta, tensors, run):
    vectors = torch.stack([hidden_states(meta, tensors, torch.tensor(ids)).mean(0) for ids in run["sequences"]])
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    cosines, right = vectors[0::2] @ vectors[1::2].T / run["temperature"], torch.arange(len(vectors) // 2)
    return (torch.nn.functional.cross_entropy(cosines, right) + torch.nn.functional.cross_entropy(cosines.T, right)) / 2


def loss_of(meta, tensors, run):
    """The loss, and what experts' balance adds."""
    if run.get("pairs"):
        return pairs_loss(meta, tensors, run), 0.0
    total, weight, routes = 0.0, 0.0, []
    for ids, weights in zip(run["sequences"], run["weights"]):
        ids, weights = torch.tensor(ids), torch.tensor(weights, dtype=F64)
        routes.append([])
        logprob = log_probabilities(meta, tensors, ids, routes[-1])[:-1]
        total = total - (logprob.gather(1, ids[1:, None])[:, 0] * weights[1:]).sum()
        weight += weights[1:].sum()
    return total / weight, balance_of(meta, routes) if "expert_count" in meta else 0.0


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
        loss, balance = loss_of(meta, tensors, run)
        (loss + run.get("balance", 0.0) * balance).backward()
        first = first or {name: x.grad.clone() for name, x in trained.items()}
        run["losses"].append(loss.item())
        if "balances" in run:
            run["balances"].append(balance.item())
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), run["clip"] or 1e300)
        run["grad_norms"].append(norm.item())
        for group in opt.param_groups:
            group["lr"] = lr
        opt.step()
    run["losses"].append(loss_of(meta, tensors, run)[0].item())
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
    "gpt2": dict(clip=0.6, eps=1e-6),
    "llama_shared": dict(clip=0.0),
    "llama_moe": dict(clip=0.0, balance=0.5, masked=True),
    "hf_bert": dict(clip=1.0, pairs=True, eps=1e-6),
}   # where no rope turns keys, the gradient of their bias is nothing but rounding: a larger eps keeps that small


def make(names):
    runs = []
    with open(os.path.join(HERE, "train.json")) as file:
        before = {run["file"]: run for run in json.load(file)}
    for number, (name, options) in enumerate(RUNS.items()):
        rng = random.Random(number)
        file = name if options.get("pairs") else f"arch_{name}.gguf"
        if names and name not in names:
            runs.append(before[file])
            continue
        meta, tensors = (read_bert if options.get("pairs") else read_model)(os.path.join(HERE, file))
        n_vocab = len(tensors["token_embd.weight"])
        lengths = [5, 13, 1, 16, 12, 12, 9, 2, 14, 8] if options.get("pairs") else [1, 70, 5, 33, 90, 2]
        sequences = [[rng.randrange(n_vocab) for _ in range(n)] for n in lengths]
        weights = [[1.0] * n for n in lengths]
        if options.get("masked"):   # prompts teach nothing, and some answers count half
            weights = [[0.0 if i < n // 2 else rng.choice([1.0, 0.5]) for i in range(n)] for n in lengths]
        run = dict(file=file, sequences=sequences, weights=weights, beta1=0.9, beta2=0.95, eps=options.get("eps", 1e-8), weight_decay=0.1,
                   decay_all=options.get("decay_all", False), clip=options["clip"], lr_each=schedule(2e-3, 2, 6))
        if "balance" in options:
            run.update(balance=options["balance"], balances=[])
        if "pairs" in options:
            run.update(pairs=1, temperature=0.1)
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
    golden = json.load(open(os.path.join(HERE, "train_a", "golden.json")))
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
             "down_proj": "ffn_down"}
    tensors = {}
    for name, array in read_safetensors(os.path.join(HERE, "train_a")).items():
        parts = name.split(".")
        ours = names[parts[-2]] + ".weight"
        tensors[f"blk.{parts[2]}.{ours}" if "layers" in parts else ours] = torch.tensor(array)
    meta = {"general.architecture": "qwen2", "attention.layer_norm_rms_epsilon": 1e-5, "attention.head_count": 2,
            "attention.head_count_kv": 2, "embedding_length": 32, "block_count": 2, "rope.freq_base": 10000.0}
    run = dict(sequences=golden["sequences"], weights=[[1.0] * 16], beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, decay_all=True, clip=0,
               lr_each=golden["lr_each"])
    train(meta, tensors, run)
    print("train_a: losses differ by at most", max(abs(a - b) for a, b in zip(run["losses"], golden["losses_f64"])))


parser = argparse.ArgumentParser()
parser.add_argument("--check", action="store_true")
parser.add_argument("names", nargs="*")
args = parser.parse_args()
torch.manual_seed(0)
check() if args.check else make(args.names)
