# SPDX-License-Identifier: MIT
"""Holds our safetensors reader and writer against the Python package (scripts/requirements-test.txt).

    python tests/io/compare_with_reference.py build [--headers 100000] [--sets 10000] [--seed 1]

The files of safetensors_test.cpp and random ones get the same verdict and, where good, the same contents; what we write
is read by the package. We refuse more on purpose: what the format forbids and the package lets pass. These eight:
"""

import argparse
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

from safetensors import SafetensorError, deserialize

STRICTER = {
    "duplicate_name": "a tensor's name twice",
    "duplicate_metadata_key": "a key of the metadata twice",
    "unknown_field": "a field of a tensor besides dtype, shape and data_offsets",
    "null_metadata": "metadata that is null",
    "rank_65": "more than 64 dimensions",
    "leading_space": "white space before the header's '{'",
    "large_dimension": "a dimension of 2^63 or more, beside a zero",
    "tensor_as_list": "a tensor described by a list in place of an object",
}
DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
          "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
          "U64": 64}


def theirs(data):
    """What the package reads, as safetensors_peer describes it; None when it refuses."""
    try:
        return {name: [t["dtype"], list(t["shape"]), bytes(t["data"]).hex()] for name, t in deserialize(data)}
    except SafetensorError:
        return None


def records(data):
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield data[at + 8 : at + 8 + length]
        at += 8 + length


def peer(build, *arguments, files=()):
    sent = b"".join(struct.pack("<Q", len(f)) + f for f in files)
    done = subprocess.run([build / "safetensors_peer", *arguments], input=sent, stdout=subprocess.PIPE, check=True)
    return list(records(done.stdout))


class Members(list):
    """A JSON object with every member, also those of one name."""


def stricter(data):
    """Which of the stricter rules a file breaks, found without our reader."""
    (length,) = struct.unpack_from("<Q", data)
    text = data[8 : 8 + length]
    found = set()
    if text[:1].isspace():
        found.add("leading_space")
    try:
        top = json.loads(text, object_pairs_hook=Members)
    except (ValueError, RecursionError):
        return found
    if not isinstance(top, Members):
        return found
    if len({k for k, _ in top}) < len(top):
        found.add("duplicate_name")
    for key, value in top:
        if key == "__metadata__":
            if value is None:
                found.add("null_metadata")
            elif isinstance(value, Members) and len({k for k, _ in value}) < len(value):
                found.add("duplicate_metadata_key")
        elif isinstance(value, list) and not isinstance(value, Members):
            found.add("tensor_as_list")
        elif isinstance(value, Members):
            fields = dict(value)
            if set(fields) - {"dtype", "shape", "data_offsets"}:
                found.add("unknown_field")
            shape = fields.get("shape")
            if isinstance(shape, list) and len(shape) > 64:
                found.add("rank_65")
            if isinstance(shape, list) and any(isinstance(n, int) and n >= 2**63 for n in shape):
                found.add("large_dimension")
    return found


