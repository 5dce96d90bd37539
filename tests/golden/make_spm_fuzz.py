#!/usr/bin/env python3
"""Make spm_small.gguf and spm_fuzz.txt: what the SentencePiece BPE tests compare with.

    make_spm_fuzz.py gemma-3-270m-it.Q4_K_M.gguf

Needs the Python packages gguf and llama_cpp (made with 0.19.0 and 0.3.36). The ids are llama.cpp's.

spm_small.gguf is a vocabulary without weights, with add_space_prefix false: Gemma 3's control tokens but for most
unused ones, some of its user-defined tokens, all 256 bytes, its first 2,900 merged tokens and about 700 single
characters, with their scores; every 25th merged token has the score of the one before. Unlike Gemma's, its <unk> is
of type UNKNOWN, it leaves out most runs of spaces, tabs and newlines, so that others are merged or spelled in bytes,
and it has the made-up tokens in MADE_UP and USER.

spm_fuzz.txt has a line a text:

    aaaa bbbb gggg pppp text

four hashes of 16 bits ("=": as the one before), of the ids that these give: the small vocabulary with
add_space_prefix false; the same with true; the real Gemma 3 (false); the small one with add_space_prefix true,
parsing special tokens. Only the last parses them, and none adds BOS. The hashes, the writing of the text and the repair
of invalid UTF-8 are those of tok_fuzz.txt.

Left out are texts with "</s>": Gemma's file says user-defined, but llama.cpp makes a token of that name a control
token as well, and so does not find it in plain text. Left out, too, would be a text whose characters llama.cpp merges
into a control, unknown or byte token without parsing special tokens (the first two by their ids, a byte by its not
being in the text): this happened in none.
"""
import ctypes
import os
import random
import sys
import tempfile

import gguf
import llama_cpp

from make_tok_fuzz import BLOCKS, BROKEN, WORDS, Oracle, be_quiet, character, escape, fold, part

N_TEXTS = 8000
N_MERGED = 2900
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

KEPT_CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused0>", "<unused1>", "<start_of_turn>",
                "<end_of_turn>"]
KEPT_USER = ["[multimodal]", "\n\n\n", "\n" * 5, " " * 3, " " * 5, " " * 16, "\t\t", "<table>", "</table>", "<h1>",
             "</h1>", "<b>", "</b>", "<td>", "<code>", "</code>", "<start_of_image>"]

# One with a space inside. (Left out: tokens that overlap, where llama.cpp takes the longest of the whole text first,
# SentencePiece and we go from left to right; and ones with U+2581, which SentencePiece writes as a space.)
USER = ["[x]--", "<a b>"]

# Tokens with U+2581 after another character (Gemma has just the first), runs of spaces and newlines to be merged,
# pieces for them, and ties, with their scores.
MADE_UP = {">\u2581</": -106574.0, "\u2581</": -300.5, "\u2581=": -301.5, "\u2581\u2581": -20.0, "\u2581" * 4: -40.0,
           "\u2581" * 8: -60.0, "\u2581" * 3: -2000.0, ",\u2581": -2100.0, "\n": -5000.0, "\n\n": -100.5,
           "\n" * 4: -101.5, "\n\u2581": -102.5, "e\u2581t": -2200.0, "e\u2581": -2150.0, "ee": -1.0, "aa": -50.0,
           "aaa": -50.0, "aaaa": -50.0}

SPELLINGS = ["<0x41>", "<0x0A>", "<0xE2>", "<0x0a>", "<0xFF>", "<0x4", "x41>", "<s>", "<unused99>", "<end_of_image>",
             "<bo", "os>", "<<bos>>", "<start_of_", "turn>", "> </", ">\u2581</", "<h1", "h1>", "< b>", "<b >",
             "[x]--", "[x]---"]
SPELLINGS = KEPT_CONTROL + KEPT_USER + USER + SPELLINGS
SCRIPTS = [(0x430, 0x44F), (0x3B1, 0x3C9), (0x905, 0x939), (0x4E00, 0x4E80), (0x3042, 0x3093), (0x627, 0x64A),
           (0xAC00, 0xAC80), (0xE01, 0xE2E), (0x5D0, 0x5EA), (0xE0, 0xFF)]
LATIN = "etaoinshrdlucmfwypvbgkjqxz"


def spm_part(rng):
    kind = rng.randrange(16)
    if kind < 2:
        return " " * rng.choice([1, 1, 2, 3, 4, 5, 6, 7, 8, rng.randint(1, 40), rng.randint(1, 40)])
    if kind == 2:
        return "".join(rng.choice([" ", " ", "\u2581"]) for _ in range(rng.randint(1, 9)))
    if kind == 3:
        return rng.choice(["\u2581", "\u2581\u2581", "a\u2581b", " \u2581", "\u2581 ", "\u2580", "\u2582",
                           "\u2581" * rng.randint(1, 20)])
    if kind == 4:
        return rng.choice(["\n", "\t", "\r\n", "\n ", " \n", "\t ", "\n\u2581"]) * rng.randint(1, 12)
    if kind == 5:
        return rng.choice(["\n", "\t"]) * rng.choice([1, 2, 3, 4, 5, rng.randint(1, 70)])
    if kind < 9:
        return rng.choice(["", "", " "]) + rng.choice(SPELLINGS) + rng.choice(["", "", " ", " the"])
    if kind == 9:
        return "".join(rng.choice(WORDS) for _ in range(rng.randint(2, 8)))
    if kind == 10:
        return "".join(rng.choice(LATIN[:rng.randint(2, 26)]) for _ in range(rng.randint(5, 60)))
    if kind == 11:
        low, high = rng.choice(SCRIPTS)
        words = range(rng.randint(1, 3))
        return " ".join("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 9))) for _ in words)
    if kind == 12:
        return rng.choice("aeo-=.") * rng.randint(1, 24)
    if kind == 13:
        return character(rng) + rng.choice(WORDS) + character(rng)
    if kind == 14:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 9)))
    return rng.choice([", ", ",  ", "e t", " = ", "\u2581=\u2581", " =  ", "= ", ". ", "e  the"])


