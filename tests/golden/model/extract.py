#!/usr/bin/env python3
"""Cuts the committed goldens out of fixtures/models (computed by transformers; see README.md).

usage: extract.py FIXTURES/models
"""
import json
import pathlib
import shutil
import struct
import sys

POSITIONS = 8  # of the logits, the last ones of each row
CASES = [("tiny_tanh", "sep_n8_H", "sep_n8_H"), ("tiny_erf", "full", "erf_full")]


def read(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], entry["shape"], data[8 + size :][slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def write(path, tensors):
    header, body = {}, b""
    for name, (dtype, shape, data) in sorted(tensors.items()):
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def last_positions(tensor):
    dtype, (rows, length, vocab), data = tensor
    row = length * vocab * 4
    kept = POSITIONS * vocab * 4
    parts = [data[(r + 1) * row - kept : (r + 1) * row] for r in range(rows)]
    return dtype, [rows, POSITIONS, vocab], b"".join(parts)


source = pathlib.Path(sys.argv[1])
target = pathlib.Path(__file__).parent
for file in ("config.json", "model.safetensors"):
    shutil.copy(source / "tiny_tanh" / file, target / file)
assert (source / "tiny_tanh/model.safetensors").read_bytes() == (
    source / "tiny_erf/model.safetensors"
).read_bytes()
for model, case, name in CASES:
    tensors = read(source / model / f"{case}.safetensors")
    del tensors["mask"]
    tensors["logits"] = last_positions(tensors["logits"])
    write(target / f"{name}.safetensors", tensors)
