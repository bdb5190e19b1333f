#!/usr/bin/env python3
"""Records what the Python package `gguf` decodes and encodes, for tests/ops/quant/dequantize_test.cc.

    pip install gguf numpy && tools/record_quant_reference.py tests/data/quant

Writes two files of records {name: 8 bytes, zero padded; number of elements: u64; encoded bytes; values: f32}:
  dequantize.bin  random bytes of every format (scales included, so infinities and NaNs occur) and their values
  quantize.bin    chosen values (normal, constant, zero, one outlier, ties, tiny, huge) and their encoded bytes
"""
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, quants

DECODED = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
ENCODED = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]


def record(name, encoded, values):
    values = np.ascontiguousarray(values, np.float32)
    encoded = np.ascontiguousarray(encoded).tobytes()
    return struct.pack("<8sQ", name.lower().encode(), values.size) + encoded + values.tobytes()


def values_to_encode(rng):
    """[blocks][32]"""
    rows = [rng.normal(size=32) for _ in range(6)]
    rows += [rng.normal(size=32) * scale for scale in (1e-3, 30.0, 500.0)]
    rows += [np.zeros(32), np.full(32, 0.75), np.full(32, -3.0), np.arange(32) - 15.5, np.arange(32) / 4 - 4]
    rows += [np.where(np.arange(32) == 17, -9.0, 0.125), np.where(np.arange(32) % 2 == 0, 1.0, -1.0)]
    return np.array(rows, np.float32)


def main(folder):
    rng = np.random.default_rng(20240611)
    decoded, encoded = [], []
    with np.errstate(all="ignore"):
        for name in DECODED:
            block_elements, block_bytes = GGML_QUANT_SIZES[T[name]]
            num_blocks = 4 if block_elements == 256 else 16 if block_elements == 32 else 256
            blocks = rng.integers(0, 256, size=(num_blocks, block_bytes), dtype=np.uint8)
            decoded.append(record(name, blocks, quants.dequantize(blocks, T[name])))
        values = values_to_encode(rng)
        for name in ENCODED:
            encoded.append(record(name, quants.quantize(values, T[name]), values))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dequantize.bin").write_bytes(b"".join(decoded))
    (folder / "quantize.bin").write_bytes(b"".join(encoded))


main(Path(sys.argv[1]))
