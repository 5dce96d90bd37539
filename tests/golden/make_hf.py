#!/usr/bin/env python3
"""Make hf_*/ and hf.json: tiny random models as Hugging Face folders, and what they answer.

    make_hf.py            (needs numpy, tokenizers, torch, transformers; made with transformers 5.24.0, torch 2.15.0)

The tensors' names and shapes are spelled out below as the files on the hub have them; transformers loads each folder
and computes in float64, throughout: torch.float32 is made to mean float64 for it, since its norms, softmax and
rotations otherwise go through float32. reference() does the same in numpy, from config.json and the tensors alone, and
has to agree within 1e-11; the script prints by how much, and how far float32 is off.

hf.json is a list with an object a folder. "folder" is its name. An encoder has

    "cases"    [{"ids", "last_hidden", "mean", "cls", "last"}, ...] for 1, 5 and 40 ids: the last layer's
               vectors ([n][hidden], not for 40 ids), their mean, the first, the last. Token types are 0; no id is
               padding. Nothing is normalized, whatever modules.json says
    "texts"    (hf_bert) [{"text", "ids", "embedding"}, ...]: the ids its tokenizer gives, cut to max_seq_length with
               [CLS] and [SEP] kept, and what modules.json makes of them: their mean, normalized

and a decoder, as in arch.json,

    "ids"      60 of them, longer than the sliding window
    "sum_nll"  the sum over positions i >= 1 of -ln p(ids[i] | ids before)
    "top5_logprob_last", "top1_each"    the likeliest [id, ln p] after all the ids, and after each of them

Numbers have 7 significant digits. No ln p of a top1_each is nearer than 0.02 to the next likeliest.

What each folder has of its own:

    hf_bert           the buffer embeddings.position_ids (I64); a pooler, which nothing uses; a tokenizer;
                      sentence-transformers: mean, normalized, 16 tokens at most
    hf_bert_f16, hf_bert_bf16    the same weights, rounded; their own results
    hf_bert_sharded   the same in two files with an index
    hf_bert_prefix    the same as BertForMaskedLM has it: names with "bert.", no pooler, cls.* tensors to leave out
    hf_bert_old       the same as BertForPreTraining once had it: also LayerNorm.gamma and .beta
    hf_roberta        positions from pad_token_id + 1, one token type; sentence-transformers: the first vector
    hf_xlmr           the same with 5 heads of 8; sentence-transformers: mean, not normalized
    hf_llama          rope_theta 50000, its own output.weight (lm_head)
    hf_llama_tied     BF16, no lm_head; config.json in the form of transformers 5 (rope_parameters, dtype)
    hf_llama3         rope_scaling of type llama3; heads of 16 where hidden_size / heads is 8
    hf_gemma3         BF16; norm weights are stored less 1; of 7 layers the sixth sees all, with its own rope base
    hf_qwen2          q, k and v biases; a sliding_window that use_sliding_window turns off
    hf_qwen3          norms of q and k; heads of 16; no lm_head; config.json in the form of transformers 5
"""
import contextlib
import glob
import json
import math
import os
import shutil

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 100
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# ---- config.json

ENCODER = dict(attention_probs_dropout_prob=0.1, hidden_act="gelu", hidden_dropout_prob=0.1, hidden_size=32,
               initializer_range=0.02, intermediate_size=64, num_attention_heads=4, num_hidden_layers=2,
               position_embedding_type="absolute", torch_dtype="float32", transformers_version="4.41.2",
               use_cache=True, vocab_size=VOCAB)
BERT = dict(ENCODER, architectures=["BertModel"], model_type="bert", layer_norm_eps=1e-12, max_position_embeddings=48,
            pad_token_id=0, type_vocab_size=2)
ROBERTA = dict(ENCODER, architectures=["RobertaModel"], model_type="roberta", layer_norm_eps=1e-5,
               max_position_embeddings=50, bos_token_id=0, pad_token_id=1, eos_token_id=2, type_vocab_size=1)
