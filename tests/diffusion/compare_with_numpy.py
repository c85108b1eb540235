# SPDX-License-Identifier: MIT
"""Compares our objective's numbers with those of the papers, in NumPy and float64.

    build/numerics_dump | python tests/diffusion/compare_with_numpy.py

Written from Ho et al. 2020 (DDPM), Nichol & Dhariwal 2021 (iDDPM) and the papers of the targets and weightings; it
shares nothing with the C++ code. Runs with `scripts/test --all`.
"""

import json
import math
import sys

import numpy as np

ours = json.load(sys.stdin)
worst: dict[str, float] = {}
failures = 0


def compare(what: str, got, expected, rtol: float, atol: float = 1e-300) -> None:
    """`worst` is in units of the tolerance."""
    global failures
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, what
    error = float(np.max(np.abs(got - expected) / (rtol * np.abs(expected) + atol)))
    kind = what.split(":")[0]
    worst[kind] = max(worst.get(kind, 0.0), error)
    if not error <= 1:
        failures += 1
        print(f"{what}: {error:.3g} times the tolerance")


def betas(schedule: str, steps: int) -> np.ndarray:
    if schedule == "linear":  # DDPM section 4, at any length as in iDDPM's code
        return np.linspace(1e-4, 0.02, steps) * (1000 / steps)
    u = np.arange(steps + 1) / steps  # iDDPM eq. 17
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


class Chain:
    """DDPM eq. 4 and 7."""

    def __init__(self, schedule: str, steps: int):
        self.beta = betas(schedule, steps)
        self.bar = np.cumprod(1 - self.beta)
        self.before = np.append(1.0, self.bar[:-1])
        self.posterior = self.beta * (1 - self.before) / (1 - self.bar)
        self.c1 = self.beta * np.sqrt(self.before) / (1 - self.bar)
        self.c2 = (1 - self.before) * np.sqrt(1 - self.beta) / (1 - self.bar)
        self.clipped = np.append(self.posterior[1], self.posterior[1:])  # as iDDPM's code


for row in ours["chains"]:
    chain = Chain(row["schedule"], row["steps"])
    name = f"{row['schedule']} {row['steps']}"
    # beta = 1 - f(t+1)/f(t) is right to 4e-16; the posterior divides by 1 - alpha_bar, down to 1e-5.
    compare(f"beta: {name}", row["beta"], chain.beta, 1e-15, 4e-16)
    compare(f"alpha_bar: {name}", row["alpha_bar"], chain.bar, 1e-12)
    for key, expected in (("posterior_variance", chain.posterior), ("posterior_mean_x0", chain.c1),
                          ("posterior_mean_xt", chain.c2), ("fixed_small", chain.clipped),
                          ("fixed_large", np.append(chain.clipped[0], chain.beta[1:]))):
        compare(f"{key}: {name}", row[key], expected, 1e-11)


def cdf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2


