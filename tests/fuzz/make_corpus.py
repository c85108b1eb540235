#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the small files that fuzzing starts from into tests/fuzz/corpus, a folder for each target.

Pictures, safetensors files and configs that the tests have anyway are not copied: see seeds() in scripts/fuzz. Files
named `found-*` are inputs that once broke something; they stay. Needs the standard library only.
"""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def safetensors(header, size):
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text.encode())) + text.encode() + bytes(range(256))[:size].ljust(size, b"\x5a")


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


write("safetensors", "none", safetensors({}, 0))
write("safetensors", "one", safetensors({"a": tensor("F32", [2, 3], 0, 24)}, 24))
write("safetensors", "three", safetensors({"__metadata__": {"format": "pt"}, "b": tensor("I64", [1], 4, 12),
                                           "a": tensor("BF16", [2], 0, 4), "c": tensor("U8", [0, 7], 12, 12)}, 12))
write("safetensors", "half-bytes", safetensors({"a": tensor("F4", [8], 0, 4), "b": tensor("F6_E2M3", [4], 4, 7)}, 7))
write("safetensors", "escapes", safetensors('{"\\u00e4\\ud83d\\ude00\\n":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]}}', 1))
write("safetensors", "twice", safetensors('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
                                          '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1))
write("safetensors", "wraps", safetensors({"a": tensor("U8", [4, 4611686018427387905], 0, 4)}, 4))
write("safetensors", "zero-of-many", safetensors({"a": tensor("U8", [4611686018427387904, 3, 0], 0, 0)}, 0))
write("safetensors", "zip", b"PK\3\4" + bytes(40))
write("safetensors", "pickle", b"\x80\x02}q\0.")

SET = "\x1e"
write("config", "minimal", "data: {path: /p}\n")
write("config", "axes", "version: 1\ndata:\n  path: /p\n  size: [32, 32]\ndiffusion:\n"
                        "  schedule: {type: cosine, s: 0.01}\n  target: velocity\n"
                        "  weighting: {type: min_snr, gamma: 5}\n  loss: {type: huber}\n"
                        "optim:\n  lr: 2.0e-4\n  betas:\n    - 0.9\n    - 0.999\n")
write("config", "points", "data: {source: points, points: {type: moons}}\nmlp: {hidden: [16, 16]}\ntrain: {steps: 10}\n")
write("config", "overrides", "data: {path: /p}\n" + SET + "optim.lr=1e-3" + SET + "model.channel_mult=[1, 2]" + SET
      + "diffusion.schedule.s=0.1")
write("config", "marked", "data: {path: /p}\n" + SET + "\ufeffoptim.lr=1e-3" + SET + "\ufeffrun.notes=")
write("config", "bomb", "a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n<<: *c\n")
write("config", "cycle", "a: &x [*x]\n")
write("config", "texts", "run:\n  name: \"a\\u00e4\\x41\"\n  notes: >-\n    folded\n    text\ndata: {path: 'it''s'}\n# end\n")
write("config", "twice", "data: {path: /p}\ndata: {path: /q}\n!tag x: !!int 3\n")
write("config", "documents", "%YAML 1.2\n---\ndata: {path: /p}\n...\n---\n? [a]\n: b\n")
write("config", "windows", "\ufeffdata: {path: /p}\r\noptim:\r\n\tlr: 1\r\n")

rows = [{"step": 1, "loss": 0.5, "lr": 1e-4}, {"step": 2, "loss": None, "grad_norm": 3}]
write("records", "metrics", "\0" + "".join(json.dumps(r) + "\n" for r in rows) + '{"step": 3, "lo')
write("records", "metrics-odd", '\0[1]\n{"step":1.5}\n{"step":1e400}\n{}\n\n{"step":3,"x":[[]],"y":"z","w":-0.0}\n')
write("records", "status", "\1" + json.dumps({"state": "running", "step": 5, "of": 10, "eta": 3.5, "last_checkpoint": None,
                                              "exit": None, "time": "2026-11-22T09:30:00Z"}))
write("records", "status-odd", '\1{"state":7,"step":1e300,"of":-1e300,"eta":"x","exit":1e99}')
one = [0.5, None]
bits = {"prior": one, "rest": one, "decoder": one, "total": one}
record = {"step": 4, "weights": "ema", "fingerprint": "00ff", "unit": "bits/dim", "images": 2, "seed": 3,
          "levels": [{"logsnr": -1.5, "mse_eps": one}, {"logsnr": 3, "mse_eps": [1, 2]}], "bits": bits}
write("records", "validation", "\2" + json.dumps(record))
write("records", "validation-odd", "\2" + json.dumps({**record, "bits": None, "levels": {"a": 1}, "images": 1e30}))


def manifest(name, size, digest):
    entry = {"name": name, "size": size, "xxh3_128": digest}
    return json.dumps({"format": 1, "step": 5, "files": [entry], "xxh3_128": "0" * 32}, indent=1) + "\n"


write("manifest", "good", manifest("file.txt", 4, "0" * 32))
write("manifest", "outside", manifest("../file.txt", 4, "0" * 32))
write("manifest", "absolute", manifest("/etc/passwd", 4, "0" * 32))
write("manifest", "newer", '{"format": 2}')
write("manifest", "odd", '{"format": [], "step": "x", "files": {"a": []}, "xxh3_128": 3}')

write("numbers", "betas", "# four\n0.1 0.2\n\n0.3,0.4\r\n")
write("numbers", "column", "0.1\n0.2\n0.3\n0.4\n")
write("numbers", "pairs", "-5 0.5\n0 1\n5, 2\n")
write("numbers", "odd", "\ufeff1e400 nan 0x1p3 --1 +1\n")

for order, name in ((">", "big"), ("<", "little")):
    mark = b"MM" if order == ">" else b"II"
    write("exif", name, mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0))
write("exif", "loop", b"II" + struct.pack("<HI", 42, 8) + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8))
print(sum(1 for _ in CORPUS.rglob("*")), "files and folders in", CORPUS)
