#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Training throughput beside diffusers on the same machine, as ratios.

usage: bench_peers.py [--network A|S|Q]... [--blocks N] [--seconds S] [--diffuse PATH]

Both sides do the same step on the same network (equal parameter counts, else an error): draw t and noise, forward,
MSE, backward, clipping at norm 1, AdamW, EMA, in float32 on all cores. diffusers runs as its example trains: eager,
contiguous, torch.optim.AdamW, its EMAModel. Blocks alternate (ours, theirs, theirs, ours); a block is a few seconds of
steps after a warm-up. Printed: images a second of each block's median, and the median, lowest and highest ratio.

Needs a Python with the packages of scripts/requirements-peers.txt, and a quiet machine.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# name: (size, channels, batch, widths, down blocks, up blocks, attention heights)
NETWORKS = {
    "A": (32, 3, 16, (64, 128, 128), "DAA", "AAU", "[16, 8]"),
    "S": (16, 1, 64, (32, 64), "DA", "AU", "[8]"),
    "Q": (8, 1, 128, (32, 64), "DA", "AU", "[4]"),
}
BLOCKS = {"D": "DownBlock2D", "U": "UpBlock2D"}


def write_pictures(folder, size, channels, count=256):
    """Random pictures: the cost of a step does not depend on what they show."""
    import numpy
    from PIL import Image

    rng = numpy.random.default_rng(0)
    for i in range(count):
        shape = (size, size) if channels == 1 else (size, size, channels)
        Image.fromarray(rng.integers(0, 256, shape, dtype=numpy.uint8)).save(folder / f"{i:04}.png")


class Diffusers:
    """The training step of diffusers' unconditional example."""

    def __init__(self, size, channels, batch, widths, down, up, _):
        import torch
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel

        torch.set_num_threads(os.cpu_count())
        self.torch, self.batch = torch, batch
        self.shape = (batch, channels, size, size)
        self.model = UNet2DModel(
            sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=2,
            block_out_channels=widths,
            down_block_types=tuple(BLOCKS.get(b, "AttnDownBlock2D") for b in down),
            up_block_types=tuple(BLOCKS.get(b, "AttnUpBlock2D") for b in up))
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.ema = EMAModel(self.model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=1e-6)
        self.pictures = torch.rand(256, channels, size, size) * 2 - 1
        self.step()

    def step(self):
        torch = self.torch
        x = self.pictures[torch.randint(0, 256, (self.batch,))]
        noise = torch.randn(self.shape)
        t = torch.randint(0, 1000, (self.batch,))
        output = self.model(self.scheduler.add_noise(x, noise, t), t).sample
        loss = torch.nn.functional.mse_loss(output, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        loss.item()

    def block(self, seconds):
        rates, end = [], time.monotonic() + seconds
        while time.monotonic() < end or len(rates) < 3:
            start = time.monotonic()
            self.step()
            rates.append(self.batch / (time.monotonic() - start))
        return statistics.median(rates)


class Ours:
    def __init__(self, program, pictures, size, channels, batch, widths, down, up, attention):
        base = widths[0]
        self.words = [
            program, "train", str(pictures / "config.yaml"), "--progress", "none", "--resume", "never",
            *(word for value in (
                f"data.size={size}", f"data.channels={channels}", f"model.base_channels={base}",
                f"model.channel_mult=[{', '.join(str(w // base) for w in widths)}]",
                f"model.attention_at={attention}", f"train.batch={batch}", "train.steps=1000000",
                "optim.weight_decay=1e-6", "log.every_steps=1", "log.tensorboard=false", "log.plots=false",
                "sample.every_steps=0", "checkpoint.every_steps=1000000", "checkpoint.every_minutes=0")
              for word in ("--set", value))]
        (pictures / "config.yaml").write_text("version: 1\ndata: {path: ., size: 8}\n")

    def block(self, seconds):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            words = [*self.words, "--run-dir", str(run), "--stop-after", f"{int(seconds) + 3}s"]
            outcome = subprocess.run(words, capture_output=True, text=True)
            if outcome.returncode != 75:
                sys.exit(f"diffuse ended with {outcome.returncode}:\n{outcome.stderr}")
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            log = (run / "log.txt").read_text()
        self.parameters = int(log.split(" parameters")[0].split()[-1])
        return statistics.median(row["img_s"] for row in rows[2:])  # the first steps warm up


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--blocks", type=int, default=6, help="blocks of each side (default 6)")
    parser.add_argument("--seconds", type=float, default=6, help="length of a block (default 6)")
    parser.add_argument("--diffuse", default=str(ROOT / "build/diffuse"))
    options = parser.parse_args()
    if os.getloadavg()[0] > 0.3 * os.cpu_count():
        print(f"warning: load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: the figures will be noisy",
              file=sys.stderr)

    import diffusers
    import torch

    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, diffusers {diffusers.__version__}")
    print("network parameters  diffuse img/s  diffusers img/s  ratio: median (lowest to highest)")
    for name in options.network or NETWORKS:
        spec = NETWORKS[name]
        with tempfile.TemporaryDirectory() as folder:
            pictures = Path(folder)
            write_pictures(pictures, spec[0], spec[1])
            theirs, ours = Diffusers(*spec), Ours(options.diffuse, pictures, *spec)
            rates = {ours: [], theirs: []}
            for i in range(options.blocks):
                for side in (ours, theirs) if i % 2 == 0 else (theirs, ours):
                    rates[side].append(side.block(options.seconds))
            if ours.parameters != theirs.parameters:
                sys.exit(f"network {name}: {ours.parameters} and {theirs.parameters} parameters: not the same network")
        ratios = [a / b for a, b in zip(rates[ours], rates[theirs])]
        print(f"{name:7} {theirs.parameters:10} {statistics.median(rates[ours]):14.1f} "
              f"{statistics.median(rates[theirs]):16.1f}  {statistics.median(ratios):.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()
