#!/usr/bin/env python3
"""Make arch_*.gguf and arch.json: tiny random models of each architecture, and their true log-probabilities.

    make_arch.py            (needs numpy and gguf; the tests only read what it writes)
    make_arch.py --check    (also needs llama_cpp: compares with llama.cpp what is there, and writes nothing)
    make_arch.py NAME...    makes those models only, and leaves the others' entries as they are

The models have F32 tensors and no tokenizer (tokenizer.ggml.model is "no_vocab", so <arch>.vocab_size is there).
The log-probabilities are those of reference() below, in float64, which follows a file's own metadata and tensors.

arch.json is a list with an object a model: "file"; "ids", 90 of them, longer than every sliding window; "sum_nll",
the sum over positions i >= 1 of -ln p(ids[i] | ids before); "top5_logprob_last", the five likeliest [id, ln p]
after all the ids; and "top1_each", the likeliest [id, ln p] after each of them.

A sliding window of n lets a position see itself and the n - 1 before it.

llama.cpp (llama_cpp 0.3.36) agrees, but for four things, of which --check works around three:
 - it ignores llama.attention.sliding_window (arch_mistral): there, what leaves the window is removed from its cache
   before each token;
 - it refuses a llama whose rope.dimension_count is not its head size (arch_llama_partial): there, it is given a model
   that turns all dimensions, with frequency factors that come to the same;
 - it may look GELU up in a table of f16 (arch_gemma3*, arch_gpt2): there, the comparison is also made with such a table;
 - it knows no layers that are stored once and used again (arch_llama_shared: llama.share_layers, ours).
"""
import argparse
import ctypes
import json
import os
import tempfile

import gguf
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
N_IDS = 90
N_VOCAB = 90
N_CTX = 256

# Sizes are as large as files below 150 kB permit. "head" is left out of a file where it is n_embd / heads.
LLAMA = dict(arch="llama", layers=2, embd=48, ff=64, heads=4, kv=2, base=10000.0, eps=1e-5)
GEMMA3 = dict(arch="gemma3", layers=7, embd=24, ff=32, heads=2, kv=1, head=16, base=1000000.0, eps=1e-6, window=24,
              qk_norm=True, post_norm=True)
MODELS = {
    "llama_plain": dict(LLAMA),
    "llama_untied": dict(LLAMA, head=8, untied=True),
    "llama_linear": dict(LLAMA, linear=4.0),
    "llama3_rope": dict(LLAMA, base=500000.0, factors=[1.0, 1.0, 1.75, 3.5, 8.0, 8.0]),
    "llama_bias": dict(LLAMA, head=8, bias=["attn_q", "attn_k", "attn_v", "attn_output"]),
    "llama_partial": dict(LLAMA, rot=8),
    "mistral": dict(LLAMA, window=20),
    "gemma3": dict(GEMMA3),
    "gemma3_linear": dict(GEMMA3, linear=8.0),
    "qwen2": dict(LLAMA, arch="qwen2", kv=1, base=1000000.0, eps=1e-6, bias=["attn_q", "attn_k", "attn_v"]),
    "qwen3": dict(LLAMA, arch="qwen3", heads=2, kv=1, head=16, base=1000000.0, eps=1e-6, qk_norm=True),
    "gpt2": dict(arch="gpt2", layers=2, embd=36, ff=64, heads=3, kv=3, eps=1e-5),
    "llama_shared": dict(LLAMA, layers=5, share=2),
    "llama_moe": dict(LLAMA, layers=2, embd=32, ff=24, experts=5, active=2),
}


# The models

