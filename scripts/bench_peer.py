#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The training step, or the sampling, of `diffuse bench` in diffusers and plain PyTorch.

usage: bench_peer.py train|sample --network NAME [--style STYLE] [--batch N] [--count N] [--steps N] [--wait]
       bench_peer.py data --folder FOLDER --size N --workers N [--wait]
       bench_peer.py make --out FOLDER
       bench_peer.py quickstart --out FOLDER [--steps N]

Prints what `diffuse bench --wait` prints: a line of JSON about itself, then for each line of stdin one about a block.
The step is the same: draw pictures, flip, draw t and noise, forward, loss, backward, clipping at norm 1, AdamW, EMA.
Styles: shipped is diffusers' example as it stands (eager, float32, contiguous, its EMAModel, the loss read each step);
the others change what is named and leave the loss on the device. `best` is the fastest step in float32 that this script
knows how to write, `best_bf16` in bfloat16: compiled, channels-last where that helps, fused AdamW, averages and
clipping by _foreach calls, cuDNN's algorithms chosen by measurement. For GPUs: max_autotune is best_bf16 compiled with
that mode, which makes CUDA graphs of forward and backward; graph is compiled without these and captures the whole step,
from the draw of the pictures to the averages, as one CUDA graph.

data reads, decodes and resizes pictures by Pillow, in as many processes (0: this one). make draws the folders of
pictures that scripts/bench_compare measures on.
quickstart is the training of configs/digits.yaml as diffusers' example does it, from reading the pictures to the saved
pipeline.

Needs a Python with the packages of scripts/requirements-peers.txt.
"""
import argparse
import json
import os
import resource
import sys
import time
import typing

# name: (size, channels, batch, widths, down blocks, up blocks, more options of UNet2DModel); scripts/bench_compare has
# the same for diffuse
NETWORKS = {
    "A": (32, 3, 16, (64, 128, 128), "DAA", "AAU", {}),
    "S": (16, 1, 64, (32, 64), "DA", "AU", {}),
    "Q": (8, 1, 128, (32, 64), "DA", "AU", {}),
    "cifar10": (32, 3, 128, (128, 256, 256, 256), "DADD", "UUAU",
                {"attention_head_dim": 256, "dropout": 0.1, "norm_eps": 1e-6, "flip_sin_to_cos": False, "freq_shift": 1,
                 "downsample_padding": 0}),
}
BLOCKS = {"D": "DownBlock2D", "U": "UpBlock2D"}


class Style(typing.NamedTuple):
    channels_last: bool = False
    bf16: bool = False
    fused: bool = False  # AdamW, and averages and clipping by _foreach calls
    mode: typing.Optional[str] = None  # of torch.compile; None: eager
    tuned: bool = False  # cuDNN's algorithms
    graph: bool = False


STYLES = {
    "shipped": Style(),
    "channels_last": Style(channels_last=True),
    "bf16": Style(bf16=True),
    "bf16_channels_last": Style(channels_last=True, bf16=True),
    "fused_adamw": Style(fused=True),
    "compile": Style(mode="default"),
    "best": Style(fused=True, mode="default", tuned=True),
    "best_bf16": Style(True, True, True, "default", True),
    "max_autotune": Style(True, True, True, "max-autotune", True),
    "graph": Style(True, True, True, "max-autotune-no-cudagraphs", True, graph=True),
}


def make_model(network):
    from diffusers import UNet2DModel

    size, channels, _, widths, down, up, more = NETWORKS[network]
    return UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=2, block_out_channels=widths,
        down_block_types=tuple(BLOCKS.get(b, "AttnDownBlock2D") for b in down),
        up_block_types=tuple(BLOCKS.get(b, "AttnUpBlock2D") for b in up), **more)


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

    def __init__(self, network, style, device, batch=None):
        import torch
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel

        self.torch, self.device, self.style, self.reads_loss = torch, device, STYLES[style], style == "shipped"
        size, channels, usual = NETWORKS[network][:3]
        self.batch = batch or usual
        torch.backends.cudnn.benchmark = self.style.tuned
        self.format = torch.channels_last if self.style.channels_last else torch.contiguous_format
        self.model = make_model(network).to(device, memory_format=self.format)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.macs = macs_of(self.model, size, channels)
        self.weights = list(self.model.parameters())
        self.run = self.model
        if self.style.mode:
            self.run = torch.compile(self.model, mode=self.style.mode, fullgraph=True)
        fused = self.style.fused or None
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=1e-4, weight_decay=1e-6, fused=fused, capturable=self.style.graph)
        if self.style.fused:
            self.averages, self.steps = [w.detach().clone() for w in self.weights], 0
        else:
            self.ema = EMAModel(self.weights, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000)
        self.pictures = torch.randint(0, 256, (1024, channels, size, size), dtype=torch.uint8, device=device)
        self.losses = torch.zeros((), device=device)
        self.graph = self.captured() if self.style.graph else None

    def captured(self):
        """The step as a CUDA graph, after steps on another stream that compile, tune and make the optimizer's state."""
        cuda = self.torch.cuda
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for _ in range(5):
                self.step()
        cuda.current_stream().wait_stream(stream)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):  # the gradients are None here, so they are made in the graph's own memory
            self.step()
        return graph

    def __call__(self):
        self.graph.replay() if self.graph else self.step()

    def step(self):
        torch = self.torch
        if self.style.mode == "max-autotune" and self.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        x = self.pictures[torch.randint(0, 1024, (self.batch,), device=self.device)]
        flip = torch.rand(self.batch, 1, 1, 1, device=self.device) < 0.5
        x = torch.where(flip, x.flip(-1), x).float().div_(127.5).sub_(1).contiguous(memory_format=self.format)
        noise = torch.randn_like(x)
        t = torch.randint(0, 1000, (self.batch,), device=self.device)
        noisy = self.scheduler.add_noise(x, noise, t)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.style.bf16):
            output = self.run(noisy, t).sample
            loss = torch.nn.functional.mse_loss(output.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0, foreach=self.style.fused or None)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.style.fused:
            self.steps += 1
            # A graph has its numbers from when it was captured, so there the average does without its warm-up.
            decay = 0.9999 if self.style.graph else min(0.9999, 1 - (1 + self.steps) ** -0.75)
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        else:
            self.ema.step(self.weights)
        if self.reads_loss:
            loss.item()
        else:
            self.losses += loss.detach()