XLMR = dict(ROBERTA, architectures=["XLMRobertaModel"], model_type="xlm-roberta", hidden_size=40, num_attention_heads=5,
            intermediate_size=56, output_past=True)

DECODER = dict(attention_bias=False, attention_dropout=0.0, bos_token_id=1, eos_token_id=2, hidden_act="silu",
               hidden_size=32, initializer_range=0.02, intermediate_size=64, max_position_embeddings=128,
               num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2, rms_norm_eps=1e-5,
               rope_scaling=None, rope_theta=10000.0, tie_word_embeddings=False, torch_dtype="float32",
               transformers_version="4.51.3", use_cache=True, vocab_size=VOCAB)
LLAMA = dict(DECODER, architectures=["LlamaForCausalLM"], model_type="llama", mlp_bias=False, pretraining_tp=1)
GEMMA3 = dict(DECODER, architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", attn_logit_softcapping=None,
              final_logit_softcapping=None, head_dim=16, hidden_activation="gelu_pytorch_tanh", intermediate_size=48,
              layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(7)],
              num_attention_heads=2, num_hidden_layers=7, num_key_value_heads=1, pad_token_id=0, bos_token_id=2,
              eos_token_id=1, query_pre_attn_scalar=16, rms_norm_eps=1e-6, rope_local_base_freq=10000.0,
              rope_theta=1000000.0, sliding_window=8, torch_dtype="bfloat16", _sliding_window_pattern=6)
del GEMMA3["hidden_act"], GEMMA3["tie_word_embeddings"]  # the hub's files leave it to the default, which is true
QWEN2 = dict(DECODER, architectures=["Qwen2ForCausalLM"], model_type="qwen2", max_window_layers=2, rms_norm_eps=1e-6,
             rope_theta=1000000.0, sliding_window=8, use_sliding_window=False)
del QWEN2["attention_bias"]  # there always
QWEN3 = dict(DECODER, architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=16, max_window_layers=2,
             rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=None, tie_word_embeddings=True,
             use_sliding_window=False)


def of_v5(config):
    """The config as transformers 5 writes it."""
    config = dict(config, transformers_version="5.24.0")
    config["dtype"] = config.pop("torch_dtype")
    config["rope_parameters"] = dict(config.pop("rope_scaling") or {"rope_type": "default"},
                                     rope_theta=config.pop("rope_theta"))
    return config


LLAMA3_ROPE = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64,
                   rope_type="llama3")
FOLDERS = {
    "hf_bert": BERT,
    "hf_bert_f16": dict(BERT, torch_dtype="float16"),
    "hf_bert_bf16": dict(BERT, torch_dtype="bfloat16"),
    "hf_bert_sharded": BERT,
    "hf_bert_prefix": dict(BERT, architectures=["BertForMaskedLM"]),
    "hf_bert_old": dict(BERT, architectures=["BertForPreTraining"]),
    "hf_roberta": ROBERTA,
    "hf_xlmr": XLMR,
    "hf_llama": dict(LLAMA, rope_theta=50000.0),
    "hf_llama_tied": of_v5(dict(LLAMA, tie_word_embeddings=True, torch_dtype="bfloat16")),
    "hf_llama3": dict(LLAMA, head_dim=16, max_position_embeddings=512, rope_theta=500000.0, rope_scaling=LLAMA3_ROPE),
    "hf_gemma3": GEMMA3,
    "hf_qwen2": QWEN2,
    "hf_qwen3": of_v5(QWEN3),
}

# ---- tensors


def encoder_shapes(c):
    e, ff = c["hidden_size"], c["intermediate_size"]
    norm = lambda at: {at + ".weight": (e,), at + ".bias": (e,)}
    dense = lambda at, n, m: {at + ".weight": (n, m), at + ".bias": (n,)}
    shapes = {"embeddings.word_embeddings.weight": (c["vocab_size"], e),
              "embeddings.position_embeddings.weight": (c["max_position_embeddings"], e),
              "embeddings.token_type_embeddings.weight": (c["type_vocab_size"], e), **norm("embeddings.LayerNorm")}
    for i in range(c["num_hidden_layers"]):
        at = f"encoder.layer.{i}."
        for name in "query", "key", "value":
            shapes |= dense(at + "attention.self." + name, e, e)
        shapes |= dense(at + "attention.output.dense", e, e) | norm(at + "attention.output.LayerNorm")
        shapes |= dense(at + "intermediate.dense", ff, e) | dense(at + "output.dense", e, ff)
        shapes |= norm(at + "output.LayerNorm")
    return shapes | dense("pooler.dense", e, e)


