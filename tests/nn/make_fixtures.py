# SPDX-License-Identifier: MIT
"""Writes tests/nn/fixtures/*.safetensors: what diffusers' UNet2DModel computes for random weights.

Run in an environment with scripts/requirements-peers.txt:  python tests/nn/make_fixtures.py

A file holds the weights (float32), the input x, t, labels, the weights `g` of the loss sum(g * output), and
  output    float64, network and sinusoids in float64
  output32  float32, diffusers as it comes
  grad.*    gradients of the loss, in float64: of x stored as float64, of weights rounded to float32
The test's table in unet_test.cpp repeats CONFIGS; a difference fails the test.
"""

import math
import pathlib

import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "fixtures"

# In the terms of the config section `model`; what is not named here has the default of DEFAULTS.
DEFAULTS = dict(
    channels=1, height=8, width=8, classes=0,
    base_channels=4, channel_mult=[1, 2], blocks_per_level=1, attention_at=[], head_channels=4,
    mid_attention=True, norm_groups=2, norm_eps=1e-5, downsample="conv", upsample="conv",
    time_embedding="add", flip_sin_to_cos=True, freq_shift=0.0, downsample_padding=1,
)
CONFIGS = {
    "conv": dict(channels=3, base_channels=2, channel_mult=[1, 2, 2], blocks_per_level=2),
    "attention": dict(attention_at=[8, 4], head_channels=2),
    "scale_shift": dict(time_embedding="scale_shift", attention_at=[4]),
    "resnet": dict(downsample="resnet", upsample="resnet", base_channels=2, channel_mult=[1, 2, 1],
                   head_channels=2, attention_at=[4]),
    "classes": dict(classes=3, attention_at=[4], norm_groups=4),
    "ddpm": dict(downsample_padding=0, freq_shift=1.0, flip_sin_to_cos=False, norm_eps=1e-6,
                 attention_at=[4], head_channels=8),
    "odd": dict(base_channels=3, channel_mult=[1, 2], head_channels=3, norm_groups=3, height=6, width=10,
                attention_at=[6]),
    "plain": dict(channels=2, mid_attention=False, norm_groups=1, norm_eps=1e-3, channel_mult=[2, 1, 3],
                  base_channels=2),
    "mixed": dict(classes=2, downsample="resnet", time_embedding="scale_shift", upsample="conv",
                  base_channels=2, channel_mult=[3, 1], head_channels=2, height=4, width=8, attention_at=[4]),
}


def build(c):
    levels = len(c["channel_mult"])
    attends = [c["height"] >> level in c["attention_at"] for level in range(levels)]
    down = {"conv": "DownBlock2D", "resnet": "ResnetDownsampleBlock2D"}[c["downsample"]]
    up = {"conv": "UpBlock2D", "resnet": "ResnetUpsampleBlock2D"}[c["upsample"]]
    return UNet2DModel(
        sample_size=(c["height"], c["width"]),
        in_channels=c["channels"],
        out_channels=c["channels"],
        freq_shift=c["freq_shift"],
        flip_sin_to_cos=c["flip_sin_to_cos"],
        down_block_types=tuple("AttnDownBlock2D" if a else down for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else up for a in reversed(attends)),
        block_out_channels=tuple(c["base_channels"] * m for m in c["channel_mult"]),
        layers_per_block=c["blocks_per_level"],
        downsample_padding=c["downsample_padding"],
        downsample_type=c["downsample"],
        upsample_type=c["upsample"],
        attention_head_dim=c["head_channels"],
        norm_num_groups=c["norm_groups"],
        attn_norm_num_groups=c["norm_groups"],  # else the middle's has none with scale_shift
        norm_eps=c["norm_eps"],
        resnet_time_scale_shift={"add": "default", "scale_shift": "scale_shift"}[c["time_embedding"]],
        add_attention=c["mid_attention"],
        num_class_embeds=c["classes"] or None,
    )


class Sinusoids64(torch.nn.Module):
    """diffusers' formula without its rounding to float32."""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, t):
        c = self.config
        channels = c["base_channels"] * c["channel_mult"][0]
        half = channels // 2
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float64) / (half - c["freq_shift"])
        angle = t.double()[:, None] * exponent.exp()[None]
        parts = [angle.cos(), angle.sin()] if c["flip_sin_to_cos"] else [angle.sin(), angle.cos()]
        return torch.nn.functional.pad(torch.cat(parts, 1), (0, channels % 2))


def randomise(model, generator):
    """Weights that keep activations near 1, with no special value among them."""
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2:
            parameter.data = noise / math.sqrt(parameter[0].numel())
        else:
            parameter.data = 0.2 * noise
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.weight.data += 1


def fixture(number, config):
    c = DEFAULTS | config
    generator = torch.Generator().manual_seed(number)
    model = build(c).train(False)
    randomise(model, generator)
    shape = (2, c["channels"], c["height"], c["width"])
    x = torch.randn(shape, generator=generator)
    g = torch.randn(shape, generator=generator)
    t = torch.tensor([3.0, 41.0])
    labels = torch.tensor([1, 0]) if c["classes"] else None

    out = {"weights." + name: value.clone() for name, value in model.state_dict().items()}
    out |= {"x": x, "g": g, "t": t}
    if labels is not None:
        out["labels"] = labels
    with torch.no_grad():
        out["output32"] = model(x, t, labels).sample

    model = model.double()
    model.time_proj = Sinusoids64(c)
    x64 = x.double().requires_grad_(True)
    output = model(x64, t, labels).sample
    (output * g).sum().backward()
    out |= {"output": output.detach(), "grad.x": x64.grad}
    out |= {"grad." + name: p.grad.float() for name, p in model.named_parameters()}
    return {name: value.contiguous() for name, value in out.items()}


def main():
    FOLDER.mkdir(exist_ok=True)
    for number, (name, config) in enumerate(CONFIGS.items()):
        save_file(fixture(number, config), FOLDER / f"{name}.safetensors")
    t = torch.tensor([0.0, 1.0, 10.0, 123.0, 500.5, 999.0])
    save_file(
        {
            "t": t,
            "flipped": get_timestep_embedding(t, 16, flip_sin_to_cos=True, downscale_freq_shift=0),
            "shifted": get_timestep_embedding(t, 7, flip_sin_to_cos=False, downscale_freq_shift=1),
        },
        FOLDER / "sinusoids.safetensors",
    )


if __name__ == "__main__":
    main()
