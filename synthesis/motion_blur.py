"""Synthetic motion blur: photos and clips shaken by a camera, averaged in linear light.

Clips are `[B, T, 3, H, W]` here, RGB: uint8 as sources, float32 in 0..1 as results. Pixels
are computed on the device of the sources, without gradients. What is random about a clip, and
all trigonometry, is worked out for that clip alone on the CPU, from a generator of its own
(`shot.Shot`); rendering adds and multiplies. So a clip comes out the same, to the bit on a
CPU, whatever clips are rendered with it.

Sharpness of the targets: a warp puts output pixels between source pixels, and bilinear
interpolation there softens blurry and sharp frames alike, so a network would learn soft
targets. Sources are therefore enlarged once, twofold and bicubically on the same pixel
centres (original pixels stay exact), turned into light once, and read bilinearly from there:
near bicubic sharpness at a third of the cost of bicubic reads of every sub-frame. Blurry and
sharp frames use the same reads, so a camera at rest gives two equal frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .camera_response import RESPONSES, to_display, to_linear
from .camera_shake import ShakeConfig
from .degradation import compress_h264, compress_jpeg, degrade
from .shot import Movement, Shot, draw_shot

__all__ = [
    "ShakeConfig",
    "Shot",
    "average_frames",
    "compress_h264",
    "compress_jpeg",
    "degrade",
    "render_clips",
    "shake_clips",
]

_ENLARGEMENT = 2


@torch.no_grad()
def shake_clips(
    sources: Tensor,
    num_frames: int,
    size: tuple[int, int],
    config: ShakeConfig,
    generators: Sequence[torch.Generator],
    foregrounds: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Film photos or clips with a shaking camera.

    Args:
        sources: uint8 `[B, 1, 3, H, W]` photos or `[B, T, 3, H, W]` clips. Make them larger
            than `size`: the camera moves within the margin, and sees a mirror image beyond.
        num_frames: Length T of the result.
        size: Height and width of the result, in pixels, from the middle of the sources.
        config: What motion to draw.
        generators: B CPU generators; a clip depends on its own alone.
        foregrounds: uint8 `[B, 3, H, W]` photos of any size, parts of which pass in front of
            some clips (`config.foreground_probability`); None for no foreground.

    Returns:
        Blurry and sharp clips, float32 `[B, T, 3, h, w]` in 0..1, not rounded to 8 bits. The
        sharp frame is the scene at the middle of the exposure.

    Raises:
        ValueError: If shapes or types do not fit.
    """
    _check_sources(sources, num_frames, len(generators), foregrounds)
    may = foregrounds is not None
    shots = [
        draw_shot(num_frames, size, config, generator, may_have_front=may)
        for generator in generators
    ]
    blurry = torch.empty((len(shots), num_frames, 3, *size), device=sources.device)
    sharp = torch.empty_like(blurry)
    for in_front in (False, True):
        part = [i for i, shot in enumerate(shots) if (shot.front is not None) == in_front]
        if not part:
            continue
        fronts = foregrounds[part] if in_front and foregrounds is not None else None
        members = [shots[index] for index in part]
        blurry[part], sharp[part] = render_clips(sources[part], members, fronts)
    return blurry, sharp