def random_tensors(spec, rng):
    """Name -> array (rows are outputs), scaled so that attention is peaked and the distributions are not flat."""
    embd, ff = spec["embd"], spec["ff"]
    head = spec.get("head", embd // spec["heads"])
    is_gpt2 = spec["arch"] == "gpt2"
    tensors = {}

    def matrix(name, n_out, n_in, gain):
        tensors[name + ".weight"] = rng.normal(0, gain / np.sqrt(n_in), (n_out, n_in))

    def norm(name, n):
        tensors[name + ".weight"] = 1 + rng.normal(0, 0.2, n)
        if is_gpt2:
            tensors[name + ".bias"] = rng.normal(0, 0.2, n)

    tensors["token_embd.weight"] = rng.normal(0, 3 / np.sqrt(embd), (N_VOCAB, embd))
    if is_gpt2:
        tensors["position_embd.weight"] = rng.normal(0, 1 / np.sqrt(embd), (N_CTX, embd))
    norm("output_norm", embd)
    if spec.get("untied"):
        matrix("output", N_VOCAB, embd, 3)
    if "factors" in spec:
        tensors["rope_freqs.weight"] = np.array(spec["factors"])
    for i in range(spec.get("share", spec["layers"])):
        at = f"blk.{i}."
        norm(at + "attn_norm", embd)
        if is_gpt2:
            matrix(at + "attn_qkv", 3 * embd, embd, 1.4)
        else:
            matrix(at + "attn_q", spec["heads"] * head, embd, 1.4)
            matrix(at + "attn_k", spec["kv"] * head, embd, 1.4)
            matrix(at + "attn_v", spec["kv"] * head, embd, 1)
        matrix(at + "attn_output", embd, spec["heads"] * head, 1)
        for name in spec.get("bias", []):
            tensors[at + name + ".bias"] = rng.normal(0, 0.5, len(tensors[at + name + ".weight"]))
        if spec.get("qk_norm"):
            norm(at + "attn_q_norm", head)
            norm(at + "attn_k_norm", head)
        if spec.get("post_norm"):
            norm(at + "post_attention_norm", embd)
            norm(at + "post_ffw_norm", embd)
        norm(at + "ffn_norm", embd)
        if "experts" in spec:
            matrix(at + "ffn_gate_inp", spec["experts"], embd, 1.5)
            for name, n_out, n_in, gain in ("gate", ff, embd, 1.2), ("up", ff, embd, 1), ("down", embd, ff, 1):
                shape = spec["experts"], n_out, n_in
                tensors[f"{at}ffn_{name}_exps.weight"] = rng.normal(0, gain / np.sqrt(n_in), shape)
            continue
        if not is_gpt2:
            matrix(at + "ffn_gate", ff, embd, 1.2)
        matrix(at + "ffn_up", ff, embd, 1)
        matrix(at + "ffn_down", embd, ff, 1)
        if is_gpt2:
            for name in "attn_qkv", "attn_output", "ffn_up", "ffn_down":
                tensors[at + name + ".bias"] = rng.normal(0, 0.3, len(tensors[at + name + ".weight"]))
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def write_model(path, name, spec, tensors):
    out = gguf.GGUFWriter(path, spec["arch"])
    out.add_name(name)
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_tokenizer_model("no_vocab")
    out.add_vocab_size(N_VOCAB)
    out.add_context_length(N_CTX)
    out.add_block_count(spec["layers"])
    out.add_embedding_length(spec["embd"])
    out.add_feed_forward_length(spec["ff"])
    out.add_head_count(spec["heads"])
    out.add_head_count_kv(spec["kv"])
    if spec["arch"] == "gpt2":
        out.add_layer_norm_eps(spec["eps"])
    else:
        out.add_layer_norm_rms_eps(spec["eps"])
        out.add_rope_freq_base(spec["base"])
    if "share" in spec:
        out.add_uint32(f"{spec['arch']}.share_layers", spec["share"])
    if "experts" in spec:
        out.add_expert_count(spec["experts"])
        out.add_expert_used_count(spec["active"])
    if "head" in spec:
        out.add_key_length(spec["head"])
        out.add_value_length(spec["head"])
    if spec["arch"] == "llama":
        out.add_rope_dimension_count(spec.get("rot", spec.get("head", spec["embd"] // spec["heads"])))
    if "window" in spec:
        out.add_sliding_window(spec["window"])
    if "linear" in spec:
        out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        out.add_rope_scaling_factor(spec["linear"])
    for tensor_name, array in tensors.items():
        out.add_tensor(tensor_name, array)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def read_model(path):
    """A GGUF file's metadata, without "<arch>." in front, and its tensors in float64."""
    file = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in file.fields.items()}
    prefix = fields["general.architecture"] + "."
    meta = {name.removeprefix(prefix): value for name, value in fields.items()}
    return meta, {tensor.name: tensor.data.astype(np.float64) for tensor in file.tensors}


# The reference

def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def layer_norm(x, weight, bias, eps):
    x = x - np.mean(x, axis=-1, keepdims=True)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight + bias


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def rope(x, n_rot, base, scale, factors, halves):
    """Turn the first n_rot dimensions of x[position, head, dimension]: dimension i with i + n_rot / 2 (halves),
    or else 2i with 2i + 1."""
    pair = np.arange(n_rot // 2)
    first, second = (pair, pair + n_rot // 2) if halves else (2 * pair, 2 * pair + 1)
    angle = np.arange(len(x))[:, None] * scale * base ** (-2 * pair / n_rot) / factors
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    out = x.copy()
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def attention(q, k, v, window):
    """q[position, head, dimension], k and v with fewer heads -> [position, head * dimension]."""
    n, heads, head = q.shape
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    score = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head)
    behind = np.arange(n)[:, None] - np.arange(n)[None, :]
    seen = behind >= 0
    if window:
        seen &= behind < window
    score = np.where(seen, score, -np.inf)
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weight, v).reshape(n, -1)


def reference(meta, tensors, ids, gelu=gelu):
    """ln p of every token after each of ids: [position, token]."""
    arch = meta["general.architecture"]
    is_gemma, is_gpt2 = arch == "gemma3", arch == "gpt2"
    eps = meta["attention.layer_norm_epsilon" if is_gpt2 else "attention.layer_norm_rms_epsilon"]
    heads, kv = meta["attention.head_count"], meta["attention.head_count_kv"]
    head = meta.get("attention.key_length", meta["embedding_length"] // heads)
    n_rot = meta.get("rope.dimension_count", head)
    linear = 1 / meta["rope.scaling.factor"] if meta.get("rope.scaling.type") == "linear" else 1.0
    factors = tensors.get("rope_freqs.weight", 1.0)
    activation = gelu if is_gemma or is_gpt2 else silu

    def linear_map(name, x):
        return x @ tensors[name + ".weight"].T + tensors.get(name + ".bias", 0.0)

    def norm(name, x):
        if is_gpt2:
            return layer_norm(x, tensors[name + ".weight"], tensors[name + ".bias"], eps)
        return rms_norm(x, tensors[name + ".weight"], eps)

    def feed_forward(at, x):
        if is_gpt2:
            return linear_map(at + "ffn_down", activation(linear_map(at + "ffn_up", x)))
        return linear_map(at + "ffn_down", activation(linear_map(at + "ffn_gate", x)) * linear_map(at + "ffn_up", x))

    def experts(at, x):
        """Each row by the experts with the largest router logits, weighted by a softmax over those."""
        out = np.zeros_like(x)
        for i, logits in enumerate(linear_map(at + "ffn_gate_inp", x)):
            chosen = np.argsort(-logits, kind="stable")[:meta["expert_used_count"]]
            weight = np.exp(logits[chosen] - logits[chosen].max())
            for e, w in zip(chosen, weight / weight.sum()):
                gate, up, down = (tensors[f"{at}ffn_{name}_exps.weight"][e] for name in ("gate", "up", "down"))
                out[i] += w * (down @ (activation(gate @ x[i]) * (up @ x[i])))
        return out

    x = tensors["token_embd.weight"][ids]
    if is_gpt2:
        x = x + tensors["position_embd.weight"][:len(ids)]
    if is_gemma:
        x = x * np.sqrt(meta["embedding_length"])
    for i in range(meta["block_count"]):
        at = f"blk.{i % meta.get('share_layers', 512)}."
        base, scale, window = meta.get("rope.freq_base"), linear, meta.get("attention.sliding_window")
        if is_gemma and i % 6 == 5:  # a global layer
            window = None
        elif is_gemma:
            base, scale = 10000.0, 1.0

        h = norm(at + "attn_norm", x)
        if is_gpt2:
            q, k, v = np.split(linear_map(at + "attn_qkv", h), 3, axis=-1)
        else:
            q, k, v = (linear_map(at + name, h) for name in ("attn_q", "attn_k", "attn_v"))
        q, k, v = (y.reshape(len(ids), -1, head) for y in (q, k, v))
        if at + "attn_q_norm.weight" in tensors:
            q, k = norm(at + "attn_q_norm", q), norm(at + "attn_k_norm", k)
        if not is_gpt2:
            q, k = (rope(y, n_rot, base, scale, factors, halves=arch != "llama") for y in (q, k))
        h = linear_map(at + "attn_output", attention(q, k, v, window))
        x = x + (norm(at + "post_attention_norm", h) if is_gemma else h)

        h = norm(at + "ffn_norm", x)
        h = experts(at, h) if "expert_count" in meta else feed_forward(at, h)
        x = x + (norm(at + "post_ffw_norm", h) if is_gemma else h)

    return log_softmax(linear_map("output" if "output.weight" in tensors else "token_embd", norm("output_norm", x)))


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def likeliest(row, n):
    return [[int(i), round(float(row[i]), 8)] for i in np.argsort(-row)[:n]]


# The comparison with llama.cpp

def llama_cpp_logprob(path, ids, window=None):
    """As reference(); with a window, all tokens that have left it are removed from the cache before each."""
    import llama_cpp as lib

    model_params = lib.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(path.encode(), model_params)
    if not model:
        return None
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 128
    params.type_k = params.type_v = lib.GGML_TYPE_F32
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = lib.llama_init_from_model(model, params)
    batch = lib.llama_batch_init(len(ids), 0, 1)
    step = 1 if window else len(ids)
    logits = []
    for start in range(0, len(ids), step):
        if window and start >= window:
            lib.llama_memory_seq_rm(lib.llama_get_memory(context), 0, 0, start - window + 1)
        batch.n_tokens = step
        for i in range(step):
            batch.token[i], batch.pos[i], batch.logits[i] = ids[start + i], start + i, 1
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        if lib.llama_decode(context, batch):
            raise RuntimeError("llama_decode")
        logits += [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), (N_VOCAB,)).copy() for i in range(step)]
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return log_softmax(np.array(logits, np.float64))


def with_all_dimensions(name, folder):
    """Write a model that turns all dimensions of a head, the first rot as before and the others not at all."""
    spec = dict(MODELS[name])
    rot, head = spec.pop("rot"), spec["embd"] // spec["heads"]
    pair = np.arange(head // 2)
    factors = np.where(pair < rot // 2, spec["base"] ** (2 * pair / rot - 2 * pair / head), 1e30)
    _, tensors = read_model(os.path.join(HERE, f"arch_{name}.gguf"))
    tensors["rope_freqs.weight"] = factors
    path = os.path.join(folder, f"{name}.gguf")
    write_model(path, name, spec, {k: array.astype(np.float32) for k, array in tensors.items()})
    return path


def gelu_f16(x):
    """GELU as ggml's table has it: f16 in, f16 out; 0 and x beyond 10."""
    table = gelu(x.astype(np.float16).astype(np.float64)).astype(np.float16).astype(np.float64)
    return np.where(x <= -10, 0, np.where(x >= 10, x, table))


def check():
    import llama_cpp as lib

    quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    with open(os.path.join(HERE, "arch.json")) as file:
        golden = {entry["file"]: entry for entry in json.load(file)}
    for name, spec in MODELS.items():
        path = os.path.join(HERE, f"arch_{name}.gguf")
        ids = golden[f"arch_{name}.gguf"]["ids"]
        meta, tensors = read_model(path)
        truth = reference(meta, tensors, ids)

        def report(what, theirs, ours=truth):
            difference = "does not load" if theirs is None else f"{np.abs(theirs - ours).max():.2e}"
            print(f"{name:14} {what:44} {difference}")

        theirs = llama_cpp_logprob(path, ids)
        report("", theirs)
        if name == "mistral":
            report("without the window in the reference",
                   theirs, reference(dict(meta, **{"attention.sliding_window": None}), tensors, ids))
            report("with the window kept by the caller", llama_cpp_logprob(path, ids, spec["window"]))
        elif "rot" in spec:
            with tempfile.TemporaryDirectory() as folder:
                report("by frequency factors", llama_cpp_logprob(with_all_dimensions(name, folder), ids))
        elif spec["arch"] in ("gemma3", "gpt2"):
            report("with GELU in f16 in the reference", theirs, reference(meta, tensors, ids, gelu_f16))


def make(names):
    entries = []
    with open(os.path.join(HERE, "arch.json")) as file:
        before = {entry["file"]: entry for entry in json.load(file)}
    for seed, (name, spec) in enumerate(MODELS.items()):
        if names and name not in names:
            entries.append(before[f"arch_{name}.gguf"])
            continue
        rng = np.random.default_rng(1000 + seed)
        path = os.path.join(HERE, f"arch_{name}.gguf")
        write_model(path, name, spec, random_tensors(spec, rng))
        ids = rng.integers(0, N_VOCAB, N_IDS)
        logprob = reference(*read_model(path), ids)
        entries.append({
            "file": os.path.basename(path),
            "ids": ids.tolist(),
            "sum_nll": round(float(-logprob[np.arange(N_IDS - 1), ids[1:]].sum()), 8),
            "top5_logprob_last": likeliest(logprob[-1], 5),
            "top1_each": [likeliest(row, 1)[0] for row in logprob],
        })
    with open(os.path.join(HERE, "arch.json"), "w") as file:
        file.write("[" + ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries) + "]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with llama.cpp")
    parser.add_argument("names", nargs="*", help="which models to make; none: all")
    args = parser.parse_args()
    check() if args.check else make(args.names)
