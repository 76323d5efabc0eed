"""Synthetic motion blur: photos and clips shaken by a camera, averaged in linear light.

Clips are `[B, T, 3, H, W]` here, RGB: uint8 as sources, float32 in 0..1 as results. All
arithmetic happens on the device of the sources, without gradients; random numbers come from
a CPU generator, so that the same state gives the same clip.

Sharpness of the targets: a warp puts output pixels between source pixels, and bilinear
interpolation there softens blurry and sharp frames alike, so a network would learn soft
targets. Sources are therefore enlarged once, twofold and bicubically on the same pixel
centres (original pixels stay exact), turned into light once, and read bilinearly from there:
near bicubic sharpness at a third of the cost of bicubic reads of every sub-frame. Blurry and
sharp frames use the same reads, so a camera at rest gives two equal frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .camera_response import RESPONSES, to_display, to_linear
from .camera_shake import ShakeConfig, Trajectories, sample_trajectories
from .degradation import compress_h264, compress_jpeg, degrade

__all__ = [
    "ShakeConfig",
    "Trajectories",
    "average_frames",
    "compress_h264",
    "compress_jpeg",
    "degrade",
    "render_clips",
    "sample_trajectories",
    "shake_clips",
]

_ENLARGEMENT = 2


@torch.no_grad()
def shake_clips(
    sources: Tensor,
    num_frames: int,
    size: tuple[int, int],
    config: ShakeConfig,
    generator: torch.Generator,
    foregrounds: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Film photos or clips with a shaking camera.

    Args:
        sources: uint8 `[B, 1, 3, H, W]` photos or `[B, T, 3, H, W]` clips. Make them larger
            than `size`: the camera moves within the margin, and sees a mirror image beyond.
        num_frames: Length T of the result.
        size: Height and width of the result, in pixels, from the middle of the sources.
        config: What motion to draw.
        generator: CPU generator.
        foregrounds: uint8 `[B, 3, H, W]` photos of any size, parts of which pass in front of
            some clips (`config.foreground_probability`); None for no foreground.

    Returns:
        Blurry and sharp clips, float32 `[B, T, 3, h, w]` in 0..1, not rounded to 8 bits. The
        sharp frame is the scene at the middle of the exposure.

    Raises:
        ValueError: If shapes or types do not fit.
    """
    _check_sources(sources, num_frames, foregrounds)
    num_clips = sources.shape[0]
    trajectories = sample_trajectories(num_clips, num_frames, config, generator, size=size)
    # Half of the clips see the measured response, since no real camera is a plain gamma.
    response = (torch.rand(num_clips, generator=generator) * 4 - 1).clamp_min(0).long()
    front_paths = sample_trajectories(num_clips, num_frames, config, generator, size=size)
    front_paths = replace(front_paths, exposure=trajectories.exposure)
    has_front = torch.rand(num_clips, generator=generator) < config.foreground_probability
    masks = _sample_masks(num_clips, generator)
    parts = [(~has_front).nonzero()[:, 0], has_front.nonzero()[:, 0]]
    if foregrounds is None:
        parts = [torch.arange(num_clips), parts[1][:0]]
    blurry = sources.new_empty((num_clips, num_frames, 3, *size), dtype=torch.float32)
    sharp = torch.empty_like(blurry)
    for part, in_front in zip(parts, (False, True), strict=True):
        if len(part) == 0:
            continue
        index = part.to(sources.device)
        layer = None
        if in_front and foregrounds is not None:
            layer = _Foreground(
                pictures=foregrounds[index],
                masks=masks[part],
                trajectories=_select(front_paths, part),
            )
        blurry[index], sharp[index] = render_clips(
            sources[index],
            _select(trajectories, part),
            response[part],
            config,
            foreground=layer,
        )
    return blurry, sharp


@dataclass(frozen=True, kw_only=True)
class _Foreground:
    """A layer in front of the scene: uint8 `[B, 3, H, W]` under masks `[B, 1, h, w]`."""

    pictures: Tensor
    masks: Tensor
    trajectories: Trajectories


