#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes data/digits: the 1,797 handwritten digits of scikit-learn as PNG files in ten class folders.

Needs scikit-learn and Pillow. The files are the same bytes on every run with the same zlib.
"""
import pathlib
import shutil

import numpy
from PIL import Image
from sklearn.datasets import load_digits

folder = pathlib.Path(__file__).resolve().parent.parent / "data" / "digits"
digits = load_digits()
# Grey levels 0 to 16 become 0 to 255, rounded half up; 0 is the paper, so strokes are bright on black.
levels = numpy.floor(digits.images * 255 / 16 + 0.5).astype(numpy.uint8)
shutil.rmtree(folder, ignore_errors=True)
for index, (picture, label) in enumerate(zip(levels, digits.target)):
    path = folder / str(label) / f"{index:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, compress_level=9)
print(f"{len(levels)} pictures in {folder}")