def decoder(x: np.ndarray, mean: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """DDPM eq. 13 with 256 levels, in nats. The difference is taken in the lower tail."""
    inverse = np.exp(-log_variance / 2)
    low, high = (x - mean - 1 / 255) * inverse, (x - mean + 1 / 255) * inverse
    low, high = np.where(x < -0.999, -np.inf, low), np.where(x > 0.999, np.inf, high)
    swap = low + high > 0
    low, high = np.where(swap, -high, low), np.where(swap, -low, high)
    return -np.log(cdf(high) - cdf(low))


def kl(mean1, log_variance1, mean2, log_variance2):
    return 0.5 * (-1 + log_variance2 - log_variance1 + np.exp(log_variance1 - log_variance2)
                  + (mean1 - mean2) ** 2 * np.exp(-log_variance2))


case = ours["losses"]
chain = Chain(case["schedule"], case["steps"])
t = np.array(case["t"])
shape = (case["pictures"], 3, 2, 2)


def picture(values) -> np.ndarray:
    return np.array(values).reshape(shape)


def at(values: np.ndarray) -> np.ndarray:
    return values[t][:, None, None, None]


x0, eps = picture(case["x0"]), picture(case["eps"])
bar, beta, c1, c2 = at(chain.bar), at(chain.beta), at(chain.c1), at(chain.c2)
alpha, sigma, snr = np.sqrt(bar), np.sqrt(1 - bar), bar / (1 - bar)
z = alpha * x0 + sigma * eps
SIGMA_DATA = 0.5
k = sigma / alpha  # Karras et al.'s sigma
total = k**2 + SIGMA_DATA**2

# target -> (what the network should give, x0 from what it gives)
TARGETS = {
    "epsilon": (eps, lambda f: (z - sigma * f) / alpha),
    "x0": (x0, lambda f: f),
    "velocity": (alpha * eps - sigma * x0, lambda f: alpha * z - sigma * f),
    "score": (-eps / sigma, lambda f: (z + sigma**2 * f) / alpha),
    "flow": (eps - x0, lambda f: (z - sigma * f) / (alpha + sigma)),
    "mu": (c1 * x0 + c2 * z, lambda f: (f - c2 * z) / c1),
    "edm": ((x0 - SIGMA_DATA**2 / total * z / alpha) * np.sqrt(total) / (k * SIGMA_DATA),
            lambda f: SIGMA_DATA**2 / total * z / alpha + k * SIGMA_DATA / np.sqrt(total) * f),
}
# weighting -> (the published number, which error it multiplies)
POSTERIOR = at(chain.clipped)
WEIGHTINGS = {
    "snr": (1.0, "epsilon"),
    "min_snr": (np.minimum(snr, 5), "x0"),
    "soft_min_snr": (1 / (k**2 + 0.25), "x0"),
    "truncated_snr": (np.maximum(snr, 1), "x0"),
    "p2": (1 / (1 + snr), "epsilon"),
    "debiased": (1 / np.sqrt(snr), "epsilon"),
    "edm": (total / (k * SIGMA_DATA) ** 2, "x0"),
    "sigmoid": (1 / (1 + snr), "epsilon"),
}

for c in case["cases"]:
    name = f"{c['target']} {c['weighting']} {c['variance']}"
    right, to_x0 = TARGETS[c["target"]]
    output = picture(c["output"])
    x_hat = to_x0(output)
    raw = ((output - right) ** 2).mean((1, 2, 3))
    # Coefficients are rounded to float32 once: 6e-8 of the output, whose error is a tenth of it; squared.
    compare(f"raw: {name}", c["raw"], raw, 2e-6)

    if c["variance"] == "fixed_small":
        log_variance = np.log(at(chain.clipped)) + 0 * x0
    elif c["variance"] == "fixed_large":
        log_variance = np.log(at(np.append(chain.clipped[0], chain.beta[1:]))) + 0 * x0
    elif c["variance"] == "learned":
        log_variance = picture(case["v"]) - 6
    else:  # iDDPM eq. 15
        share = (picture(case["v"]) + 1) / 2
        log_variance = share * np.log(beta) + (1 - share) * np.log(POSTERIOR)

    if c["weighting"] == "simple":
        weighted = raw
    elif c["weighting"] == "vlb":  # DDPM eq. 12, on the noise; a learned variance counts as beta~
        fixed = log_variance if c["variance"].startswith("fixed") else np.log(POSTERIOR)
        weight = beta**2 / (2 * np.exp(fixed) * (1 - beta) * (1 - bar))
        weighted = (weight * ((z - alpha * x_hat) / sigma - eps) ** 2).mean((1, 2, 3))
    else:
        weight, on = WEIGHTINGS[c["weighting"]]
        error = x_hat - x0 if on == "x0" else (z - alpha * x_hat) / sigma - eps
        weighted = (weight * error**2).mean((1, 2, 3))

    bound = kl(c1 * x0 + c2 * z, np.log(POSTERIOR), c1 * x_hat + c2 * z, log_variance)
    first = t == 0
    bound[first] = decoder(x0[first], x_hat[first], log_variance[first])
    bits = bound.mean((1, 2, 3)) / math.log(2)
    # Logarithms of variances are up to 16, so float32 leaves 1e-6 of a variance.
    compare(f"bound: {name}", c["bound"], bits, 4e-6, 1e-7)
    if not c["variance"].startswith("fixed"):  # iDDPM eq. 16: lambda = 0.001 of T terms, in bits
        weighted = weighted + 0.001 * case["steps"] * bits
    compare(f"weighted: {name}", c["weighted"], weighted, 4e-6, 1e-7)

# iDDPM eq. 18: the last 10 losses, 0.001 of it uniform.
case = ours["importance"]
last = np.array(case["losses"]).reshape(13, case["bins"])[3:]
p = np.sqrt((last**2).mean(0))
p = 0.999 * p / p.sum() + 0.001 / case["bins"]
compare("importance: probabilities", case["probabilities"], p, 1e-12)
compare("importance: weights", [d["weight"] for d in case["draws"]],
        [1 / (case["bins"] * p[d["bin"]]) for d in case["draws"]], 1e-12)

for kind, error in worst.items():
    print(f"{kind:20} worst {error:.2g} of its tolerance")
print(f"{failures} differences")
sys.exit(failures > 0)