class Generator:
    """Files that are good but for up to three changes."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def text(self, value):
        """A JSON text, some characters escaped that need not be."""
        out = json.dumps(value, ensure_ascii=self.random.random() < 0.5)
        if self.random.random() < 0.1:
            out = re.sub(r"[a-z](?=[^\\]*$)", lambda m: f"\\u{ord(m[0]):04x}", out, count=1)
        return out

    def name(self):
        r = self.random
        return r.choice(["a", "b", "weight", "", "ä", "名前", "😀", "a.b.c", 'q"', "back\\slash", "\n", "\x7f", "__metadata"])

    def number(self, value):
        r = self.random
        return str(value) if r.random() < 0.97 else r.choice(
            [f"{value}.0", f"{value}e0", f"-{value}", f"0{value}", f'"{value}"', "null", "true", "[]", str(value + 2**63),
             str(value + 2**64), str(2**62 + value), f"{value}E+0", "-0", "1e999"])

    def file(self):
        r = self.random
        tensors, at = [], 0
        names = set()
        for _ in range(r.choice([0, 1, 1, 2, 2, 3, 5])):
            name = self.name()
            if name in names and r.random() < 0.9:
                continue
            names.add(name)
            dtype = r.choice(list(DTYPES))
            shape = [r.choice([0, 1, 1, 2, 3, 4, 8]) for _ in range(r.choice([0, 1, 1, 2, 3]))]
            if r.random() < 0.004:
                shape = [1] * r.choice([63, 64, 65, 66])
            if r.random() < 0.02:
                shape.insert(r.randrange(len(shape) + 1), 0)
                shape.insert(r.randrange(len(shape) + 1), r.choice([2**31, 2**32, 2**60, 2**62, 2**63 - 1]))
            bits = DTYPES[dtype]
            for n in shape:
                bits *= n
            if bits % 8 and r.random() < 0.8:
                shape, bits = [*shape, 4], bits * 4
            size = min((bits + 7) // 8, 4096)
            tensors.append([name, dtype, shape, at, at + size])
            at += size
        size = at
        if r.random() < 0.15 and tensors:
            t = r.choice(tensors)
            place = r.choice([3, 4])
            t[place] = max(0, t[place] + r.choice([-1, 1, -8, 8, 2**32, 2**63, 2**64 - 1]))
        if r.random() < 0.05:
            size = max(0, size + r.choice([-1, 1, 7]))
        if r.random() < 0.1 and len(tensors) > 1:  # one tensor's data in another's place
            one, other = r.sample(tensors, 2)
            one[3:], other[3:] = other[3:], one[3:]
        if r.random() < 0.3:
            r.shuffle(tensors)
        members = []
        for name, dtype, shape, begin, end in tensors:
            if r.random() < 0.03:
                dtype = r.choice(["f32", "F31", "", "F320", "float", "Q8"])
            fields = [('"dtype"', self.text(dtype)),
                      ('"shape"', "[" + ",".join(self.number(n) for n in shape) + "]"),
                      ('"data_offsets"', "[" + ",".join(self.number(n) for n in (begin, end)) + "]")]
            if r.random() < 0.3:
                r.shuffle(fields)
            if r.random() < 0.02:
                fields.pop(r.randrange(3))
            if r.random() < 0.02:
                fields.append(r.choice(fields))
            if r.random() < 0.02:
                fields.append((r.choice(['"x"', '"Dtype"', '""']), r.choice(["1", "null", "[[]]", '{"a":{}}', "1.5e3"])))
            value = "{" + ",".join(k + ":" + v for k, v in fields) + "}"
            if r.random() < 0.01:
                value = r.choice(["null", "[]", "{}", '"F32"', "3", f'["F32",[{",".join(map(str, shape))}],[0,4]]'])
            members.append(self.text(name) + ":" + value)
        if r.random() < 0.2:
            pairs = [self.text(self.name()) + ":" + self.text(self.name()) for _ in range(r.choice([0, 1, 1, 2, 3]))]
            value = "{" + ",".join(pairs) + "}"
            if r.random() < 0.15:
                value = r.choice(["null", "[]", '""', "1", '{"a":1}', '{"a":null}', '{"a":{}}', "{1:2}"])
            members.insert(r.randrange(len(members) + 1), '"__metadata__":' + value)
            if r.random() < 0.02:
                members.append('"__metadata__":{}')
        header = "{" + ",".join(members) + "}"
        if r.random() < 0.1:
            header = re.sub(r"[,:\[\]{}]", lambda m: m[0] + r.choice(["", "", " ", "\n", "\t", "\r"]), header)
        header = header.encode("utf-8", "surrogatepass")
        if r.random() < 0.1:
            header += r.choice([b" ", b"    ", b"\n", b"\0", b"\0\0 ", b"x", b"{}", b",", b"\xc2\xa0", b"//"])
        if r.random() < 0.03:
            header = r.choice([b" ", b"\n", b"\xef\xbb\xbf", b"\0", b"["]) + header
        if r.random() < 0.12:  # any damage
            damaged = bytearray(header)
            for _ in range(r.choice([1, 1, 2])):
                place = r.randrange(len(damaged))
                damaged[place] = r.choice(b'0123456789[]{},:"\\a-. u\0\xff\xed\xa0e')
            header = bytes(damaged)
        length = len(header)
        if r.random() < 0.02:
            length = max(0, length + r.choice([-1, 1, 8, 2**32, 2**63, 10**8]))
        return struct.pack("<Q", length) + header + bytes(r.randrange(256) for _ in range(size))


def judge(names, files, verdicts):
    """Returns the number of differences that are not on purpose, and prints them."""
    wrong, good, differing = 0, 0, dict.fromkeys(STRICTER, 0)
    for name, data, verdict in zip(names, files, verdicts, strict=True):
        ours = json.loads(verdict) if verdict.startswith(b'{"') else None
        their = theirs(data)
        reasons = stricter(data) if len(data) >= 8 else set()
        good += ours is not None
        if ours is None and their is not None and reasons:
            for reason in reasons:
                differing[reason] += 1
        elif (ours is None) != (their is None) or (ours is not None and ours["tensors"] != their):
            wrong += 1
            print(f"{name}: ours {verdict[:200]}, the package's {str(their)[:200]}\n  {data[8:300]!r}")
        if ours is not None and reasons:
            wrong += 1
            print(f"{name}: we accept {reasons}\n  {data[8:300]!r}")
    print(f"{len(files)} files, {good} good: {wrong} unexpected differences; stricter: "
          + ", ".join(f"{k} {n}" for k, n in differing.items()))
    return wrong, {reason for reason, n in differing.items() if n > 0}


def check_written(build, seed, count):
    """Returns the number of files of our writer that the package reads otherwise than they were meant."""
    wrong = tensors = 0
    written = peer(build, "write", str(seed), str(count))
    assert len(written) == 2 * count
    for file, description in zip(written[::2], written[1::2], strict=True):
        want = json.loads(description)
        (length,) = struct.unpack_from("<Q", file)
        header = json.loads(file[8 : 8 + length])
        tensors += len(want["tensors"])
        aligned = length % 8 == 0 and all(
            header[name]["data_offsets"][0] % max(DTYPES[dtype] // 8, 1) == 0 for name, (dtype, _, _) in want["tensors"].items())
        if theirs(file) != want["tensors"] or header.get("__metadata__", {}) != want["metadata"] or not aligned:
            wrong += 1
            print(f"written: {description[:300]!r}\n  {file[8:300]!r}")
    print(f"{count} written files, {tensors} tensors: {wrong} read otherwise")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=pathlib.Path, help="build folder with test_io and safetensors_peer")
    parser.add_argument("--headers", type=int, default=100_000)
    parser.add_argument("--sets", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([options.build / "test_io", "--gtest_brief=1", "--gtest_filter=*CorpusForTheReference"], check=True,
                       stdout=subprocess.DEVNULL, env={**os.environ, "DIFFUSE_SAFETENSORS_CORPUS": folder})
        corpus = sorted(pathlib.Path(folder).iterdir())
        files = [path.read_bytes() for path in corpus]
        assert len(files) >= 59
        wrong, seen = judge([path.name for path in corpus], files, peer(options.build, "judge", files=files))
    generator = Generator(options.seed)
    files = [generator.file() for _ in range(options.headers)]
    more, also_seen = judge([f"header {i}" for i in range(len(files))], files, peer(options.build, "judge", files=files))
    wrong += more
    for reason in STRICTER.keys() - seen - also_seen:
        wrong += 1
        print(f"{reason}: not seen, or the package has become as strict")
    wrong += check_written(options.build, options.seed, options.sets)
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