class Sampling:
    """Pictures of random weights by diffusers' pipeline."""

    def __init__(self, network, count, steps, device):
        from diffusers import DDPMPipeline, DDPMScheduler

        size, channels = NETWORKS[network][:2]
        model = make_model(network).to(device).eval()
        self.parameters = sum(p.numel() for p in model.parameters())
        self.macs = macs_of(model, size, channels)
        self.pipeline = DDPMPipeline(model, DDPMScheduler(num_train_timesteps=1000)).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.batch, self.steps = count, steps

    def __call__(self, steps=None):
        self.pipeline(batch_size=self.batch, num_inference_steps=steps or self.steps, output_type="np")


def decode(path, size):
    """The sum of the bytes of a picture as diffuse takes it in: RGB, the middle, resized."""
    import numpy
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = file.convert("RGB")
    return int(numpy.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)).sum(dtype=numpy.int64))


class Decoding:
    """At most 4,096 pictures of a folder, spread evenly, again and again for about a second."""

    def __init__(self, folder, size, workers):
        import functools
        import multiprocessing
        from pathlib import Path

        names = sorted((p for p in Path(folder).rglob("*") if p.is_file()), key=lambda p: str(p).encode())
        self.batch = min(len(names), 4096)
        self.names = [str(names[i * len(names) // self.batch]) for i in range(self.batch)]
        self.one = functools.partial(decode, size=size)
        self.pool = multiprocessing.Pool(workers) if workers > 0 else None
        self.pixel_sum = self()
        start = time.monotonic()
        self()
        self.steps = max(1, round(1 / (time.monotonic() - start)))

    def __call__(self):
        if self.pool:
            return sum(self.pool.imap_unordered(self.one, self.names, chunksize=16))
        return sum(map(self.one, self.names))


# name: (side of a file's picture, side asked for, how many, ending, settings of Pillow)
PICTURES = {
    "png28": (28, 28, 2000, "png", {}),
    "png64": (64, 64, 1000, "png", {}),
    "png512": (512, 64, 100, "png", {}),
    "jpg64": (64, 64, 1000, "jpg", {"quality": 90}),
    "jpg512": (512, 64, 100, "jpg", {"quality": 90}),
}


def make(folder):
    """Pictures of noise whose spectrum falls like that of photographs."""
    import numpy
    from PIL import Image

    random = numpy.random.default_rng(0)
    for name, (side, _, count, ending, settings) in PICTURES.items():
        os.makedirs(f"{folder}/{name}")
        radius = numpy.hypot(*numpy.meshgrid(numpy.fft.fftfreq(side), numpy.fft.rfftfreq(side), indexing="ij")) * side
        radius[0, 0] = numpy.inf
        for i in range(count):
            spectrum = numpy.fft.rfft2(random.standard_normal((3, side, side))) / radius**1.2
            planes = numpy.fft.irfft2(spectrum, (side, side))
            planes = planes + 3 * planes.mean(0)  # mostly grey
            pixels = (planes / planes.std() * 50 + 128).clip(0, 255).astype(numpy.uint8).transpose(1, 2, 0)
            Image.fromarray(pixels).save(f"{folder}/{name}/{i:04}.{ending}", **settings)


def quickstart(folder, steps):
    """Reads data/digits, trains network Q, saves the pipeline of the averaged weights."""
    from pathlib import Path

    import numpy
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    from PIL import Image

    batch = NETWORKS["Q"][2]
    files = sorted((Path(__file__).resolve().parent.parent / "data/digits").rglob("*.png"))
    pictures = torch.stack([torch.from_numpy(numpy.array(Image.open(f).convert("L"))) for f in files])
    pictures = pictures[:, None].float().div_(127.5).sub_(1)
    loader = torch.utils.data.DataLoader(pictures, batch_size=batch, shuffle=True, drop_last=True)
    model = make_model("Q")
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=50, num_training_steps=steps)
    ema = EMAModel(model.parameters(), decay=0.999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    step, losses = 0, []
    while step < steps:
        for x in loader:
            noise = torch.randn_like(x)
            t = torch.randint(0, 1000, (batch,))
            loss = torch.nn.functional.mse_loss(model(scheduler.add_noise(x, noise, t), t).sample, noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
            ema.step(model.parameters())
            losses.append(loss.item())
            step += 1
            if step == steps:
                break
    ema.copy_to(model.parameters())
    DDPMPipeline(model, scheduler).save_pretrained(folder)
    print(json.dumps({"what": "quickstart", "pictures": len(files), "batch": batch, "steps": steps,
                      "loss": sum(losses[-20:]) / len(losses[-20:]),
                      "parameters": sum(p.numel() for p in model.parameters()), **versions(),
                      "peak_mb": peak_mb()}))


def versions():
    import diffusers
    import torch

    out = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    return {**out, "cudnn": torch.backends.cudnn.version()} if torch.cuda.is_available() else out


def peak_mb(device="cpu"):
    """The most memory so far: the process's, or on a GPU what its tensors had."""
    if not device.startswith("cuda"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    import torch

    return torch.cuda.max_memory_allocated(device) >> 20


def blocks(options, about, block):
    """Prints `about`, then a line for each block, which returns how many pictures it made."""
    print(json.dumps(about), flush=True)
    for _ in sys.stdin if options.wait else range(options.blocks):
        start, cpu = time.monotonic(), time.process_time()
        pictures = block()
        wall = time.monotonic() - start
        print(json.dumps({"wall_s": wall, "cpu_s": time.process_time() - cpu, "images_per_second": pictures / wall,
                          "peak_mb": peak_mb(options.device)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "sample", "data", "make", "quickstart"])
    parser.add_argument("--network", choices=NETWORKS, default="Q")
    parser.add_argument("--style", choices=STYLES, default="shipped")
    parser.add_argument("--batch", type=int, help="of the training step (default: the network's)")
    parser.add_argument("--count", type=int, default=64, help="pictures of a block of sampling (default 64)")
    parser.add_argument("--steps", type=int, help="training steps of a block (default: 5 s), or steps of the sampler")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", help="folder of the saved pipeline (quickstart), of the pictures (make)")
    parser.add_argument("--folder", help="of pictures (data)")
    parser.add_argument("--size", type=int, default=64, help="side of a resized picture (data; default 64)")
    parser.add_argument("--workers", type=int, default=0, help="processes (data; default 0: this one)")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--wait", action="store_true", help="a block for each line of stdin")
    options = parser.parse_args()

    if options.what == "make":
        return make(options.out)
    if options.what == "data":
        import PIL

        step = Decoding(options.folder, options.size, options.workers)
        about = {"what": "data", "decoded": step.batch, "pixel_sum": step.pixel_sum, "pillow": PIL.__version__}
        return blocks(options, about, lambda: sum(step.batch for _ in range(step.steps) if step()))
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    if options.what == "quickstart":
        return quickstart(options.out, options.steps or 800)
    device = torch.device(options.device)
    if STYLES[options.style].graph and device.type != "cuda":
        sys.exit(f"bench_peer.py: style {options.style} needs a GPU: --device cuda")

    def finish():
        if device.type == "cuda":
            torch.cuda.synchronize()

    if options.what == "train":
        step = Step(options.network, options.style, device, options.batch)
        # The first steps compile, choose algorithms and make CUDA graphs; those after them are timed for the blocks.
        tried = 20 if device.type == "cuda" else 1
        for _ in range(10 if device.type == "cuda" else 3):
            step()
        finish()
        start = time.monotonic()
        for _ in range(tried):
            step()
        finish()
        steps = options.steps or max(2, int(5 * tried / (time.monotonic() - start) + 0.999))

        def block():
            for _ in range(steps):
                step()
            finish()
            return steps * step.batch
    else:
        step = Sampling(options.network, options.count, options.steps or 100, device)
        step(2)
        steps = step.steps

        def block():
            step()
            finish()
            return step.batch

    about = {"what": options.what, "style": options.style, "network": options.network, "batch": step.batch,
             "steps": steps, "parameters": step.parameters, "macs": step.macs, **versions(),
             "threads": torch.get_num_threads(), "device": options.device}
    blocks(options, about, block)


if __name__ == "__main__":
    main()
