# SPDX-License-Identifier: MIT
"""Writes tests/io/fixtures with the Python safetensors package (pip install numpy safetensors==0.8.0)."""

import pathlib

import numpy as np
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import save_file

FOLDER = pathlib.Path(__file__).parent / "fixtures"

# Element k of every tensor is 3 k - 4 (as far as its type can hold it; BOOL: k is odd).
DTYPES = ["bool", "uint8", "int8", "int16", "uint16", "float16", "int32", "uint32", "float32",
          "int64", "uint64", "float64"]


def values(dtype, shape):
    k = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    return np.asarray(k % 2 == 1 if dtype == "bool" else 3 * k - 4).astype(dtype)


FOLDER.mkdir(exist_ok=True)
tensors = {f"t.{d}": values(d, (2, 3)) for d in DTYPES}
tensors["scalar"] = values("float32", ())
tensors["empty"] = values("float32", (0, 5))
tensors["naïve 名前 \"quoted\"\n"] = values("uint8", (3,))
save_file(tensors, str(FOLDER / "python.safetensors"), metadata={"format": "np", "ключ": "значение"})

# bfloat16 is the upper half of a float32; NumPy has no such type.
upper = (np.array([1.0, -2.5, 3.0e38], np.float32).view(np.uint32) >> 16).astype(np.uint16)
spec = TensorSpec(dtype="bfloat16", shape=upper.shape, data_ptr=upper.ctypes.data, data_len=upper.nbytes)
serialize_file({"b": spec}, str(FOLDER / "python_bf16.safetensors"), None)
