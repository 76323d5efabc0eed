"""How one clip is filmed: a camera path worked out to the homographies of every sub-frame.

A shot is a few kilobytes, made on the CPU from one generator, for one clip alone: all random
numbers and all trigonometry of synthetic blur are in it. What `motion_blur` then does with
pixels is the same for a clip whatever other clips are rendered with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from .camera_response import RESPONSES
from .camera_shake import ShakeConfig, Trajectory, sample_trajectory


@dataclass(frozen=True, kw_only=True, eq=False)
class Movement:
    """How one picture moves: homographies from output to source pixels, from the centre."""

    middle: np.ndarray
    """float32 `[T, 3, 3]`, at the middle of each exposure."""
    sub_frames: np.ndarray
    """float32 `[T, S, 3, 3]`, over each exposure."""

    def part(self, start: int, stop: int) -> Movement:
        """Return the movement over some of the frames."""
        return Movement(middle=self.middle[start:stop], sub_frames=self.sub_frames[start:stop])


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """How one clip is filmed.

    NumPy arrays, not tensors: from one process to another each tensor travels as a file.
    """

    size: tuple[int, int]
    """Height and width of the result, in pixels."""
    counts: np.ndarray
    """int64 `[T]`, sub-frames that are averaged into each frame: S or fewer."""
    response: int
    """Index into `camera_response.RESPONSES`."""
    scene: Movement
    """Of the source."""
    front: Movement | None = None
    """Of a picture that passes in front."""
    mask: np.ndarray | None = None
    """float32 `[64, 64]`: that picture covers where this smooth field is above 0."""

    def overreach(self, height: int, width: int) -> float:
        """Return how far the camera looks beyond a source, in source pixels; 0: nowhere."""
        half_h, half_w = self.size[0] / 2, self.size[1] / 2
        corners = np.array([[x, y, 1] for x in (-half_w, half_w) for y in (-half_h, half_h)])
        seen = self.scene.sub_frames[:, :, None] @ corners[..., None]
        x, y = np.abs(seen[..., :2, 0] / seen[..., 2:, 0]).reshape(-1, 2).max(0)
        return float(max(x - width / 2, y - height / 2, 0))

    def part(self, start: int, stop: int) -> Shot:
        """Return some of the frames as a shot of their own, which renders to the same."""
        return replace(
            self,
            counts=self.counts[start:stop],
            scene=self.scene.part(start, stop),
            front=self.front and self.front.part(start, stop),
        )


def draw_shot(
    num_frames: int,
    size: tuple[int, int],
    config: ShakeConfig,
    generator: torch.Generator,
    *,
    may_have_front: bool = False,
) -> Shot:
    """Draw how a shaking camera films one clip.

    Args:
        num_frames: Length T of the clip.
        size: Height and width of the result, in pixels.
        config: What motion to draw.
        generator: CPU generator; the same state gives the same shot.
        may_have_front: Whether there is a picture that may pass in front
            (`config.foreground_probability`).
    """
    path = sample_trajectory(num_frames, config, generator, size=size)
    # Half of the clips see the measured response, the first: no real camera is a plain gamma.
    others = len(RESPONSES) - 1
    response = max(int(torch.rand((), generator=generator) * 2 * others) - others + 1, 0)
    chance = float(torch.rand((), generator=generator))
    if not may_have_front or chance >= config.foreground_probability:
        return plan_shot(path, response, config)
    front = sample_trajectory(num_frames, config, generator, size=size)
    front = replace(front, exposure=path.exposure)
    return plan_shot(path, response, config, front=front, mask=_sample_mask(generator))


def plan_shot(
    path: Trajectory,
    response: int,
    config: ShakeConfig,
    *,
    front: Trajectory | None = None,
    mask: np.ndarray | None = None,
) -> Shot:
    """Work out a shot along given camera paths.

    Each frame has as many sub-frames as its motion needs.

    Args:
        path: Camera path of the clip.
        response: Index into `camera_response.RESPONSES`.
        config: Gives the limits on sub-frames.
        front: Path of the picture in front, if any.
        mask: Its mask, as in `Shot`.
    """
    paths = [path] if front is None else [path, front]
    length = torch.stack([one.path_lengths() for one in paths]).amax(0)
    counts = (length / config.sub_frame_step).ceil().long()
    counts = counts.clamp(config.min_sub_frames, config.max_sub_frames)
    if path.exposure == 0:
        counts = torch.ones_like(counts)
    return Shot(
        size=path.size,
        counts=counts.numpy(),
        response=response,
        scene=_plan_movement(path, counts),
        front=None if front is None else _plan_movement(front, counts),
        mask=mask,
    )


def _plan_movement(path: Trajectory, counts: torch.Tensor) -> Movement:
    """Evaluate a path at the sub-frames of each frame.

    Frames with fewer sub-frames repeat instants past their exposure; those have no weight.
    """
    offsets = (torch.arange(int(counts.max())) + 0.5) / counts[:, None]
    instants = torch.arange(path.num_frames)[:, None] + path.exposure * offsets.clamp_max(1.0)
    sub_frames = path.homographies(instants.flatten()).unflatten(0, instants.shape)
    middle = path.homographies(path.middle_instants())
    return Movement(middle=middle.numpy(), sub_frames=sub_frames.numpy())


def _sample_mask(generator: torch.Generator) -> np.ndarray:
    noise = torch.randn(1, 1, 5, 5, generator=generator)
    field = F.interpolate(noise, (64, 64), mode="bicubic", align_corners=True)[0, 0]
    cover = 0.15 + 0.3 * float(torch.rand((), generator=generator))
    ranked = field.flatten().sort(descending=True).values
    return (field - ranked[int(cover * (len(ranked) - 1))]).numpy()
