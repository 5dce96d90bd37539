#!/usr/bin/env python3
"""Write quant.bin: blocks of every number format and what Python's gguf package decodes them to.

    python3 tests/golden/make_quant.py        (needs numpy and gguf; the tests only read quant.bin)

For each format: 8 bytes of name, u32 block (elements), u32 bytes (of a block), u32 n (blocks), then the n
blocks end to end, then n * block little-endian floats. Some blocks are random, most are extreme: every byte
0x00 or 0xff, and each f16 of the block (scales, minima) at its limits with random bytes around it.
"""
import os
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

F16_AT = {  # where a block keeps its f16 numbers
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
LIMITS = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E01]
PLAIN = {  # formats without blocks: every interesting bit pattern by hand
    "F32": np.array([0, 1 << 31, 1, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00001,
                     0x3F800001], "<u4"),
    "F16": np.array(LIMITS + [0x3C00, 0x3C01, 0x03FF, 0x8001, 0xFC01, 0xFFFF], "<u2"),
    "BF16": np.array([0, 0x8000, 1, 0x807F, 0x0080, 0x7F7F, 0x7F80, 0xFF80, 0x7FC1, 0x3F81], "<u2"),
}
NAMES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
         "IQ4_NL"]


def blocks_of(name, size, rng):
    if name in PLAIN:
        random = rng.integers(0, 256, (54, size), np.uint8)
        return np.concatenate([PLAIN[name].view(np.uint8).reshape(-1, size), random])
    rows = [np.zeros(size, np.uint8), np.full(size, 0xFF, np.uint8)]
    for i, limit in enumerate(LIMITS):
        row = rng.integers(0, 256, size, np.uint8)
        for j, at in enumerate(F16_AT[name]):
            row[at:at + 2] = list(struct.pack("<H", LIMITS[(i + 3 * j) % len(LIMITS)]))
        rows.append(row)
    for _ in range(6):  # ordinary scales, as a model has them
        row = rng.integers(0, 256, size, np.uint8)
        for at in F16_AT[name]:
            row[at:at + 2] = np.frombuffer(np.float16(rng.normal(0, 0.05)).tobytes(), np.uint8)
        rows.append(row)
    return np.stack(rows)


def main():
    rng = np.random.default_rng(20240607)
    out = b""
    for name in NAMES:
        block, size = GGML_QUANT_SIZES[Type[name]]
        blocks = blocks_of(name, size, rng)
        with np.errstate(all="ignore"):
            floats = dequantize(blocks.reshape(-1), Type[name]).astype("<f4")
        assert floats.size == len(blocks) * block
        out += struct.pack("<8sIII", name.lower().encode(), block, size, len(blocks))
        out += blocks.tobytes() + floats.tobytes()
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "quant.bin"), "wb") as f:
        f.write(out)
    print(len(out), "bytes")


main()