def decoder_shapes(c):
    e, ff, kind = c["hidden_size"], c["intermediate_size"], c["model_type"]
    head = c.get("head_dim") or e // c["num_attention_heads"]
    q, kv = head * c["num_attention_heads"], head * c["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (c["vocab_size"], e)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        norms = ["input_layernorm", "post_attention_layernorm"]
        if kind == "gemma3_text":
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        shapes |= {at + name + ".weight": (e,) for name in norms}
        for name, n, m in ("q_proj", q, e), ("k_proj", kv, e), ("v_proj", kv, e), ("o_proj", e, q):
            shapes[f"{at}self_attn.{name}.weight"] = (n, m)
            if kind == "qwen2" and name != "o_proj":
                shapes[f"{at}self_attn.{name}.bias"] = (n,)
        if kind in ("gemma3_text", "qwen3"):
            shapes |= {f"{at}self_attn.{name}.weight": (head,) for name in ("q_norm", "k_norm")}
        for name, n, m in ("gate_proj", ff, e), ("up_proj", ff, e), ("down_proj", e, ff):
            shapes[f"{at}mlp.{name}.weight"] = (n, m)
    shapes["model.norm.weight"] = (e,)
    if not c.get("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (c["vocab_size"], e)
    return shapes


def heads_shapes(c):
    """What BertForPreTraining has besides; cls.predictions.decoder.weight is tied and absent."""
    e = c["hidden_size"]
    return {"cls.predictions.bias": (c["vocab_size"],), "cls.predictions.transform.dense.weight": (e, e),
            "cls.predictions.transform.dense.bias": (e,), "cls.predictions.transform.LayerNorm.weight": (e,),
            "cls.predictions.transform.LayerNorm.bias": (e,), "cls.seq_relationship.weight": (2, e),
            "cls.seq_relationship.bias": (2,)}


def draw(name, shape, rng, kind):
    if name.endswith("bias"):
        a = 0.2 * rng.standard_normal(shape)
    elif "norm" in name.lower():
        a = 0.25 * rng.standard_normal(shape) + (kind != "gemma3_text")
    elif "embed" in name:
        a = rng.standard_normal(shape) * (0.4 if name.startswith("model.") else 0.1)
    else:
        a = rng.standard_normal(shape) * (1.5 / math.sqrt(shape[-1]))
    return torch.from_numpy(a.astype(np.float32))


def tensors_of(folder, c):
    """The tensors that go into a folder's file."""
    kind = c["model_type"]
    rng = np.random.default_rng(sum(map(ord, "hf_bert" if kind == "bert" else folder)))
    shapes = encoder_shapes(c) if is_encoder(c) else decoder_shapes(c)
    tensors = {name: draw(name, shape, rng, kind) for name, shape in shapes.items()}
    if folder in ("hf_bert_prefix", "hf_bert_old"):
        tensors = {"bert." + name: t for name, t in tensors.items()}
        tensors |= {name: draw(name, shape, rng, kind) for name, shape in heads_shapes(c).items()}
    if folder == "hf_bert_prefix":
        tensors = {name: t for name, t in tensors.items() if "pooler" not in name and "seq_rel" not in name}
    if folder == "hf_bert_old":
        tensors = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
                   for name, t in tensors.items()}
    tensors = {name: t.to(DTYPES[c.get("dtype") or c["torch_dtype"]]) for name, t in tensors.items()}
    if folder in ("hf_bert", "hf_bert_f16"):
        tensors["embeddings.position_ids"] = torch.arange(c["max_position_embeddings"])[None]
    return tensors


def is_encoder(c):
    return c["model_type"] in ("bert", "roberta", "xlm-roberta")


# ---- folders

POOLING = {"hf_bert": ("mean", True, 16), "hf_roberta": ("cls", False, 32), "hf_xlmr": ("mean", False, 32)}


def write_json(value, *path):
    path = os.path.join(HERE, *path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def write_sentence_transformers(folder, c):
    how, normalize, length = POOLING[folder]
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * normalize
    write_json([{"idx": i, "name": str(i), "path": path, "type": "sentence_transformers.models." + name}
                for i, (path, name) in enumerate(modules)], folder, "modules.json")
    write_json({"word_embedding_dimension": c["hidden_size"], "pooling_mode_cls_token": how == "cls",
                "pooling_mode_mean_tokens": how == "mean", "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False}, folder, "1_Pooling", "config.json")
    write_json({"max_seq_length": length, "do_lower_case": False}, folder, "sentence_bert_config.json")


def write_tokenizer(folder):
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + x for x in letters), *"0123456789",
             *".,!?'-", *"the cat sat on mat and is of to in it ##ed ##ing ##er ##able ##base ##less".split(),
             *"un hello world data token sqlite 中 文 α ß".split()]
    assert len(words) == len(set(words)) == VOCAB
    with open(os.path.join(HERE, folder, "vocab.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(words) + "\n")
    t = tokenizers.Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]",
                                              max_input_chars_per_word=100))
    t.add_special_tokens(words[:5])
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing("[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
                                                     [("[CLS]", 2), ("[SEP]", 3)])
    t.decoder = decoders.WordPiece()
    t.save(os.path.join(HERE, folder, "tokenizer.json"))
    write_json(dict(cls_token="[CLS]", do_lower_case=True, mask_token="[MASK]", model_max_length=48, pad_token="[PAD]",
                    sep_token="[SEP]", strip_accents=None, tokenize_chinese_chars=True,
                    tokenizer_class="BertTokenizer", unk_token="[UNK]"), folder, "tokenizer_config.json")


def write_folder(folder, c):
    shutil.rmtree(os.path.join(HERE, folder), ignore_errors=True)
    write_json(dict(sorted(c.items())), folder, "config.json")
    tensors = tensors_of(folder, c)
    if folder == "hf_bert_sharded":
        names = sorted(tensors)
        files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
        write_json({"metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
                    "weight_map": {name: file for name in names for file in files if name in files[file]}},
                   folder, "model.safetensors.index.json")
    else:
        files = {"model.safetensors": list(tensors)}
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, os.path.join(HERE, folder, file), {"format": "pt"})
    if folder in POOLING:
        write_sentence_transformers(folder, c)
    if folder == "hf_bert":
        write_tokenizer(folder)