@torch.no_grad()
def render_clips(
    sources: Tensor,
    trajectories: Trajectories,
    response: Tensor,
    config: ShakeConfig,
    *,
    foreground: _Foreground | None = None,
) -> tuple[Tensor, Tensor]:
    """Render clips along given camera paths.

    Each frame has as many sub-frames as its motion needs. Frames are sorted by that number,
    so that every round of the loop renders one sub-frame of those still in need.

    Args:
        sources: uint8 `[B, 1, 3, H, W]` or `[B, T, 3, H, W]`.
        trajectories: Camera paths of B clips of T frames.
        response: int64 `[B]`, indices into `camera_response.RESPONSES`.
        config: Gives the limits on sub-frames.
        foreground: A layer in front, with its own paths.

    Returns:
        Blurry and sharp clips, float32 `[B, T, 3, h, w]` in 0..1.
    """
    device = sources.device
    num_clips, num_frames = sources.shape[0], trajectories.num_frames
    paths = [trajectories] if foreground is None else [trajectories, foreground.trajectories]
    counts = _count_sub_frames(paths, config)
    # A photo serves all frames of its clip with one read; in a real clip every frame is its
    # own source. Either way: groups of frames that share one source.
    groups = (num_clips, num_frames) if sources.shape[1] == 1 else (num_clips * num_frames, 1)
    grouped = counts.view(groups)
    group_order = grouped.amax(1).argsort(dim=0, descending=True, stable=True)
    grouped = grouped[group_order]
    frame_order = grouped.argsort(dim=1, descending=True, stable=True)
    sorted_counts = grouped.gather(1, frame_order)

    def by_need(values: Tensor) -> Tensor:
        values = values.view(*groups, *values.shape[2:])[group_order]
        return values[torch.arange(groups[0])[:, None], frame_order].to(device)

    response = response.to(device)
    pictures = [_prepare(sources, response)]
    if foreground is not None:
        picture = _prepare(foreground.pictures[:, None], response)
        picture = _add_mask(picture, foreground.masks.to(device))
        pictures.append(picture.repeat_interleave(groups[0] // num_clips, 0))
    pictures = [picture[group_order.to(device)] for picture in pictures]
    middle = [by_need(path.homographies(path.middle_instants())) for path in paths]
    moving = [by_need(_sub_frame_homographies(path, counts)) for path in paths]

    sharp = _expose(pictures, middle, trajectories.size)
    light = torch.zeros_like(sharp)
    weights = (1 / sorted_counts).to(device)
    for k in range(int(counts.max())):
        needy = sorted_counts > k
        g, n = int(needy.any(1).sum()), int(needy.sum(1).max())
        views = [path[:g, :n, k] for path in moving]
        sub_frame = _expose([p[:g] for p in pictures], views, trajectories.size)
        weight = (weights[:g, :n] * needy[:g, :n].to(device)).view(g, n, 1, 1, 1)
        light[:g, :n].addcmul_(sub_frame, weight)

    results = []
    for frames in (light, sharp):
        restored_order = torch.empty_like(frames)
        restored_order[group_order[:, None].to(device), frame_order.to(device)] = frames
        clips = restored_order.view(num_clips, num_frames, *frames.shape[2:])
        results.append(to_display(clips, response))
    return results[0], results[1]


@torch.no_grad()
def average_frames(
    frames: Tensor, num_averaged: int, *, response: int = 0, stride: int | None = None
) -> tuple[Tensor, Tensor]:
    """Blur a high-speed clip by averaging consecutive frames in linear light.

    Args:
        frames: uint8 `[N, 3, H, W]`, sharp frames at a high rate.
        num_averaged: Frames k per blurry frame; below 8 the steps tend to show.
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
    if num_averaged < 1 or stride < 1 or not 0 <= response < len(RESPONSES):
        raise ValueError(
            f"expected num_averaged and stride of at least 1 and a response below "
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


def _check_sources(sources: Tensor, num_frames: int, foregrounds: Tensor | None) -> None:
    if sources.ndim != 5 or sources.shape[2] != 3 or sources.dtype != torch.uint8:
        raise ValueError(
            f"sources: expected uint8 [B, T, 3, H, W], got {sources.dtype} "
            f"{list(sources.shape)}"
        )
    if sources.shape[1] not in (1, num_frames):
        raise ValueError(
            f"sources: expected 1 or {num_frames} frames per clip, got {sources.shape[1]}"
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


def _select(paths: Trajectories, clips: Tensor) -> Trajectories:
    return replace(
        paths,
        positions=paths.positions[clips],
        exposure=paths.exposure[clips],
        source_scale=paths.source_scale[clips],
    )


def _count_sub_frames(paths: list[Trajectories], config: ShakeConfig) -> Tensor:
    """Choose sub-frames per frame by how far its picture moves: int64 `[B, T]`."""
    length = torch.stack([path.path_lengths() for path in paths]).amax(0)
    counts = (length / config.sub_frame_step).ceil().long()
    counts = counts.clamp(config.min_sub_frames, config.max_sub_frames)
    return counts.masked_fill(paths[0].exposure[:, None] == 0, 1)


def _sub_frame_homographies(path: Trajectories, counts: Tensor) -> Tensor:
    """Evaluate the path at the sub-frames of each frame: `[B, T, S, 3, 3]`, S the largest.

    Frames with fewer sub-frames repeat instants past their exposure; nobody reads those.
    """
    num_sub_frames = int(counts.max())
    offsets = (torch.arange(num_sub_frames) + 0.5) / counts[..., None]
    frames = torch.arange(path.num_frames)[:, None]
    instants = frames + path.exposure[:, None, None] * offsets.clamp_max(1.0)
    return path.homographies(instants.flatten(1)).unflatten(1, (path.num_frames, -1))


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


def _sample_masks(num_clips: int, generator: torch.Generator) -> Tensor:
    """Draw smooth height fields `[B, 1, 64, 64]`; a layer covers where they are above 0."""
    noise = torch.randn(num_clips, 1, 5, 5, generator=generator)
    field = F.interpolate(noise, (64, 64), mode="bicubic", align_corners=True)
    cover = 0.15 + 0.3 * torch.rand(num_clips, generator=generator)
    ranked = field.flatten(1).sort(1, descending=True).values
    level = ranked.gather(1, (cover * (ranked.shape[1] - 1)).long()[:, None])
    return field - level.view(-1, 1, 1, 1)


def _add_mask(picture: Tensor, fields: Tensor) -> Tensor:
    """Append the mask as a fourth channel, and weight the light by it (premultiplied)."""
    height, width = picture.shape[-2:]
    fields = F.interpolate(fields, (height, width), mode="bicubic", align_corners=True)
    # The field rises by a few units across the picture: an edge about 2 source pixels wide.
    mask = torch.sigmoid(fields * (0.15 * min(height, width)))
    return torch.cat([picture * mask, mask], 1)


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
