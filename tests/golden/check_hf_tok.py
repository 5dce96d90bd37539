#!/usr/bin/env python3
"""Hold the engine's ids against those of `tokenizers` on whole tokenizer.json files.

    make build/tok_bench
    check_hf_tok.py COUNT FILE...

Texts are drawn as make_hf_tok.py draws them, another COUNT (10,000) for each file from a seed of their own, and encoded
with special tokens parsed and added. Needs the package tokenizers. The first few that differ are printed.
"""
import json
import os
import random
import subprocess
import sys
from unittest import mock

from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
for name in "gguf", "llama_cpp", "sentencepiece":      # which make_hf_tok.py needs to make files, not to draw texts
    sys.modules.setdefault(name, mock.MagicMock())
import make_hf_tok


def answers(path, texts):
    asked = b"".join(b"%d\n%s" % (len(t), t) for t in (text.encode() for text in texts))
    program = os.path.join(HERE, "..", "..", "build", "tok_bench")
    out = subprocess.run([program, path, "-"], input=asked, stdout=subprocess.PIPE, check=True).stdout
    return [[int(i) for i in line.split()] for line in out.decode().splitlines()]


def check(path, texts):
    tok = Tokenizer.from_file(path)
    tok.no_truncation()
    tok.no_padding()
    got, n_wrong = answers(path, texts), 0
    for text, ids, encoding in zip(texts, got, tok.encode_batch(texts)):
        if ids != encoding.ids:
            n_wrong += 1
            if n_wrong <= 5:
                print(f"{path}: {text!r}\n    got    {ids}\n    wanted {encoding.ids}")
    print(f"{path}: {len(got)} texts, {n_wrong} differ", flush=True)
    return n_wrong + len(texts) - len(got)


def main():
    with open(os.path.join(HERE, "hf_tok", "cases.json"), encoding="utf-8") as f:
        left_out = {chr(c) for a, b in json.load(f)["left_out"] for c in range(a, b + 1)}
    n_wrong = 0
    for seed, path in enumerate(sys.argv[2:]):
        drawn = make_hf_tok.texts(random.Random(1000 + seed), left_out)
        n_wrong += check(path, [next(drawn) for _ in range(int(sys.argv[1]))])
    return n_wrong != 0


if __name__ == "__main__":
    sys.exit(main())
