#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Frechet distance between two folders of pictures, over their pixels: no learned features.

fd       |mean_1 - mean_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)) of the two Gaussians (Dowson & Landau 1982) over
         pixels in [0, 1], with the unbiased covariance
fd_half  the mean fd of halves: 898 of the samples against 899 of the real pictures for 1797 of them, over 20 seeds
floor    the same with two disjoint halves of the real pictures: what perfect samples would score
copies   the share of samples nearer to a real picture than 1% of the real pictures are to another

usage: scripts/frechet.py REAL_DIR SAMPLES_DIR [--half] [--json]
       scripts/frechet.py --self-test
needs: pip install -r scripts/requirements-test.txt
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SEEDS = 20


def gaussian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))


def root(matrix: np.ndarray) -> np.ndarray:
    """The root of a symmetric positive semidefinite matrix; rounding below zero is cut off."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """x, y: [pictures, pixels]."""
    (mean_x, cov_x), (mean_y, cov_y) = gaussian(x), gaussian(y)
    # (C_x C_y)^(1/2) and (C_x^(1/2) C_y C_x^(1/2))^(1/2) have the same trace; the latter is symmetric.
    root_x = root(cov_x)
    cross = np.linalg.eigvalsh(root_x @ cov_y @ root_x)
    trace = np.trace(cov_x) + np.trace(cov_y) - 2 * np.sqrt(np.maximum(cross, 0)).sum()
    return float(((mean_x - mean_y) ** 2).sum() + trace)


def halves(real: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """fd of a random half of the samples against a random half of the real pictures, one a seed."""
    out = []
    for seed in range(SEEDS):
        rng = np.random.RandomState(seed)  # its stream is frozen, so figures stay comparable
        r = rng.permutation(len(real))[len(real) // 2 :]
        s = rng.permutation(len(samples))[: len(samples) // 2]
        out.append(frechet(real[r], samples[s]))
    return np.array(out)


def floor(real: np.ndarray) -> np.ndarray:
    out = []
    for seed in range(SEEDS):
        order = np.random.RandomState(seed).permutation(len(real))
        half = len(real) // 2
        out.append(frechet(real[order[:half]], real[order[half:]]))
    return np.array(out)


def nearest(x: np.ndarray, real: np.ndarray, itself: bool) -> np.ndarray:
    """Each row's distance to the nearest real picture; `itself`: other than the row of the same index."""
    out = np.empty(len(x))
    for i, row in enumerate(x):
        squared = ((real - row) ** 2).sum(axis=1)
        if itself:
            squared[i] = np.inf
        out[i] = np.sqrt(squared.min())
    return out


def copies(real: np.ndarray, samples: np.ndarray) -> float:
    limit = np.percentile(nearest(real, real, itself=True), 1)
    return float((nearest(samples, real, itself=False) < limit).mean())


def read_folder(folder: str) -> tuple[np.ndarray, tuple]:
    """All PNG files below `folder` as [pictures, pixels] in [0, 1], and the shape of one."""
    files = sorted(Path(folder).rglob("*.png"))
    if len(files) < 3:
        sys.exit(f"error: {folder} holds {len(files)} PNG files; single pictures are needed, not a grid "
                 "(diffuse sample --singles)")
    pictures, first = [], None
    for file in files:
        with Image.open(file) as image:
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"), dtype=np.float64) / 255
        if first is None:
            first = (file, pixels.shape)
        elif pixels.shape != first[1]:
            sys.exit(f"error: {file} is {pixels.shape}, {first[0]} is {first[1]}: one folder, one kind of picture")
        pictures.append(pixels.ravel())
    return np.stack(pictures), first[1]


def self_test() -> None:
    rng = np.random.default_rng(1)

    def exact(mean: np.ndarray, cov: np.ndarray, n: int = 500) -> np.ndarray:
        """n points whose sample mean and unbiased covariance are `mean` and `cov` to rounding."""
        z = rng.standard_normal((n, len(mean)))
        z -= z.mean(axis=0)
        z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T
        return z @ np.linalg.cholesky(cov).T + mean

    def close(name: str, got: float, wanted: float) -> None:
        # Roots of eigenvalues near zero lose half the digits: sqrt(eps) for each dimension.
        assert abs(got - wanted) <= 1e-6 * max(1.0, abs(wanted)), f"{name}: {got} is not {wanted}"

    d = 8
    eye = np.eye(d)
    a, b = rng.standard_normal(d), rng.standard_normal(d)
    close("equal", frechet(exact(a, eye), exact(a, eye)), 0)
    close("means", frechet(exact(a, eye), exact(b, eye)), ((a - b) ** 2).sum())
    # Commuting covariances: the sum of squared differences of the standard deviations.
    s, t = rng.uniform(0.5, 2, d), rng.uniform(0.5, 2, d)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    x, y = exact(a, turn @ np.diag(s**2) @ turn.T), exact(b, turn @ np.diag(t**2) @ turn.T)
    close("commuting", frechet(x, y), ((a - b) ** 2).sum() + ((s - t) ** 2).sum())
    # Two dimensions, not commuting: tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)).
    p, q = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    cross = np.sqrt(np.trace(p @ q) + 2 * np.sqrt(np.linalg.det(p @ q)))
    zero = np.zeros(2)
    close("2x2", frechet(exact(zero, p), exact(zero, q)), np.trace(p) + np.trace(q) - 2 * cross)
    close("symmetric", frechet(x, y), frechet(y, x))
    # A pixel that never changes: singular covariances.
    flat = lambda points: np.hstack([points, np.full((len(points), 1), 0.25)])
    close("singular", frechet(flat(x), flat(y)), frechet(x, y))
    real = rng.uniform(size=(300, 64))
    assert copies(real, real[:30]) == 1 and copies(real, real[:30] + 10) == 0, "copies"
    assert (halves(real, real[:200]) > 0).all() and len(floor(real)) == SEEDS, "halves"
    print("frechet.py: all closed forms agree")


def main() -> int:
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real")
    parser.add_argument("samples")
    parser.add_argument("--half", action="store_true", help="also fd_half and the floor")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    real, shape = read_folder(arguments.real)
    samples, other = read_folder(arguments.samples)
    if shape != other:
        sys.exit(f"error: {arguments.real} has pictures of {shape}, {arguments.samples} of {other}")
    out = {"real": len(real), "samples": len(samples), "fd": frechet(real, samples), "copies": copies(real, samples)}
    if arguments.half:
        half, low = halves(real, samples), floor(real)
        out |= {"fd_half": half.mean(), "fd_half_sd": half.std(), "floor": low.mean(), "floor_sd": low.std()}
    if arguments.json:
        print(json.dumps({key: float(value) if isinstance(value, np.floating) else value for key, value in out.items()}))
    else:
        for key, value in out.items():
            print(f"{key:11} {value if isinstance(value, int) else format(value, '.4f')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
