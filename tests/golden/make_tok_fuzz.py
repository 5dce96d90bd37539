#!/usr/bin/env python3
"""Make tok_small.gguf and tok_fuzz.txt: what the byte-level BPE tests compare with.

    make_tok_fuzz.py SmolLM2-135M-Instruct.Q4_1.gguf

Needs the Python packages gguf and llama_cpp (made with 0.19.0 and 0.3.36). The ids are llama.cpp's.

tok_small.gguf is a vocabulary without weights: SmolLM2's special tokens, all 256 bytes, the tokens of its first
1,500 merges, and those merges. tok_fuzz.txt has a line a text:

    gggg ssss llll qqqq dddd mmmm text

six hashes of 16 bits ("=": as the one before), of the ids that pre-tokenizer gpt-2, smollm, llama-bpe, qwen2 and default give with the
small vocabulary, and of the ids that the real SmolLM2 gives; then the text, where a byte below 0x20, 0x7F, a
backslash and every byte of invalid UTF-8 are written \\xHH. A hash is FNV-1a of 64 bits over the ids as
little-endian int32, its four 16-bit parts xored. llama.cpp is given the text with each maximal invalid part
replaced by U+FFFD, and told not to parse special tokens.

Left out are the characters that came with Unicode 15.0 and 15.1 (PCRE2 10.42 knows 14.0): for every other code
point the pieces were found equal, one by one.
"""
import ctypes
import os
import random
import sys
import tempfile

import gguf
import llama_cpp

N_TEXTS = 10500
PRES = ["gpt-2", "smollm", "llama-bpe", "qwen2", "default"]

# Code points whose category differs between Unicode 14.0 and 15.1.
NEWER = [(0x1123F, 0x11240), (0x11B00, 0x11B09), (0x11F00, 0x11F59), (0x1342F, 0x1342F), (0x13439, 0x13455),
         (0x1B132, 0x1B132), (0x1B155, 0x1B155), (0x1D2C0, 0x1D2D3), (0x1DF25, 0x1DF2A), (0x1E030, 0x1E08F),
         (0x1E4D0, 0x1E4F9), (0x2B739, 0x2B739), (0x2EBF0, 0x2EE5D), (0x31350, 0x323AF)]

# Scripts and blocks to draw letters, marks, digits and signs from.
BLOCKS = [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x250, 0x2AF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F),
          (0x531, 0x58F), (0x591, 0x5F4), (0x600, 0x6FF), (0x700, 0x74F), (0x780, 0x7BF), (0x900, 0x97F),
          (0x980, 0x9FF), (0xA00, 0xA7F), (0xB80, 0xBFF), (0xC00, 0xC7F), (0xD00, 0xD7F), (0xD80, 0xDFF),
          (0xE01, 0xE5B), (0xE80, 0xEDF), (0xF00, 0xFFF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF),
          (0x1200, 0x137F), (0x13A0, 0x13FF), (0x1680, 0x169C), (0x16A0, 0x16F8), (0x1780, 0x17F9), (0x1800, 0x18AA),
          (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x209C), (0x20A0, 0x20C0), (0x2100, 0x218B), (0x2190, 0x23FF),
          (0x2460, 0x24FF), (0x2500, 0x27BF), (0x2C00, 0x2C5F), (0x2E80, 0x2FDF), (0x3000, 0x30FF), (0x3105, 0x32FF),
          (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA48C), (0xA640, 0xA69F), (0xAC00, 0xD7A3), (0xE000, 0xE0FF),
          (0xF900, 0xFAFF), (0xFB00, 0xFB4F), (0xFB50, 0xFDFF), (0xFE00, 0xFE6F), (0xFF01, 0xFFEE), (0xFFF0, 0xFFFF),
          (0x10000, 0x100FA), (0x10300, 0x1034A), (0x10400, 0x104A9), (0x10900, 0x1091F), (0x11000, 0x11075),
          (0x12000, 0x12399), (0x13000, 0x1342E), (0x1D100, 0x1D1EA), (0x1D400, 0x1D7FF), (0x1E900, 0x1E95F),
          (0x1F000, 0x1F0F5), (0x1F100, 0x1F1FF), (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0x20000, 0x20FFF),
          (0x30000, 0x3134A), (0xE0000, 0xE01EF), (0xF0000, 0xF00FF), (0x10FF00, 0x10FFFF)]

SPACES = [chr(c) for c in [9, 10, 11, 12, 13, 28, 29, 30, 31, 32, 0x85, 0xA0, 0x1680, 0x180E, 0x2000, 0x2003, 0x200A,
                           0x200B, 0x200D, 0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF]]
NUMBERS = list("0123456789") + [chr(c) for c in [0xB2, 0xB3, 0xB9, 0xBC, 0xBD, 0x661, 0x6F5, 0x969, 0x2160, 0x2167,
                                                 0x2075, 0x2460, 0x3007, 0x3021, 0xFF15, 0x1D7D9, 0x10107]]
WORDS = """the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
which one you were her all she there would their we him been has when who will more no if out so said what up its
about into than them can only other new some could time these two may then do first any my now such like our over
man me even most made after also did many before must through back years where much your way well down should
because each just those people how too little state good very make world still own see men work long get here
Between Both Life Being Under Never Day Same Another Know While Last Might Us Great Old Year Off Come Since
Against Go Came Right Used Take Three SELECT FROM WHERE return void int char static const struct printf""".split()
TAILS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'LL", "'lL", "'D", "\u2019s", "'",
         "''s", "'x", "'r", "'v", "'l", "'\u017f", "'\u212a", " 's", "'s's", "'sa", "'rea", "'lla", "'2", "' s"]
