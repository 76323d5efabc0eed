"""The phases of a restoration, each once: encode, denoise, decode, fuse, blend.

The engine, the stream and ComfyUI's nodes call these. `model` is a `Divd`, or the parts of
one that a phase needs; it is on `device`, and so is everything in between: frames are sent up
by `DeviceFrames` and brought back after blending. `before` is called before each piece of
work and may raise to cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from ..models.config import AutoencoderConfig, ScheduleConfig
from ..models.divd import Divd
from .color import match_color
from .denoising.coding import decode_tiled, encode_tiled, frames_at_once, frames_to_video
from .denoising.estimates import Estimates
from .denoising.layout import in_halves, in_smaller_pieces
from .denoising.sampler import SOLVERS
from .denoising.windows import Layout, Span
from .frames import DeviceFrames
from .progress import Work
from .settings import RestorationSettings

if TYPE_CHECKING:
    from .borrowing.candidates import Panel

Before = Callable[[], None]


def frame_groups(
    config: AutoencoderConfig, span: Span, size: tuple[int, int], bounds: Sequence[int] = ()
) -> list[Span]:
    """Cut frames into groups that are encoded or decoded at once.

    Args:
        config: Of the autoencoder.
        span: First frame, and one past the last.
        size: Height and width of the frames, in pixels.
        bounds: Frames at which a group must end: which frames are coded together may change
            the last bits of each.
    """
    at_once = frames_at_once(config, *size)
    edges = sorted({*span, *(bound for bound in bounds if span[0] < bound < span[1])})
    return [
        (start, min(start + at_once, stop))
        for first, stop in pairwise(edges)
        for start in range(first, stop, at_once)
    ]


@torch.no_grad()
def encode(
    encode_video: Callable[[Tensor], Tensor],
    config: AutoencoderConfig,
    frames: DeviceFrames,
    groups: Sequence[Span],
    before: Before,
) -> list[Tensor]:
    """Encode frames group by group; out of memory, in smaller groups.

    Args:
        encode_video: From video `[1, 3, T, H', W']` in -1..1, on the device, to latents
            `[..., T, h, w]`, as `Divd.encode_blur` does.
        config: Of the autoencoder.
        frames: Blurry.
        groups: From `frame_groups`.
        before: Called before each group.

    Returns:
        The latents of the groups, or of parts of them, in order.
    """

    def encoded(start: int, stop: int) -> Tensor:
        return encode_tiled(encode_video, frames.colors(start, stop), config)

    parts = []
    for group in groups:
        before()
        parts += in_halves(encoded, *group)
    return parts


@torch.no_grad()
def encode_tokens(model: Divd, frames: DeviceFrames, index: int) -> Tensor:
    """Return the image tokens of a frame, float32 `[1, M, D]`."""
    video = frames_to_video(frames.colors(index, index + 1), model.downscale)
    # The tower computes in the dtype it is kept in, whatever the UNet does.
    dtype = next(model.image_encoder.parameters()).dtype
    with computing_in(dtype, video.device):
        return model.encode_tokens(rearrange(video, "1 c t h w -> t c h w")).float()


def computing_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Return the context in which networks compute in a dtype."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def computed(
    network: Callable[[], Tensor],
    dtype: torch.dtype,
    device: torch.device,
    before_again: Callable[[str], None],
) -> Tensor:
    """Run a network in a dtype, and again in float32 where that was too narrow.

    Args:
        network: Runs it; its weights are float32.
        dtype: To compute in.
        device: Of the network.
        before_again: Called with what to say before it is run again.

    Returns:
        float32.

    Raises:
        FloatingPointError: If the network gives values that are not finite, in float32 too.
    """
    with computing_in(dtype, device):
        result = network().float()
    # One answer from the device for each piece: they take far longer than that.
    if bool(result.isfinite().all()):
        return result
    message = "the network gave values that are not finite"
    if dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        before_again(f"{message} in {name}: such tiles are computed in float32")
        result = network().float()
        if bool(result.isfinite().all()):
            return result
    raise FloatingPointError(f"{message}: the checkpoint may be damaged")


@torch.no_grad()
def denoise(
    estimates: Estimates,
    noise: Tensor,
    schedule: ScheduleConfig,
    settings: RestorationSettings,
    layout: Layout,
    downscale: int,
    work: Work,
    told: set[Layout],
) -> Tensor:
    """Sample clean latents; out of memory, from smaller pieces.

    Args:
        estimates: The network as a sampler sees it.
        noise: `[1, C, T, h, w]`, unit variance, on the device.
        schedule: Of the checkpoint.
        settings: Solver and steps count.
        layout: How to cut.
        downscale: Pixels per latent position.
        work: Counts each piece of a layout, once per pass.
        told: As for `in_smaller_pieces`.

    Returns:
        Latents `[1, C, T, h, w]`, normalised.
    """
    size, done, counted = tuple(noise.shape[2:]), work.done, layout

    def attempt(pieces: Layout) -> Tensor:
        nonlocal counted
        work.done = done
        work.total += settings.passes * (pieces.count(*size) - counted.count(*size))
        counted = pieces
        return SOLVERS[settings.solver](
            estimates.denoised_fn(pieces, work.advance), noise, schedule, settings.steps
        )

    return in_smaller_pieces(attempt, layout, size, downscale, told)[0]


@torch.no_grad()
def decode(
    model: Divd,
    latents: Tensor,
    frames: DeviceFrames,
    shares: Sequence[float],
    groups: Sequence[Span],
    before: Before,
) -> Iterator[Tensor]:
    """Decode a shot, or a part of it, onto its blurry frames.

    Args:
        model: Its autoencoder, and the blur encoder with detail skip.
        latents: `[1, C, T, h, w]`, normalised.
        frames: Blurry; as many.
        shares: Of each frame; 0 for those that stay as they are, which are not decoded.
        groups: Which frames, from `frame_groups`.
        before: Called before each group.

    Yields:
        `[H, W, 3]`, float32, not clamped, on the device: the frames of the groups in order.

    Raises:
        FloatingPointError: If the network gave values that are not finite.
    """
    config = model.config.autoencoder

    def decoded(start: int, stop: int) -> Tensor:
        colors = frames.colors(start, stop)
        wanted = shares[start:stop]
        if not any(wanted):
            return colors
        part = latents[:, :, start:stop].to(colors.device)
        restored = decode_tiled(model.decode_restored, part, colors, config)
        for index, share in enumerate(wanted):
            # Frames that stay as they are lend what they have, too.
            if share == 0:
                restored[index] = colors[index]
        return restored

    for group in groups:
        before()
        parts = in_halves(decoded, *group)
        # By the sum, which reads a frame once: asked of each value it takes 30 times as long.
        if not all(bool(part.sum().isfinite()) for part in parts):
            raise FloatingPointError(
                f"decoding gave values that are not finite (frames {group[0]} to "
                f"{group[1] - 1} of the part): the checkpoint's autoencoder may be damaged"
            )
        while parts:
            # Handed over one by one, so that whoever takes one decides how long it lives.
            images = list(parts.pop(0).unbind())
            while images:
                yield images.pop(0)


def fuse(
    panels: Iterable[Panel],
    device: torch.device,
    before: Before,
    wanted: Span | None = None,
    *,
    borrow: bool = True,
    refused: Callable[[], None] | None = None,
) -> Iterator[Tensor]:
    """Let the frames of a shot take detail from sharper neighbours.

    Args:
        panels: Of the frames of one shot.
        device: Where to compute.
        before: Called before each frame that takes detail.
        wanted: Frames to yield; None: all.
        borrow: Whether to; else the wanted frames are fused with their first stage alone.
        refused: Called for each frame of which the first stage shows something else.
    """
    # Not at the top: ComfyUI loads this file at start-up and needs OpenCV later.
    if borrow:
        from .borrowing.passes import borrow_stream

        return borrow_stream(panels, device, wanted, before, refused)
    from .borrowing.first_candidate import followed

    # Not a generator, which would keep the frame it has handed out.
    return map(partial(followed, refused=refused), islice(panels, *(wanted or (0, None))))


def blend(colors: Tensor, restored: Tensor, amount: float, color_match: bool = False) -> Tensor:
    """Mix restored colours into the frames they were made from, the last phase of all.

    Args:
        colors: `[T, H, W, 3]`, blurry.
        restored: The same shape, on any device.
        amount: 0 returns the blurry frames, 1 the restored ones.
        color_match: Whether to take the low frequencies from the blurry frames.

    Returns:
        `[T, H, W, 3]` in 0..1, where `colors` are.
    """
    restored = restored.to(colors.device)
    if color_match:
        restored = match_color(restored, colors)
    return torch.lerp(colors, restored, amount).clamp_(0, 1)


def blend_clip(
    result: Tensor,
    frames: DeviceFrames,
    restored: Iterable[tuple[int, Tensor]],
    amounts: Sequence[float],
    color_match: bool = False,
) -> None:
    """Blend restored frames into a clip in memory.

    Args:
        result: `[T, H, W, C]`; the colours of restored frames are replaced.
        frames: The blurry frames of the same clip.
        restored: Index and `[H, W, 3]` of each frame, on their device.
        amounts: As for `blend`, of each frame; frames of 0 are left alone.
        color_match: As for `blend`.
    """
    for index, pixels in restored:
        if amounts[index] > 0:
            colors = frames.colors(index, index + 1)
            mixed = blend(colors, pixels[None], amounts[index], color_match)
            result[index, ..., :3] = mixed[0]