def make_text(rng):
    data = b""
    if rng.random() < 0.003:
        return "".join(rng.choice([rng.choice(LATIN), rng.choice(WORDS)]) for _ in range(400)).encode()
    for _ in range(min(rng.randint(1, 7), rng.randint(1, 6))):
        data += (spm_part(rng) if rng.random() < 0.65 else part(rng)).encode()
        if rng.random() < 0.02:
            data += rng.choice(BROKEN)
    return data


FIRST = ["", " ", "  ", "\u2581", "\n", "\t", "a", " a", "a ", "\u2581a", "<", "\0", "\r", "\uFFFD", "<bos>", " <bos>",
         "<bos> ", "<h1>", "<h1> ", " <h1>", "<unk>", "<0x41>", "<bos><bos>", "<h1>a<h1>a", "<bos>a<bos>a",
         "\n\n\n", "\n\n\na", "\n\na", "[x]--[yy]!", "e the"]
FIRST += [" " * n for n in range(3, 36)] + [" " * n + "a" for n in range(2, 36)] + ["a" * n for n in range(2, 20)]
FIRST += ["\n" * n for n in range(2, 36)] + ["\t" * n for n in range(2, 36)] + ["\u2581" * n for n in range(2, 20)]


def make_small(source):
    fields = gguf.GGUFReader(source).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    scores = fields["tokenizer.ggml.scores"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    bytes_ = [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    control = [(t, -1000.0, UNKNOWN if t == "<unk>" else CONTROL) for t in KEPT_CONTROL]
    user = [(t, -1000.0, USER_DEFINED) for t in KEPT_USER + USER]
    made_up = [(t, score, NORMAL) for t, score in MADE_UP.items()]
    taken = set(MADE_UP)
    normal = [(t, s) for t, s, kind in zip(tokens, scores, types) if kind == NORMAL and t not in taken]
    merged = [n for n in normal if len(n[0]) > 1][:N_MERGED]
    merged = [(t, merged[i - (i % 25 == 24)][1], NORMAL) for i, (t, s) in enumerate(merged)]
    needed = {c for t, _, _ in merged + made_up for c in t} | set(map(chr, range(33, 126)))
    single = [n for n in normal if len(n[0]) == 1]
    rng = random.Random(1)
    for low, high in BLOCKS:
        block = [t for t, _ in single if low <= ord(t) <= high]
        needed.update(rng.sample(block, min(len(block), 8)))
    single = [(t, s, NORMAL) for t, s in single if t in needed]
    return control[:5] + user[:1] + control[5:] + user[1:] + bytes_ + made_up + merged + single


def write_small(small, path, add_space_prefix):
    assert len({t for t, _, _ in small}) == len(small)
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("llama")
    w.add_token_list([t for t, _, _ in small])
    w.add_token_scores([s for _, s, _ in small])
    w.add_token_types([kind for _, _, kind in small])
    w.add_bos_token_id(2)
    w.add_eos_token_id(1)
    w.add_unk_token_id(3)
    w.add_add_space_prefix(add_space_prefix)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def types_of(path):
    fields = gguf.GGUFReader(path).fields
    types = fields["tokenizer.ggml.token_type"].contents()
    tokens = fields["tokenizer.ggml.tokens"].contents()
    return types, {i: int(tokens[i][3:5], 16) for i in range(len(types)) if types[i] == BYTE}


def merged_special(ids, data, types, byte_of):
    """Whether an id is one that plain text must not give."""
    left = bytearray(data.replace(b" ", "\u2581".encode()) + "\u2581".encode())
    return any(types[i] in (CONTROL, UNKNOWN) or types[i] == BYTE and byte_of[i] not in left for i in ids)


def main():
    llama_cpp.llama_log_set(be_quiet, ctypes.c_void_p(0))
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [os.path.join(here, "spm_small.gguf"), None, sys.argv[1]]
    small = make_small(sys.argv[1])
    write_small(small, paths[0], False)
    with tempfile.TemporaryDirectory() as folder:
        paths[1] = os.path.join(folder, "prefix.gguf")
        write_small(small, paths[1], True)
        oracles = [Oracle(p) for p in paths]
        kinds = [types_of(p) for p in paths]
    rng = random.Random(20250420)
    left_out = n = 0
    seen = set()
    first = [t.encode() for t in FIRST]
    with open(os.path.join(here, "spm_fuzz.txt"), "w", encoding="utf-8", newline="\n") as out:
        while n < N_TEXTS:
            data = first.pop(0) if first else make_text(rng)
            if data in seen or b"</s>" in data:
                continue
            seen.add(data)
            repaired = data.decode(errors="replace").encode()
            ids = [o.encode(repaired) for o in oracles]
            if any(merged_special(i, repaired, *k) for i, k in zip(ids, kinds)):
                left_out += 1
                continue
            ids.append(oracles[1].encode(repaired, special=True))
            hashes = [f"{fold(i):04x}" for i in ids]
            fields = [h if not i or h != hashes[i - 1] else "=" for i, h in enumerate(hashes)]
            out.write(" ".join(fields) + " " + escape(data) + "\n")
            n += 1
    print(f"{len(small)} tokens, {n} texts, {left_out} left out")


if __name__ == "__main__":
    main()
