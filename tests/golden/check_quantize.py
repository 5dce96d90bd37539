#!/usr/bin/env python3
"""Hold lm_quantize to gguf's quantiser, to llama.cpp's and to llama.cpp's reading of what is exported.

    check_quantize.py errors            (a Python with gguf, numpy and llama_cpp) prints the mean squared errors that quant_test.c wants
    check_quantize.py make FOLDER       (a Python whose sqlite3 loads extensions; run at the top of the tree after make)
    check_quantize.py compare FOLDER    (a Python with llama_cpp 0.3.36 and numpy)

compare prints for each model and dtype the largest difference of ln p between us and llama.cpp on the same exported file. llama.cpp
rounds activations to 8 bits a block, we to 14, so that a difference of some hundredths is its own noise; for f32 it is our cache's 16 bits.
"""
import ctypes
import glob
import json
import os
import sqlite3
import sys

from check_create import uniform

DTYPES = ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_0", "q5_k", "q4_0", "q4_k"]
MODELS = {
    "wide": {"n_layers": 2, "n_embd": 256, "n_heads": 4, "n_ff": 512, "n_ctx": 128, "vocab": "bytes"},
    "odd": {"n_layers": 2, "n_embd": 96, "n_heads": 3, "n_ff": 100, "n_ctx": 128, "tie_embeddings": False},
    "experts": {"n_layers": 2, "n_embd": 256, "n_heads": 4, "n_ff": 256, "n_ctx": 128, "n_experts": 4},
}
TEXT = "The weather in spring is mild, and the sea is calm."


def errors():
    import gguf
    import llama_cpp
    import numpy as np

    n = 16384
    x = np.array([(sum(uniform(3, 4 * i + k) for k in range(4)) - 2) * 0.03 for i in range(n)], np.float32).reshape(-1, 256)
    ggml = ctypes.CDLL(next(iter(glob.glob(os.path.dirname(llama_cpp.__file__) + "/lib/libggml-base.so*"))))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    for name in "Q8_0", "Q6_K", "Q5_0", "Q5_1", "Q5_K", "Q4_0", "Q4_K":
        type = gguf.GGMLQuantizationType[name]
        out = np.zeros(n * 4, np.uint8)
        size = ggml.ggml_quantize_chunk(type.value, x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], None)
        theirs = ((gguf.quants.dequantize(out[:size].reshape(x.shape[0], -1), type) - x).astype(np.float64) ** 2).mean()
        try:
            package = ((gguf.quants.dequantize(gguf.quants.quantize(x, type), type) - x).astype(np.float64) ** 2).mean()
        except NotImplementedError:
            package = float("nan")
        print(f'{{ "{name.lower()}", {package:.4g}, {theirs:.4g} }},')


def make(folder):
    db = sqlite3.connect(":memory:")
    db.enable_load_extension(True)
    db.execute("SELECT load_extension('build/lm', 'sqlite3_lm_init')")
    for name, options in MODELS.items():
        db.execute("SELECT lm_create(?, ?)", (name, json.dumps(options | {"seed": 1})))
        for tensor, in db.execute("SELECT tensor FROM lm_parameters(?) WHERE tensor NOT LIKE '%norm%'", (name,)).fetchall():
            db.execute("UPDATE lm_weights SET value = value * 6 WHERE model = ? AND tensor = ?", (name, tensor))
    real = "models/gemma-3-270m-q4_k_m.gguf"
    if os.path.exists(real):
        db.execute("SELECT lm_import(?, '{\"name\":\"gemma\"}')", (real,))
    for name, in db.execute("SELECT name FROM lm_model").fetchall():
        for dtype in DTYPES if name in MODELS else ["q4_k", "q6_k"]:
            db.execute("SELECT lm_quantize(?, ?, 'copy')", (name, dtype))
            db.execute("SELECT lm_export('copy', ?, '{\"overwrite\":true}')", (f"{folder}/{name}-{dtype}.gguf",))
            rows = db.execute("SELECT id, logprob FROM lm_logprobs(?, '{\"model\":\"copy\"}')", (TEXT,)).fetchall()
            info = db.execute("SELECT info FROM lm_model WHERE name = 'copy'").fetchone()[0]
            db.execute("DELETE FROM lm_model WHERE name = 'copy'")
            with open(f"{folder}/{name}-{dtype}.json", "w") as file:
                json.dump({"rows": rows, "info": json.loads(info)}, file)


def compare(folder):
    import llama_cpp
    import numpy as np

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    for path in sorted(glob.glob(f"{folder}/*.json")):
        with open(path) as file:
            ours = json.load(file)
        other = llama_cpp.Llama(path.replace(".json", ".gguf"), n_ctx=128, n_threads=2, logits_all=True, verbose=False, type_k=0, type_v=0)
        ids = [id for id, _ in ours["rows"]]
        lead = [] if ours["rows"][0][1] is None else [other.token_bos()]
        other.eval(lead + ids)
        logits = np.array(other.scores[:len(lead) + len(ids)], np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logprob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        pairs = [(logprob[i + len(lead) - 1, id], p) for i, (id, p) in enumerate(ours["rows"]) if p is not None]
        worst, mean = max(abs(a - b) for a, b in pairs), sum(b - a for a, b in pairs) / len(pairs)
        info = ours["info"]
        print(f"{os.path.basename(path)[:-5]:16} bpw {info['bpw']:7.3f}  kl {info['kl']:9.2g}  {len(pairs)} tokens: ln p within {worst:.1e}, {mean:+.1e} in the mean")


if __name__ == "__main__":
    {"errors": errors, "make": make, "compare": compare}[sys.argv[1]](*sys.argv[2:])
