#!/usr/bin/env python3
"""Writes the seed files of the parsers' fuzz targets with independent writers.

    pip install gguf numpy && tools/make_fuzz_seeds.py fuzz/corpus
"""
import json
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T, GGUFWriter, quants


def gguf_seeds(folder):
    w = GGUFWriter(folder / "types.gguf", "llama")
    w.add_uint8("t.u8", 1), w.add_int8("t.i8", -1), w.add_uint16("t.u16", 2), w.add_int16("t.i16", -2)
    w.add_uint32("t.u32", 3), w.add_int32("t.i32", -3), w.add_uint64("t.u64", 4), w.add_int64("t.i64", -4)
    w.add_float32("t.f32", 0.5), w.add_float64("t.f64", 0.25), w.add_bool("t.bool", True), w.add_string("t.s", "text")
    w.add_array("t.strings", ["a", "bc", "d"]), w.add_array("t.ints", [1, 2, 3]), w.add_array("t.floats", [0.5, 1.5])
    w.add_array("t.bools", [True, False])
    finish(w)
    w = GGUFWriter(folder / "tensors.gguf", "llama")
    w.add_custom_alignment(16)
    w.add_tensor("norm", np.ones(4, np.float32))
    w.add_tensor("half", np.ones((2, 3), np.float16))
    for dtype in (T.Q8_0, T.Q4_1):
        w.add_tensor(dtype.name, quants.quantize(np.ones((2, 32), np.float32), dtype), raw_dtype=dtype)
    w.add_tensor("q6_k", np.zeros((1, 210), np.uint8), raw_dtype=T.Q6_K)
    finish(w)
    (folder / "empty.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 2, 0, 0))


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def safetensors_seeds(folder):
    def write(name, header, num_data_bytes):
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + bytes(range(num_data_bytes)))

    entry = lambda dtype, shape, begin, end: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    write("empty.safetensors", {}, 0)
    write("plain.safetensors", {"a": entry("F32", [2, 2], 0, 16), "b": entry("BF16", [3], 16, 22),
                                "c": entry("F16", [], 22, 24), "none": entry("F32", [0, 3], 24, 24)}, 24)
    write("other.safetensors", {"__metadata__": {"format": "pt"}, "ids": entry("I64", [1], 0, 8),
                                "f4": entry("F4", [2], 8, 9), "new": entry("X9", [9], 9, 10)}, 10)


for target, seeds in {"gguf": gguf_seeds, "safetensors": safetensors_seeds}.items():
    out = Path(sys.argv[1]) / target
    out.mkdir(parents=True, exist_ok=True)
    seeds(out)