EMOJI = ["\U0001F642", "\U0001F469\u200D\U0001F469\u200D\U0001F467", "\u2764\uFE0F", "\U0001F1FA\U0001F1F3",
         "\U0001F44D\U0001F3FD", "1\uFE0F\u20E3", "\U0001F3F4\U000E0067\U000E0062\U000E007F"]
SIGNS = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "--", "==", "->", "/*", "*/", "://", "\u00BF", "\u2026",
                                                         "\u3002", "\u2014", "\u20AC", "\u00A7", "\u00D7", "\u0060"]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<|im_", "|>", "<s>", "<|im_start|>system\n"]
BROKEN = [b"\x80", b"\xBF\xBF", b"\xC0\xAF", b"\xC3", b"\xE2\x82", b"\xE0\x80\x80", b"\xED\xA0\x80", b"\xF0\x9F\x99",
          b"\xF0\x80\x80\x80", b"\xF4\x90\x80\x80", b"\xF8\x88\x80\x80\x80", b"\xFF\xFE", b"\xF1", b"\xF3\x81\x81"]


def character(rng):
    while True:
        low, high = rng.choice(BLOCKS)
        c = rng.randint(low, high)
        if not any(a <= c <= b for a, b in NEWER):
            return chr(c)


def block_text(rng):
    low, high = rng.choice(BLOCKS)
    text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6)))
    return "".join(c for c in text if not any(a <= ord(c) <= b for a, b in NEWER))


def part(rng):
    kind = rng.randrange(20)
    if kind < 4:
        return rng.choice(["", " ", "  "]) + rng.choice(WORDS) + (rng.choice(TAILS) if rng.random() < 0.3 else "")
    if kind < 6:
        return "".join(rng.choice(SPACES) for _ in range(rng.randint(1, 4)))
    if kind == 6:
        return rng.choice([" ", "\n", "\t", "\r\n", " \n", "\n "]) * rng.randint(1, 9)
    if kind < 9:
        return "".join(rng.choice(NUMBERS) for _ in range(rng.randint(1, 6)))
    if kind == 9:
        return str(rng.randrange(10 ** rng.randint(1, 9)))
    if kind < 12:
        return "".join(rng.choice(SIGNS) for _ in range(rng.randint(1, 4)))
    if kind == 12:
        return rng.choice(EMOJI)
    if kind == 13:
        return chr(rng.choice(list(range(32)) + [127, 128, 0x9F]))
    if kind == 14:
        return character(rng) + rng.choice(["\u0301", "\u0308\u0323", "\u093F", "\u0E31", "\uFE0F", ""])
    if kind < 17:
        return block_text(rng)
    if kind == 17:
        return rng.choice(SPECIALS)
    if kind == 18:
        return rng.choice(WORDS)[0] * rng.randint(2, 40)
    return rng.choice(TAILS)


def make_text(rng):
    data = b""
    for _ in range(min(rng.randint(1, 7), rng.randint(1, 7))):
        data += part(rng).encode()
        if rng.random() < 0.02:
            data += rng.choice(BROKEN)
    return data


def escape(data):
    out = ""
    while data:
        try:
            good, bad = data.decode(), b""
        except UnicodeDecodeError as e:
            good, bad, data = data[:e.start].decode(), data[e.start:e.end], data[e.end:]
        else:
            data = b""
        out += "".join(f"\\x{ord(c):02x}" if c < " " or c in "\\\x7f" else c for c in good)
        out += "".join(f"\\x{b:02x}" for b in bad)
    return out


def fold(ids):
    h = 0xCBF29CE484222325
    for b in b"".join(i.to_bytes(4, "little") for i in ids):
        h = (h ^ b) * 0x100000001B3 % 2**64
    return (h ^ h >> 16 ^ h >> 32 ^ h >> 48) & 0xFFFF


def byte_letters():
    plain = [b for b in range(256) if 32 < b < 127 or 160 < b and b != 173]
    rest = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]


def write_vocabulary(path, tokens, types, merges, pre):
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(merges)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def make_small(source, path, pre):
    fields = gguf.GGUFReader(source).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()[:1500]
    specials = [t for t, kind in zip(tokens, types) if kind == 3]
    small = specials + byte_letters() + list(dict.fromkeys(m.replace(" ", "") for m in merges))
    write_vocabulary(path, small, [3] * len(specials) + [1] * (len(small) - len(specials)), merges, pre)


@llama_cpp.llama_log_callback
def be_quiet(level, text, data):
    pass


class Oracle:
    def __init__(self, path):
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, data, special=False):
        room = 2 * len(data) + 16
        ids = (ctypes.c_int32 * room)()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, room, False, special)
        assert n >= 0
        return list(ids[:n])


def main():
    llama_cpp.llama_log_set(be_quiet, ctypes.c_void_p(0))
    here = os.path.dirname(os.path.abspath(__file__))
    make_small(sys.argv[1], os.path.join(here, "tok_small.gguf"), "smollm")
    oracles = []
    with tempfile.TemporaryDirectory() as folder:
        for pre in PRES:
            path = os.path.join(folder, pre)
            make_small(sys.argv[1], path, pre)
            oracles.append(Oracle(path))
    oracles.append(Oracle(sys.argv[1]))
    rng = random.Random(20250419)
    with open(os.path.join(here, "tok_fuzz.txt"), "w", encoding="utf-8", newline="\n") as out:
        for _ in range(N_TEXTS):
            data = make_text(rng)
            repaired = data.decode(errors="replace").encode()
            hashes = [f"{fold(o.encode(repaired)):04x}" for o in oracles]
            fields = [h if not i or h != hashes[i - 1] else "=" for i, h in enumerate(hashes)]
            out.write(" ".join(fields) + " " + escape(data) + "\n")


if __name__ == "__main__":
    main()
