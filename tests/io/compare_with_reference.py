# SPDX-License-Identifier: MIT
"""Holds the verdicts of our safetensors reader against the Python package's (pip install safetensors).

    mkdir corpus && DIFFUSE_SAFETENSORS_CORPUS=corpus build/test_io --gtest_filter='*CorpusForTheReference'
    python tests/io/compare_with_reference.py corpus

We refuse more on purpose: what the format forbids and the package lets pass.
"""

import pathlib
import sys

from safetensors import SafetensorError, deserialize

STRICTER = {"duplicate_name", "duplicate_metadata_key", "unknown_field",
            "null_metadata", "rank_65", "leading_space"}

differences = 0
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    ours, name = path.name.split(".")
    try:
        deserialize(path.read_bytes())
        theirs = "good"
    except SafetensorError:
        theirs = "bad"
    if ours != theirs and name not in STRICTER:
        differences += 1
        print(f"{name}: ours {ours}, the package's {theirs}")
    if ours == theirs and name in STRICTER:
        print(f"{name}: the package has become as strict")
print(f"{differences} unexpected differences")
sys.exit(differences > 0)
