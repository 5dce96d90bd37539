#!/usr/bin/env python3
"""Hold models that lm_create makes to llama.cpp: each is exported, loaded by llama_cpp, and compared.

    check_create.py make FOLDER         (a Python whose sqlite3 loads extensions; run at the top of the tree after make)
    check_create.py compare FOLDER      (a Python with llama_cpp 0.3.36 and numpy)
    check_create.py weights SEED        (any Python) prints the digests of two tensors' first weights, which create.test wants

For each model compare prints whether the ids of every text are equal, and the largest difference of ln p of the greedy
continuation's tokens after a prompt. llama.cpp's GELU may be a table in 16 bits (gpt2, gemma3); with weights this small
that does not show.
"""
import ctypes
import hashlib
import json
import math
import sqlite3
import struct
import sys

MODELS = {
    "llama": {},
    "wide": {"n_layers": 3, "n_embd": 96, "n_heads": 6, "n_kv_heads": 2, "n_ff": 100, "n_ctx": 128, "tie_embeddings": False},
    "odd": {"n_embd": 100, "n_heads": 5},
    "gpt2": {"arch": "gpt2", "n_embd": 60, "n_heads": 3},
    "qwen2": {"arch": "qwen2"},
    "qwen3": {"arch": "qwen3"},
    "gemma3": {"arch": "gemma3", "n_layers": 7},
    "moe": {"n_experts": 4, "n_active": 2},
    "bytes": {"vocab": "bytes"},
}


PROMPT = "The weather in spring"


def make(folder):
    with open("tests/bench/texts.jsonl") as file:
        texts = [json.loads(line) for line in file]
    texts += ["", " ", "\n\n  x", "naïve café 你好 🙂", "don't  I'LL  1234567", "<|endoftext|>", "tab\there\r\n"]
    db = sqlite3.connect(":memory:")
    db.enable_load_extension(True)
    db.execute("SELECT load_extension('build/lm', 'sqlite3_lm_init')")
    db.execute("CREATE TABLE text(body)")
    db.executemany("INSERT INTO text VALUES (?)", [(text,) for text in texts])
    for name, options in MODELS.items():
        options = {"vocab": {"query": "SELECT body FROM text", "size": 400}, "n_ctx": 128, "seed": 1} | options
        db.execute("SELECT lm_create(?, ?)", (name, json.dumps(options)))
        # Larger weights, so that the distributions are not flat.
        for tensor, in db.execute("SELECT tensor FROM lm_parameters(?) WHERE tensor NOT LIKE '%norm%'", (name,)).fetchall():
            db.execute("UPDATE lm_weights SET value = value * 8 WHERE model = ? AND tensor = ?", (name, tensor))
        model = json.dumps({"model": name, "max_tokens": 16})
        db.execute("SELECT lm_export(?, ?)", (name, f"{folder}/{name}.gguf"))
        ids = [json.loads(db.execute("SELECT lm_tokenize(?, ?)", (text, json.dumps({"model": name}))).fetchone()[0]) for text in [PROMPT] + texts]
        rows = db.execute("SELECT token, logprob FROM generate_stream(?, ?)", (PROMPT, model)).fetchall()
        with open(f"{folder}/{name}.json", "w") as file:
            json.dump({"texts": [PROMPT] + texts, "ids": ids, "rows": rows}, file)


def compare(folder):
    import llama_cpp
    import numpy as np

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    for name in MODELS:
        with open(f"{folder}/{name}.json") as file:
            ours = json.load(file)
        other = llama_cpp.Llama(f"{folder}/{name}.gguf", n_ctx=128, n_threads=2, logits_all=True, verbose=False, type_k=0, type_v=0)
        same = sum(other.tokenize(text.encode(), add_bos=False, special=False) == ids for text, ids in zip(ours["texts"], ours["ids"]))
        ids, rows = ours["ids"][0], ours["rows"]
        other.eval(ids + [token for token, _ in rows])
        logits = np.array(other.scores[len(ids) - 1:len(ids) + len(rows) - 1], np.float64)
        best = logits.max(axis=1, keepdims=True)
        logprob = logits - best - np.log(np.exp(logits - best).sum(axis=1, keepdims=True))
        worst = max(abs(logprob[i, token] - p) for i, (token, p) in enumerate(rows))
        greedy = sum(int(logits[i].argmax()) == token for i, (token, _) in enumerate(rows))
        print(f"{name:8} ids of {same} of {len(ours['ids'])} texts equal; {greedy} of {len(rows)} greedy tokens, ln p within {worst:.1e}")


def uniform(seed, t):
    z = (seed + (t + 1) * 0x9E3779B97F4A7C15) % 2**64
    for _ in range(2):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        z ^= z >> 31
    return (z >> 11) * 2.0**-53


def first_weights(seed, name, n, std):
    key = 0xCBF29CE484222325 ^ seed
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    out = []
    for pair in range(n // 2):
        radius = std * math.sqrt(-2 * math.log(1 - uniform(key, 2 * pair)))
        turn = 2 * math.pi * uniform(key, 2 * pair + 1)
        out += [radius * math.cos(turn), radius * math.sin(turn)]
    return struct.pack(f"<{n}f", *out)


def weights(seed):
    for name, n, std in ("token_embd.weight", 257 * 32, 0.02), ("blk.1.ffn_down.weight", 32 * 96, 0.02 / math.sqrt(2 * 2)):
        print(name, hashlib.blake2b(first_weights(int(seed), name, n, std), digest_size=32).hexdigest())


if __name__ == "__main__":
    {"make": make, "compare": compare, "weights": weights}[sys.argv[1]](sys.argv[2])
