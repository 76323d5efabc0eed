"""What the paper's recipe costs: counted at full size, measured at a reduced one.

    python -m video_deblur.benchmarks.training_cost [--sustained TFLOPS]

Operations and memory come from the real training module on PyTorch's meta device, which knows
shapes but computes nothing. The same module then trains for a few updates at reduced width on
this machine: its share of the rate of a bare matrix product says what a device keeps of its
peak. Hours are operations over `--sustained`: an estimate, not a measurement.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ..models.config import (
    AutoencoderConfig,
    DivdConfig,
    ImageEncoderConfig,
    UNet3DConfig,
)
from ..models.divd import Divd
from ..training.config import DiffusionStage
from ..training.presets import PRESETS, TINY_MODEL
from ..training.stages import DiffusionTraining, Draws

FULL = DivdConfig(
    unet=UNet3DConfig(in_channels=8),
    autoencoder=AutoencoderConfig(
        kind="kl", latent_channels=4, channels=(128, 256, 512, 512), blocks=(2, 2, 2, 2)
    ),
    image_encoder=ImageEncoderConfig(),
)
"""The networks of Wang & Long."""
REDUCED = DivdConfig(
    unet=UNet3DConfig(in_channels=8, block_channels=(64, 128, 256, 256), context_dim=256),
    autoencoder=AutoencoderConfig(
        kind="kl", latent_channels=4, channels=(32, 64, 128, 128), blocks=(1, 1, 1, 1)
    ),
    image_encoder=ImageEncoderConfig(
        image_size=112, width=160, heads=2, layers=4, embedding_dim=256, context_dim=256
    ),
)
_STATE_BYTES = 4 + 4 + 4 + 4 + 4
"""Per trained value: weight, gradient, AdamW's two moments, average, all float32."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one update with one clip."""

    flop: int
    """Multiplications and additions, forward and back."""
    activation_bytes: int
    """Kept from the way there for the way back, at most, in bfloat16."""
    trained: int
    """Values that are trained."""
    frozen: int
    """Values that are not."""


def count(config: DivdConfig, stage: DiffusionStage) -> Cost:
    """Count one update of a stage with one clip, on the meta device."""
    # Which clips have a pixel loss is read from values, which the meta device has not.
    without = dataclasses.replace(stage, pixel_loss="off")
    with torch.device("meta"):
        module = DiffusionTraining(Divd(config), without)
        clip = _clip(config, stage)
    with FlopCounterMode(display=False) as counter:
        with _Kept(module) as kept:
            loss = module(*clip)["loss"].sum()
        loss.backward()
        activations = kept.total
        if stage.pixel_loss != "off":
            frames = slice(stage.pixel_frames)
            latents, blurry = clip[2].noise[:, :, frames], clip[0][:, :, frames]
            # "last" goes on from here into the network, "decoder" ends here.
            latents.requires_grad_(stage.pixel_loss == "last")
            with _Kept(module) as kept:
                decoded = module.model.decode_restored(latents, blurry)
            activations += kept.total
            decoded.sum().backward()
    if stage.gradient_checkpointing:
        module.model.unet.gradient_checkpointing = False
        with _Kept(module) as kept:
            module(*clip)
        activations += kept.largest_level
    values = {True: 0, False: 0}
    for parameter in module.parameters():
        values[parameter.requires_grad] += parameter.numel()
    return Cost(counter.get_total_flops(), activations, values[True], values[False])


