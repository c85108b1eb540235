#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The training step, or the sampling, of `diffuse bench` in diffusers and plain PyTorch.

usage: bench_peer.py train|sample --network NAME [--style STYLE] [--count N] [--steps N] [--wait]

Prints what `diffuse bench --wait` prints: a line of JSON about itself, then for each line of stdin one about a block.
The step is the same: draw pictures, flip, draw t and noise, forward, loss, backward, clipping at norm 1, AdamW, EMA.
Styles: shipped is diffusers' example as it stands (eager, float32, contiguous, its EMAModel); the others change what is
named. `best` is the fastest step in float32 that this script knows how to write, `best_bf16` in bfloat16: compiled,
channels-last where that helps, fused AdamW, averages and clipping by _foreach calls.

Needs a Python with the packages of scripts/requirements-peers.txt.
"""
import argparse
import json
import os
import resource
import sys
import time

# name: (size, channels, batch, widths, down blocks, up blocks); scripts/bench_compare has the same for diffuse
NETWORKS = {
    "A": (32, 3, 16, (64, 128, 128), "DAA", "AAU"),
    "S": (16, 1, 64, (32, 64), "DA", "AU"),
    "Q": (8, 1, 128, (32, 64), "DA", "AU"),
    "cifar10": (32, 3, 128, (128, 256, 256, 256), "DADD", "UUAU"),
}
BLOCKS = {"D": "DownBlock2D", "U": "UpBlock2D"}

# style: (channels_last, bf16, fused optimizer, compile)
STYLES = {
    "shipped": (False, False, False, False),
    "channels_last": (True, False, False, False),
    "bf16": (False, True, False, False),
    "bf16_channels_last": (True, True, False, False),
    "fused_adamw": (False, False, True, False),
    "compile": (False, False, False, True),
    "best": (False, False, True, True),
    "best_bf16": (True, True, True, True),
}


def make_model(size, channels, widths, down, up):
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=2, block_out_channels=widths,
        down_block_types=tuple(BLOCKS.get(b, "AttnDownBlock2D") for b in down),
        up_block_types=tuple(BLOCKS.get(b, "AttnUpBlock2D") for b in up))


def macs_of(model, size, channels):
    """Multiply-accumulates of convolutions and matrix products for one picture, forward."""
    import logging

    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # "triton not found"
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    # The counter does not know the CPU's fused attention; as plain products it is counted.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, channels, size, size, device=device), torch.zeros(1, device=device))
    return counter.get_total_flops() // 2


class Step:
    """One training step after another."""

    def __init__(self, network, style, device):
        import torch
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        self.torch, self.device = torch, device
        size, channels, self.batch, widths, down, up = NETWORKS[network]
        channels_last, self.bf16, self.fused, compiled = STYLES[style]
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = make_model(size, channels, widths, down, up).to(device, memory_format=self.format)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.macs = macs_of(self.model, size, channels)
        self.weights = list(self.model.parameters())
        self.run = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.weights, lr=1e-4, weight_decay=1e-6, fused=self.fused or None)
        if self.fused:
            self.averages, self.steps = [w.detach().clone() for w in self.weights], 0
        else:
            self.ema = EMAModel(self.weights, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000)
        self.pictures = torch.randint(0, 256, (1024, channels, size, size), dtype=torch.uint8, device=device)

    def __call__(self):
        torch = self.torch
        x = self.pictures[torch.randint(0, 1024, (self.batch,), device=self.device)]
        flip = torch.rand(self.batch, 1, 1, 1, device=self.device) < 0.5
        x = torch.where(flip, x.flip(-1), x).float().div_(127.5).sub_(1).contiguous(memory_format=self.format)
        noise = torch.randn_like(x)
        t = torch.randint(0, 1000, (self.batch,), device=self.device)
        noisy = self.scheduler.add_noise(x, noise, t)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = self.run(noisy, t).sample
            loss = torch.nn.functional.mse_loss(output.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0, foreach=self.fused or None)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.fused:
            self.steps += 1
            decay = min(0.9999, 1 - (1 + self.steps) ** -0.75)
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        else:
            self.ema.step(self.weights)
        loss.item()


class Sampling:
    """Pictures of random weights by diffusers' pipeline."""

    def __init__(self, network, count, steps, device):
        from diffusers import DDPMPipeline, DDPMScheduler

        size, channels, _, widths, down, up = NETWORKS[network]
        model = make_model(size, channels, widths, down, up).to(device).eval()
        self.parameters = sum(p.numel() for p in model.parameters())
        self.macs = macs_of(model, size, channels)
        self.pipeline = DDPMPipeline(model, DDPMScheduler(num_train_timesteps=1000)).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.batch, self.steps = count, steps

    def __call__(self, steps=None):
        self.pipeline(batch_size=self.batch, num_inference_steps=steps or self.steps, output_type="np")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "sample"])
    parser.add_argument("--network", choices=NETWORKS, required=True)
    parser.add_argument("--style", choices=STYLES, default="shipped")
    parser.add_argument("--count", type=int, default=64, help="pictures of a block of sampling (default 64)")
    parser.add_argument("--steps", type=int, help="training steps of a block (default: 5 s), or steps of the sampler")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--wait", action="store_true", help="a block for each line of stdin")
    options = parser.parse_args()

    import diffusers
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    device = torch.device(options.device)
    if options.what == "train":
        step = Step(options.network, options.style, device)
        for _ in range(3):
            step()
        start = time.monotonic()
        step()
        steps = options.steps or max(2, int(5 / (time.monotonic() - start) + 0.999))

        def block():
            for _ in range(steps):
                step()
            return steps * step.batch
    else:
        step = Sampling(options.network, options.count, options.steps or 100, device)
        step(2)
        steps = step.steps

        def block():
            step()
            return step.batch

    about = {"what": options.what, "style": options.style, "network": options.network, "batch": step.batch,
             "steps": steps, "parameters": step.parameters, "macs": step.macs, "torch": torch.__version__,
             "diffusers": diffusers.__version__, "threads": torch.get_num_threads(), "device": options.device}
    print(json.dumps(about), flush=True)
    for _ in sys.stdin if options.wait else range(options.blocks):
        start, cpu = time.monotonic(), time.process_time()
        pictures = block()
        if device.type == "cuda":
            torch.cuda.synchronize()
        wall = time.monotonic() - start
        print(json.dumps({"wall_s": wall, "cpu_s": time.process_time() - cpu, "images_per_second": pictures / wall,
                          "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}), flush=True)


if __name__ == "__main__":
    main()
