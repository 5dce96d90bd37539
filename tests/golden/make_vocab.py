#!/usr/bin/env python3
"""Make vocab.json: the merges that `tokenizers` 0.23.3 learns from some texts (byte-level BPE, pairs that occur twice).

    make_vocab.py                   (needs tokenizers; tests/vocab_test.c reads what it writes)
    make_vocab.py --merges SIZE     prints those of a text on standard input, a line a text, for a comparison by hand

vocab.json is a list with an object a case: "texts", or "file" with a JSON string a line; "size", tokens without the end
token; "merges", "left right" in hexadecimal bytes. Ties go to the lowest ids in `tokenizers` too.
"""
import json
import os
import random
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))


def byte_of_char():
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def learn(texts, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False, special_tokens=[],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    bytes_of = byte_of_char()
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(bytes(bytes_of[c] for c in side).hex() for side in merge) for merge in merges]


def make():
    cases = []
    with open(os.path.join(HERE, "..", "bench", "texts.jsonl")) as file:
        texts = [json.loads(line) for line in file]
    cases.append({"file": "tests/bench/texts.jsonl", "size": 1000, "merges": learn(texts, 1000)})
    for seed in range(12):
        rng = random.Random(seed)
        letters = ["ab", "abc", "abcd", "aä€𝄞", "a1'!"][seed % 5]
        words = ["".join(rng.choice(letters) for _ in range(rng.randint(1, 12))) for _ in range(60)]
        texts = [" ".join(words[:30]), "\n\n ".join(words[30:])]
        size = rng.choice([270, 300, 600])
        cases.append({"texts": texts, "size": size, "merges": learn(texts, size)})
    with open(os.path.join(HERE, "vocab.json"), "w") as file:
        file.write("[" + ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases) + "]\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--merges"]:
        print("\n".join(learn([line.rstrip("\n") for line in sys.stdin], int(sys.argv[2]))))
    else:
        make()
