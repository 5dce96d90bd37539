"""A BERT encoder's Hugging Face folder as a GGUF file for llama.cpp (the PyPI package gguf writes it).
    python minilm_gguf.py FOLDER OUT.gguf [q8_0]"""
import json, os, struct, sys
import gguf
import numpy as np

folder, out, is_q8_0 = sys.argv[1], sys.argv[2], "q8_0" in sys.argv[3:]
TOP = {"word_embeddings.weight": "token_embd.weight", "position_embeddings.weight": "position_embd.weight",
       "token_type_embeddings.weight": "token_types.weight", "LayerNorm.weight": "token_embd_norm.weight",
       "LayerNorm.bias": "token_embd_norm.bias"}
LAYER = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
         "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
         "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}


def tensors():
    """Name and array of each tensor, under GGUF's names."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        base = f.tell()
        for name, t in header.items():
            name = name.removeprefix("bert.")
            part = name.split(".")
            if part[0] == "embeddings" and ".".join(part[1:]) in TOP:
                to = TOP[".".join(part[1:])]
            elif part[:2] == ["encoder", "layer"]:
                to = f"blk.{part[2]}.{LAYER['.'.join(part[3:-1])]}.{part[-1]}"
            else:
                continue
            assert t["dtype"] == "F32", name
            f.seek(base + t["data_offsets"][0])
            yield to, np.frombuffer(f.read(t["data_offsets"][1] - t["data_offsets"][0]), np.float32).reshape(t["shape"])


config = json.load(open(os.path.join(folder, "config.json")))
words = open(os.path.join(folder, "vocab.txt"), encoding="utf-8").read().split("\n")[:config["vocab_size"]]
special = [w.startswith("[") and w.endswith("]") and len(w) > 2 for w in words]
w = gguf.GGUFWriter(out, "bert")
w.add_context_length(config["max_position_embeddings"])
w.add_embedding_length(config["hidden_size"])
w.add_feed_forward_length(config["intermediate_size"])
w.add_block_count(config["num_hidden_layers"])
w.add_head_count(config["num_attention_heads"])
w.add_layer_norm_eps(config["layer_norm_eps"])
w.add_causal_attention(False)
w.add_pooling_type(gguf.PoolingType.MEAN)
w.add_tokenizer_model("bert")
w.add_token_type_count(config["type_vocab_size"])
# A piece inside a word loses its marks, a word's first piece gains one: llama.cpp's spelling.
w.add_token_list([x if s else x[2:] if x.startswith("##") else "\u2581" + x for x, s in zip(words, special)])
w.add_token_scores([-1000.0] * len(words))
w.add_token_types([gguf.TokenType.CONTROL if s else gguf.TokenType.NORMAL for s in special])
for key, word in (("bos", "[CLS]"), ("eos", "[SEP]"), ("unk", "[UNK]"), ("sep", "[SEP]"), ("pad", "[PAD]"), ("mask", "[MASK]")):
    getattr(w, f"add_{key}_token_id")(words.index(word))
for name, x in tensors():
    quantised = is_q8_0 and x.ndim == 2 and name not in ("position_embd.weight", "token_types.weight")
    kind = gguf.GGMLQuantizationType.Q8_0 if quantised else gguf.GGMLQuantizationType.F32
    w.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