class _Kept:
    """Sum up what autograd keeps, each tensor once, weights aside, at two bytes a value."""

    def __init__(self, module: DiffusionTraining) -> None:
        self._seen = {p.untyped_storage()._cdata for p in module.parameters()}
        unet = module.model.unet
        self._levels = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        self._alive: list[Tensor] = []
        self.total = 0
        self.largest_level = 0
        """What the costliest level adds when it is computed again."""

    def __enter__(self) -> _Kept:
        self._stack = ExitStack()
        self._stack.enter_context(saved_tensors_hooks(self._pack, lambda tensor: tensor))
        for level in self._levels:
            before = level.register_forward_pre_hook(self._begin)
            after = level.register_forward_hook(self._end)
            self._stack.callback(before.remove)
            self._stack.callback(after.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            # Alive, so that no other storage gets its address.
            self._alive.append(tensor)
            self.total += tensor.numel() * 2
        return tensor

    def _begin(self, *_: object) -> None:
        self._before = self.total

    def _end(self, *_: object) -> None:
        self.largest_level = max(self.largest_level, self.total - self._before)


def _clip(config: DivdConfig, stage: DiffusionStage) -> tuple[Tensor, Tensor, Draws]:
    """Return a batch of one clip on the default device."""
    frames, side = stage.data.num_frames, stage.data.crop
    latent_side = side // config.autoencoder.downscale
    video = torch.zeros(1, 3, frames, side, side)
    shape = (1, config.autoencoder.latent_channels, frames, latent_side, latent_side)
    draws = Draws(
        timesteps=torch.full((1,), config.schedule.num_timesteps - 1),
        kept=torch.ones(1, dtype=torch.bool),
        noise=torch.zeros(shape),
        frames=torch.arange(stage.pixel_frames)[None],
    )
    return video, video, draws


def measure(config: DivdConfig, stage: DiffusionStage, updates: int) -> tuple[float, float]:
    """Return operations per second of training and of a bare matrix product, alternating."""
    module = DiffusionTraining(Divd(config), stage)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    clip = _clip(config, stage)
    flop = count(config, stage).flop
    side = 1024
    matrix = torch.randn(side, side)
    trains, products = [], []
    for _ in range(updates + 1):
        started = time.perf_counter()
        module(*clip)["loss"].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        trains.append(flop / (time.perf_counter() - started))
        started = time.perf_counter()
        for _ in range(10):
            torch.mm(matrix, matrix)
        products.append(10 * 2 * side**3 / (time.perf_counter() - started))
    # The first of each warms up.
    return statistics.median(trains[1:]), statistics.median(products[1:])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Count and measure the cost of training.")
    parser.add_argument(
        "--sustained",
        type=float,
        default=300,
        help="TFLOP/s that the device is assumed to keep up in training (default: 300)",
    )
    parser.add_argument("--updates", type=int, default=5, help="measured ones")
    args = parser.parse_args()
    print("full size, one clip        stage 1    stage 2")
    stages = [s for s in (PRESETS["paper"].stage1, PRESETS["paper"].stage2) if s is not None]
    plain = [dataclasses.replace(s, gradient_checkpointing=False) for s in stages]
    costs, uncheckpointed = ([count(FULL, s) for s in group] for group in (stages, plain))
    batches = [s.data.clips_per_batch for s in stages]
    hours = [
        c.flop * b * s.steps / (args.sustained * 1e12) / 3600
        for c, b, s in zip(costs, batches, stages, strict=True)
    ]
    rows = {
        "TFLOP": [c.flop / 1e12 for c in costs],
        "TFLOP, no checkpointing": [c.flop / 1e12 for c in uncheckpointed],
        "activations, GB": [c.activation_bytes / 1e9 for c in costs],
        "the same, no checkpointing": [c.activation_bytes / 1e9 for c in uncheckpointed],
        "weights and state, GB": [
            (c.trained * _STATE_BYTES + c.frozen * 4) / 1e9 for c in costs
        ],
        "trained values, 1e6": [c.trained / 1e6 for c in costs],
        "clips per update": batches,
        "updates": [s.steps for s in stages],
        f"hours at {args.sustained:g} TFLOP/s": hours,
    }
    for name, values in rows.items():
        print(f"{name:27}" + "".join(f"{value:<11.4g}" for value in values))
    print("\nbundled size, one clip (tiny-further)")
    further = PRESETS["tiny-further"].joint
    assert further is not None
    for num_frames, crop in ((further.data.num_frames, further.data.crop), (16, 256)):
        clips = dataclasses.replace(further.data, num_frames=num_frames, crop=crop)
        cost = count(TINY_MODEL, dataclasses.replace(further, data=clips))
        print(
            f"{num_frames} frames of {crop}x{crop}: {cost.flop / 1e9:.0f} GFLOP, activations "
            f"{cost.activation_bytes / 1e6:.0f} MB, weights and state "
            f"{(cost.trained * _STATE_BYTES + cost.frozen * 4) / 1e6:.0f} MB"
        )
    print("\nreduced, trained on this machine, float32")
    for name, stage in zip(("stage 1", "stage 2"), stages, strict=True):
        small = dataclasses.replace(
            stage, data=dataclasses.replace(stage.data, num_frames=8, crop=128)
        )
        trained, product = measure(REDUCED, small, args.updates)
        print(
            f"{name}: {trained / 1e9:.0f} GFLOP/s, {trained / product:.0%} of a matrix "
            f"product's {product / 1e9:.0f}"
        )


if __name__ == "__main__":
    main()