# ---- the reference: numpy, float64, from the folder alone


def read_folder(folder):
    with open(os.path.join(HERE, folder, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    tensors = {}
    for file in glob.glob(os.path.join(HERE, folder, "*.safetensors")):
        tensors |= load_file(file)
    old = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    w = {}
    for name, t in tensors.items():
        for a, b in old.items():
            name = name.replace(a, b)
        w[name.removeprefix("bert.")] = t.double().numpy()
    return c, w


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def layer_norm(x, w, at, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w[at + ".weight"] + w[at + ".bias"]


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def attend(q, k, v, scale, seen=None):
    """q [n][heads][d]; k, v [n][kv heads][d]; seen [n][n]."""
    k, v = (np.repeat(a, q.shape[1] // a.shape[1], axis=1) for a in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) * scale
    if seen is not None:
        scores = np.where(seen, scores, -np.inf)
    return np.einsum("hij,jhd->ihd", softmax(scores), v).reshape(len(q), -1)


def reference_encoder(c, w, ids):
    dense = lambda x, at: x @ w[at + ".weight"].T + w[at + ".bias"]
    eps, heads, n = c["layer_norm_eps"], c["num_attention_heads"], len(ids)
    first = 0 if c["model_type"] == "bert" else c["pad_token_id"] + 1
    x = (w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
         + w["embeddings.position_embeddings.weight"][first:first + n])
    x = layer_norm(x, w, "embeddings.LayerNorm", eps)
    for i in range(c["num_hidden_layers"]):
        at = f"encoder.layer.{i}."
        q, k, v = (dense(x, f"{at}attention.self.{name}").reshape(n, heads, -1) for name in ("query", "key", "value"))
        y = dense(attend(q, k, v, q.shape[-1] ** -0.5), at + "attention.output.dense")
        x = layer_norm(x + y, w, at + "attention.output.LayerNorm", eps)
        y = dense(x, at + "intermediate.dense")
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        x = layer_norm(x + dense(y, at + "output.dense"), w, at + "output.LayerNorm", eps)
    return x


def frequencies(head, base, scaling):
    f = base ** (-np.arange(0, head, 2) / head)
    if scaling and scaling.get("rope_type") == "llama3":
        turns = scaling["original_max_position_embeddings"] * f / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        keep = np.clip((turns - low) / (high - low), 0, 1)
        f = f * (keep + (1 - keep) / scaling["factor"])
    return f


def rotate(x, f):
    """x [n][heads][d]: element j turns with element j + d/2."""
    angle = np.arange(len(x))[:, None, None] * f
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def reference_decoder(c, w, ids):
    """ln p [n][vocab] of what comes after each id."""
    gemma = c["model_type"] == "gemma3_text"
    eps, heads, kv, n = c["rms_norm_eps"], c["num_attention_heads"], c["num_key_value_heads"], len(ids)
    scaling = c.get("rope_parameters") or c["rope_scaling"]
    base = scaling["rope_theta"] if "rope_parameters" in c else c["rope_theta"]
    head = c.get("head_dim") or c["hidden_size"] // heads
    scale = c.get("query_pre_attn_scalar", head) ** -0.5
    norm = lambda x, name: rms_norm(x, w[name + ".weight"] + gemma, eps)
    back = np.subtract.outer(np.arange(n), np.arange(n))  # how far j is before i
    x = w["model.embed_tokens.weight"][ids] * (math.sqrt(c["hidden_size"]) if gemma else 1)
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        local = gemma and c["layer_types"][i] == "sliding_attention"
        f = frequencies(head, c["rope_local_base_freq"] if local else base, None if local else scaling)
        seen = (back >= 0) & (back < (c["sliding_window"] if local else n))
        y = norm(x, at + "input_layernorm")
        dense = lambda name: y @ w[f"{at}self_attn.{name}.weight"].T + w.get(f"{at}self_attn.{name}.bias", 0)
        q, k, v = (dense(name).reshape(n, -1, head) for name in ("q_proj", "k_proj", "v_proj"))
        if at + "self_attn.q_norm.weight" in w:
            q, k = norm(q, at + "self_attn.q_norm"), norm(k, at + "self_attn.k_norm")
        y = attend(rotate(q, f), rotate(k, f), v, scale, seen) @ w[at + "self_attn.o_proj.weight"].T
        x = x + (norm(y, at + "post_attention_layernorm") if gemma else y)
        y = norm(x, at + ("pre_feedforward_layernorm" if gemma else "post_attention_layernorm"))
        gate = y @ w[at + "mlp.gate_proj.weight"].T
        if gemma:
            gate = gate * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        y = (gate * (y @ w[at + "mlp.up_proj.weight"].T)) @ w[at + "mlp.down_proj.weight"].T
        x = x + (norm(y, at + "post_feedforward_layernorm") if gemma else y)
    logits = norm(x, "model.norm") @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


# ---- transformers


@contextlib.contextmanager
def all_double():
    """Makes float32 mean float64 to what asks torch for it by name."""
    kept = torch.float32, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.float32 = torch.float = kept[0]
        torch.Tensor.float = kept[1]
        torch.set_default_dtype(torch.float32)


def load_pair(folder, c):
    """The folder's model in float32 and in float64."""
    auto = transformers.AutoModel if is_encoder(c) else transformers.AutoModelForCausalLM
    single = auto.from_pretrained(os.path.join(HERE, folder), dtype=torch.float32).eval()
    with all_double():
        double = type(single)(single.config).eval()  # computes its buffers, which no file has
        double.load_state_dict(single.state_dict())
    return single, double


def run(model, ids):
    out = model(input_ids=torch.tensor([ids]))
    return (torch.log_softmax(out.logits, -1) if "logits" in out else out.last_hidden_state)[0].numpy()


def run_checked(folder, c, w, models, ids):
    """The float64 result; run_checked.worst keeps how far numpy and float32 were off."""
    with torch.no_grad():
        single = run(models[0], ids)
        with all_double():
            true = run(models[1], ids)
    assert true.dtype == np.float64
    mine = (reference_encoder if is_encoder(c) else reference_decoder)(c, w, ids)
    off = np.abs(true - mine).max(), np.abs(true - single).max()
    assert off[0] < 1e-11, (folder, off)
    run_checked.worst = np.maximum(run_checked.worst, off)
    return true


def rounded(x):
    return [rounded(y) for y in x] if np.ndim(x) else float(f"{x:.7g}")


TEXTS = ["Hello, world!", "The cat sat on the mat.", "SQLite's untokened database:", "Ünïcode 42中文 7ß α-Ω?",
         "In it is the token of the data and the cat is unwordable, endless and hello to the world of SQLite"]


def encoder_results(folder, c, w, models):
    rng = np.random.default_rng(7)
    specials = (2, 3) if c["model_type"] == "bert" else (0, 2)
    cases = []
    for n in 1, 5, 40:
        ids = rng.integers(5, VOCAB, n).tolist()
        if n > 1:
            ids[0], ids[-1] = specials
        x = run_checked(folder, c, w, models, ids)
        case = {"ids": ids, "last_hidden": rounded(x), "mean": rounded(x.mean(0)), "cls": rounded(x[0]),
                "last": rounded(x[-1])}
        if n > 5:
            del case["last_hidden"]
        cases.append(case)
    result = {"folder": folder, "cases": cases}
    if folder == "hf_bert":
        tokenizer = tokenizers.Tokenizer.from_file(os.path.join(HERE, folder, "tokenizer.json"))
        tokenizer.enable_truncation(POOLING[folder][2])
        result["texts"] = []
        for text in TEXTS:
            ids = tokenizer.encode(text).ids
            mean = run_checked(folder, c, w, models, ids).mean(0)
            result["texts"].append({"text": text, "ids": ids, "embedding": rounded(mean / np.linalg.norm(mean))})
    return result


def decoder_results(folder, c, w, models):
    gap, rng = 0, np.random.default_rng(11)
    while gap < 0.02:
        ids = rng.integers(3, VOCAB, 60).tolist()
        lnp = reference_decoder(c, w, ids)
        best = -np.sort(-lnp, axis=1)
        gap = (best[:, 0] - best[:, 1]).min()
    lnp = run_checked(folder, c, w, models, ids)
    order = np.argsort(-lnp, axis=1)
    return {"folder": folder, "ids": ids, "sum_nll": rounded(-lnp[np.arange(59), ids[1:]].sum()),
            "top5_logprob_last": [[int(j), rounded(lnp[-1, j])] for j in order[-1, :5]],
            "top1_each": [[int(j), rounded(row[j])] for row, j in zip(lnp, order[:, 0])]}


def main():
    results = []
    for folder, config in FOLDERS.items():
        write_folder(folder, config)
        c, w = read_folder(folder)
        run_checked.worst = np.zeros(2)
        results.append((encoder_results if is_encoder(c) else decoder_results)(folder, c, w, load_pair(folder, c)))
        files = glob.glob(os.path.join(HERE, folder, "**", "*.*"), recursive=True)
        size = sum(os.path.getsize(file) for file in files)
        print(f"{folder}: {size} bytes; off by at most: numpy %.1e, float32 %.1e" % tuple(run_checked.worst))
    with open(os.path.join(HERE, "hf.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in results) + "\n]\n")


if __name__ == "__main__":
    main()