@torch.no_grad()
def render_clips(
    sources: Tensor, shots: Sequence[Shot], foregrounds: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Render clips of one kind: photos or clips, all with a picture in front or none.

    Args:
        sources: uint8 `[B, 1, 3, H, W]` or `[B, T, 3, H, W]`.
        shots: B shots of T frames.
        foregrounds: uint8 `[B, 3, H, W]`, what passes in front if the shots have a front.

    Returns:
        Blurry and sharp clips, float32 `[B, T, 3, h, w]` in 0..1.
    """
    assert all((shot.front is None) == (foregrounds is None) for shot in shots)
    device = sources.device
    counts = torch.from_numpy(np.stack([shot.counts for shot in shots]))
    order = _Order.by_need(counts, sources.shape[1] == 1)
    response = torch.tensor([shot.response for shot in shots], device=device)
    pictures = [_prepare(sources, response)]
    movements = [_stack(shots, lambda shot: shot.scene)]
    if foregrounds is not None:
        fronts = _prepare(foregrounds[:, None], response)
        masked = [_add_mask(front, shot) for front, shot in zip(fronts, shots, strict=True)]
        repeats = len(order.groups) // len(shots)
        pictures.append(torch.stack(masked).repeat_interleave(repeats, 0))
        movements.append(_stack(shots, lambda shot: shot.front))
    pictures = [picture[order.groups.to(device)] for picture in pictures]
    middle = [order.sort(movement.middle).to(device) for movement in movements]
    paths = [order.sort(movement.sub_frames).to(device) for movement in movements]

    size = shots[0].size
    sharp = _expose(pictures, middle, size)
    light = torch.zeros_like(sharp)
    needy = order.counts[..., None] > torch.arange(int(counts.max()))
    weights = (needy / order.counts[..., None]).to(device)[..., None, None, None]
    for k in range(needy.shape[-1]):
        g, n = int(needy[:, 0, k].sum()), int(needy[:, :, k].sum(1).max())
        sub_frame = _expose([p[:g] for p in pictures], [m[:g, :n, k] for m in paths], size)
        # Not addcmul, which may round once or twice, depending on an element's place.
        light[:g, :n] += sub_frame.mul_(weights[:g, :n, k])
    blurry, sharp = (to_display(order.restore(frames), response) for frames in (light, sharp))
    return blurry, sharp


@torch.no_grad()
def average_frames(
    frames: Tensor, num_averaged: int, *, response: int = 0, stride: int | None = None
) -> tuple[Tensor, Tensor]:
    """Blur a high-speed clip by averaging consecutive frames in linear light.

    Args:
        frames: uint8 `[N, 3, H, W]`, sharp frames at a high rate.
        num_averaged: Frames k per blurry frame, an odd number; below 9 the steps tend to show.
        response: Index into `camera_response.RESPONSES`.
        stride: Frames from one blurry frame to the next; default: `num_averaged`, which is an
            exposure ratio of 1. A larger stride closes the shutter in between.

    Returns:
        Blurry frames and their middle frames, float32 `[T, 3, H, W]` in 0..1, where T is the
        number of whole groups.

    Raises:
        ValueError: If fewer than `num_averaged` frames are given or the numbers make no sense.
    """
    stride = stride or num_averaged
    is_odd = num_averaged > 0 and num_averaged % 2
    if not is_odd or stride < 1 or not 0 <= response < len(RESPONSES):
        raise ValueError(
            f"expected an odd num_averaged, a stride of at least 1 and a response below "
            f"{len(RESPONSES)}, got {num_averaged}, {stride} and {response}"
        )
    if len(frames) < num_averaged:
        raise ValueError(f"averaging needs {num_averaged} frames, got {len(frames)}")
    starts = range(0, len(frames) - num_averaged + 1, stride)
    which = torch.tensor([response])
    blurry = []
    for start in starts:
        light = torch.zeros(frames.shape[1:], device=frames.device)
        for frame in frames[start : start + num_averaged]:
            light += to_linear(frame[None], which)[0]
        blurry.append(to_display(light[None] / num_averaged, which)[0])
    middles = [start + num_averaged // 2 for start in starts]
    return torch.stack(blurry), frames[middles].float() / 255


def _check_sources(
    sources: Tensor, num_frames: int, num_generators: int, foregrounds: Tensor | None
) -> None:
    if sources.ndim != 5 or sources.shape[2] != 3 or sources.dtype != torch.uint8:
        raise ValueError(
            f"sources: expected uint8 [B, T, 3, H, W], got {sources.dtype} "
            f"{list(sources.shape)}"
        )
    if sources.shape[1] not in (1, num_frames):
        raise ValueError(
            f"sources: expected 1 or {num_frames} frames per clip, got {sources.shape[1]}"
        )
    if len(sources) != num_generators or not num_generators:
        raise ValueError(
            f"sources: expected one generator for each clip, got {num_generators} for "
            f"{len(sources)}"
        )
    if foregrounds is not None and (
        foregrounds.ndim != 4
        or foregrounds.shape[:2] != (sources.shape[0], 3)
        or foregrounds.dtype != torch.uint8
    ):
        raise ValueError(
            f"foregrounds: expected uint8 [{sources.shape[0]}, 3, H, W], got "
            f"{foregrounds.dtype} {list(foregrounds.shape)}"
        )


@dataclass(frozen=True, eq=False)
class _Order:
    """Frames in groups that share a source, sorted by their number of sub-frames.

    So every round of rendering takes one sub-frame of those frames that still need one: the
    first ones of the first groups. A photo serves all frames of its clip with one read; in a
    real clip every frame is its own source.
    """

    groups: Tensor
    """int64 `[G]`."""
    frames: Tensor
    """int64 `[G, n]`, within each group."""
    counts: Tensor
    """int64 `[G, n]`, sorted."""
    shape: tuple[int, int]
    """Clips and frames per clip."""

    @classmethod
    def by_need(cls, counts: Tensor, photos: bool) -> _Order:
        grouped = counts if photos else counts.view(-1, 1)
        groups = grouped.amax(1).argsort(dim=0, descending=True, stable=True)
        grouped = grouped[groups]
        frames = grouped.argsort(dim=1, descending=True, stable=True)
        shape = (counts.shape[0], counts.shape[1])
        return cls(groups, frames, grouped.gather(1, frames), shape)

    def sort(self, values: np.ndarray) -> Tensor:
        """Sort `[B, T, ...]` into `[G, n, ...]`."""
        tensor = torch.from_numpy(values)
        tensor = tensor.reshape(*self.frames.shape, *tensor.shape[2:])
        return tensor[self.groups[:, None], self.frames]

    def restore(self, values: Tensor) -> Tensor:
        """Bring `[G, n, ...]` back to `[B, T, ...]`."""
        result = torch.empty_like(values)
        result[self.groups[:, None].to(values.device), self.frames.to(values.device)] = values
        return result.view(*self.shape, *values.shape[2:])


def _stack(shots: Sequence[Shot], which: Callable[[Shot], Movement | None]) -> Movement:
    """Put the movements of clips together: `[B, T, 3, 3]` and `[B, T, S, 3, 3]`.

    Where a clip has fewer than S sub-frames the last is repeated; it has no weight there.
    """
    movements = [movement for movement in map(which, shots) if movement is not None]
    longest = max(movement.sub_frames.shape[1] for movement in movements)
    index = [np.minimum(np.arange(longest), m.sub_frames.shape[1] - 1) for m in movements]
    sub_frames = [m.sub_frames[:, i] for m, i in zip(movements, index, strict=True)]
    middle = np.stack([movement.middle for movement in movements])
    return Movement(middle=middle, sub_frames=np.stack(sub_frames))


def _prepare(sources: Tensor, response: Tensor) -> Tensor:
    """Enlarge uint8 `[B, T, 3, H, W]` on the same pixel centres and turn it into light.

    Returns:
        float32 `[B * T, 3, 2H - 1, 2W - 1]`, linear light.
    """
    num_clips, num_sources, _, height, width = sources.shape
    larger = [_ENLARGEMENT * (side - 1) + 1 for side in (height, width)]
    pixels = sources.flatten(0, 1)
    if pixels.device.type == "cpu":
        # The 8-bit kernel is ten times as fast as the float one; other devices lack it.
        pixels = F.interpolate(pixels, larger, mode="bicubic", align_corners=True)
    else:
        pixels = F.interpolate(pixels.float(), larger, mode="bicubic", align_corners=True)
        pixels = pixels.round_().clamp_(0, 255).byte()
    light = to_linear(pixels.unflatten(0, (num_clips, num_sources)), response)
    return light.flatten(0, 1)


def _add_mask(picture: Tensor, shot: Shot) -> Tensor:
    """Append the mask as a fourth channel to `[3, H, W]`, and weight the light by it."""
    assert shot.mask is not None
    height, width = picture.shape[-2:]
    field = torch.from_numpy(shot.mask)[None, None].to(picture.device)
    field = F.interpolate(field, (height, width), mode="bicubic", align_corners=True)[0]
    # The field rises by a few units across the picture: an edge about 2 source pixels wide.
    mask = torch.sigmoid(field * (0.15 * min(height, width)))
    return torch.cat([picture * mask, mask])


def _expose(pictures: list[Tensor], matrices: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Look at the scene through one homography per frame and layer.

    Args:
        pictures: Light, `[G, 3, H, W]`, then, if any, the foreground, `[G, 4, H, W]`.
        matrices: `[G, n, 3, 3]` each, output to source pixels from the centre.
        size: Output height and width.

    Returns:
        Linear light, `[G, n, 3, h, w]`.
    """
    views = [_warp(p, m, size) for p, m in zip(pictures, matrices, strict=True)]
    if len(views) == 1:
        return views[0]
    scene, front = views
    return front[:, :, :3] + scene * (1 - front[:, :, 3:])


def _warp(picture: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    num_groups, num_frames = matrices.shape[:2]
    (height, width), (src_h, src_w) = size, picture.shape[-2:]
    # Centred source pixels to the -1..1 of grid_sample with align_corners=True.
    to_grid = matrices.new_tensor([(src_w - 1) / 2, (src_h - 1) / 2, 1.0]) / _ENLARGEMENT
    to_grid[2] = 1.0
    matrices = matrices / to_grid[:, None]
    x = torch.arange(width, device=picture.device) - (width - 1) / 2
    y = torch.arange(height, device=picture.device) - (height - 1) / 2
    # Row and column parts are added: cheaper than a product with all pixel coordinates.
    along_x = matrices[..., 0, None, None] * x
    along_y = matrices[..., 1, None, None] * y[:, None] + matrices[..., 2, None, None]
    depth = along_x[..., 2, :, :] + along_y[..., 2, :, :]
    grid = matrices.new_empty((num_groups, num_frames, height, width, 2))
    for axis in range(2):
        position = along_x[..., axis, :, :] + along_y[..., axis, :, :]
        torch.div(position, depth, out=grid[..., axis])
    view = F.grid_sample(
        picture,
        grid.view(num_groups, num_frames * height, width, 2),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=True,
    )
    view = view.view(num_groups, -1, num_frames, height, width)
    return view.transpose(1, 2)
