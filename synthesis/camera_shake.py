"""Random camera trajectories: how a hand-held camera moves over a clip.

Time is counted in frame intervals: frame i opens its shutter at instant i. A trajectory is
six curves (shift x and y, rotation, zoom, perspective x and y), each in pixels of movement
that it causes at the frame's corner, so that one strength fits every frame size. Everything
here is tiny and lives on the CPU; only the homographies made from it travel to a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

KNOTS_PER_FRAME = 8
"""Density of the stored curves; a cubic goes through them, so tremor of up to 3 cycles per
frame survives."""

NUM_CURVES = 6
_PAUSED_SPEED = 0.03
"""A resting hand still trembles: the share of its speed that is left during a pause."""

_RANGES = (
    "exposure",
    "motion",
    "rotation",
    "zoom",
    "perspective",
    "smoothness",
    "centring",
    "source_scale",
)


@dataclass(frozen=True, kw_only=True)
class ShakeConfig:
    """What blur to synthesise. Every range is (lowest, highest), drawn once per clip."""

    exposure: tuple[float, float] = (0.1, 1.0)
    """Open time of the shutter as a share of the frame interval, uniform."""
    motion: tuple[float, float] = (8.0, 40.0)
    """Speed of the picture while it moves (root mean square), pixels per frame, log-uniform."""
    max_motion: float = 60.0
    """Speed in pixels per frame that is approached but never passed by the shift."""
    rotation: tuple[float, float] = (0.0, 0.5)
    """Speed of the corners through rotation, as a share of `motion`."""
    zoom: tuple[float, float] = (0.0, 0.25)
    """Speed of the corners through zoom, as a share of `motion`."""
    perspective: tuple[float, float] = (0.0, 0.15)
    """Speed of the corners through tilting, as a share of `motion`."""
    smoothness: tuple[float, float] = (0.5, 3.0)
    """Time in frames over which the hand keeps its speed, log-uniform: tremor to drift."""
    centring: tuple[float, float] = (3.0, 12.0)
    """Time in frames over which the hand finds back to where it aimed, log-uniform."""
    jerk_rate: float = 0.15
    """Jerks per frame; each adds about twice the usual speed and fades within half a frame."""
    pause_probability: float = 0.6
    """Share of clips in which the hand rests between shakes, so that sharp frames alternate
    with blurry ones."""
    pause_frames: float = 1.5
    """Mean length of a pause, in frames."""
    active_frames: float = 3.5
    """Mean time between two pauses, in frames."""
    source_scale: tuple[float, float] = (1.0, 1.25)
    """Source pixels per output pixel. Above 1 the source is shrunk, which hides its own
    softness."""
    foreground_probability: float = 0.2
    """Share of clips with a layer in front that moves by itself, if foregrounds are given."""
    sharp_probability: float = 0.1
    """Share of clips without blur (blurry equals sharp): the identity must be learned too."""
    min_sub_frames: int = 8
    """Sub-frames averaged into a frame at rest."""
    max_sub_frames: int = 32
    """Sub-frames averaged into a frame in the fastest motion."""
    sub_frame_step: float = 1.25
    """Movement between neighbouring sub-frames that is aimed at, in pixels; larger steps show
    as separate ghosts."""

    def __post_init__(self) -> None:
        for name in _RANGES:
            low, high = getattr(self, name)
            if not 0 <= low <= high < math.inf:
                raise ValueError(
                    f"{name}: expected (lowest, highest) with 0 <= lowest <= highest, "
                    f"got {(low, high)}"
                )
        for name in ("pause_probability", "foreground_probability", "sharp_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.exposure[1] > 1:
            raise ValueError(f"exposure cannot exceed 1 frame interval, got {self.exposure}")
        for name in ("smoothness", "centring", "source_scale"):
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("max_motion", "pause_frames", "active_frames", "sub_frame_step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.jerk_rate < 0:
            raise ValueError(f"jerk_rate must be 0 or more, got {self.jerk_rate}")
        if not 1 <= self.min_sub_frames <= self.max_sub_frames:
            raise ValueError(
                "expected 1 <= min_sub_frames <= max_sub_frames, got "
                f"{self.min_sub_frames} and {self.max_sub_frames}"
            )


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The camera path of one clip, ready to be evaluated at any instant."""

    positions: Tensor
    """float32 `[knots, 6]`, pixels at the corner. Knot j is at instant
    `(j - 1) / KNOTS_PER_FRAME`; one knot lies before the clip and two after it."""
    exposure: float
    """Share of the frame interval; 0 means no blur at all."""
    source_scale: float
    """Source pixels per output pixel."""
    size: tuple[int, int]
    """Height and width of the frames, in pixels."""

    @property
    def num_frames(self) -> int:
        """Length of the clip, in frames."""
        return (len(self.positions) - 3) // KNOTS_PER_FRAME

    def positions_at(self, instants: Tensor) -> Tensor:
        """Evaluate the six curves by Catmull-Rom interpolation.

        Args:
            instants: float32 `[N]`, in frames, from 0 to the number of frames.

        Returns:
            float32 `[N, 6]`, pixels at the corner.
        """
        knot = instants * KNOTS_PER_FRAME
        start = knot.floor().clamp(0, len(self.positions) - 4)
        u = (knot - start)[:, None]
        p0, p1, p2, p3 = (self.positions[start.long() + k] for k in range(4))
        bend = u * (2 * p0 - 5 * p1 + 4 * p2 - p3 + u * (3 * (p1 - p2) + p3 - p0))
        return p1 + 0.5 * u * (p2 - p0 + bend)

    def homographies(self, instants: Tensor) -> Tensor:
        """Map output pixels to source pixels, both counted from the centre of their picture.

        Args:
            instants: float32 `[N]`, in frames, from 0 to the number of frames.

        Returns:
            float32 `[N, 3, 3]`.
        """
        radius = 0.5 * math.hypot(*self.size)
        shift_x, shift_y, turn, zoom, tilt_x, tilt_y = self.positions_at(instants).unbind(-1)
        # The bounds keep a long drift from turning the picture inside out.
        angle = (turn / radius).clamp(-0.6, 0.6)
        scale = self.source_scale * torch.exp((zoom / radius).clamp(-0.4, 0.4))
        tilts = [(tilt / radius).clamp(-0.25, 0.25) / radius for tilt in (tilt_x, tilt_y)]
        cos, sin = scale * angle.cos(), scale * angle.sin()
        shifts = [self.source_scale * shift for shift in (shift_x, shift_y)]
        rows = [cos, -sin, shifts[0], sin, cos, shifts[1], *tilts, torch.ones_like(cos)]
        return torch.stack(rows, -1).unflatten(-1, (3, 3))

    def exposure_instants(self, num_sub_frames: int) -> Tensor:
        """Place sub-frames at the middles of equal parts of each exposure.

        With exposure 1 the step from the last sub-frame of a frame to the first of the next
        is the same as all others.

        Returns:
            float32 `[T, S]`, in frames.
        """
        offsets = (torch.arange(num_sub_frames) + 0.5) / num_sub_frames
        return torch.arange(self.num_frames)[:, None] + self.exposure * offsets

    def middle_instants(self) -> Tensor:
        """Instants of the sharp frames: float32 `[T]`, the middle of each exposure."""
        return torch.arange(self.num_frames) + 0.5 * self.exposure

    def path_lengths(self) -> Tensor:
        """Measure how far the picture moves during each exposure.

        Returns:
            float32 `[T]`, output pixels, of the corner that moves furthest.
        """
        offsets = torch.linspace(0, 1, KNOTS_PER_FRAME + 1)
        instants = torch.arange(self.num_frames)[:, None] + self.exposure * offsets
        matrices = self.homographies(instants.flatten())
        half_h, half_w = self.size[0] / 2, self.size[1] / 2
        corners = torch.tensor(
            [[x, y, 1.0] for x in (-half_w, half_w) for y in (-half_h, half_h)]
        )
        mapped = (matrices[:, None] * corners[:, None]).sum(-1)
        points = (mapped[..., :2] / mapped[..., 2:]).unflatten(0, instants.shape)
        return points.diff(dim=1).norm(dim=-1).sum(1).amax(-1) / self.source_scale


def sample_trajectory(
    num_frames: int,
    config: ShakeConfig,
    generator: torch.Generator,
    *,
    size: tuple[int, int],
) -> Trajectory:
    """Draw one smooth camera path.

    The speed of the hand is a filtered random process (it forgets itself over `smoothness`
    frames) plus decaying jerks, pulled back to where the hand aims, and throttled in pauses.

    Args:
        num_frames: Length T, in frames.
        config: Ranges to draw from.
        generator: CPU generator; the same state gives the same path.
        size: Height and width of the frames, in pixels.

    Raises:
        ValueError: If there is no frame.
    """
    if num_frames < 1:
        raise ValueError(f"expected at least one frame, got {num_frames}")

    def chance() -> float:
        return float(torch.rand((), generator=generator))

    def uniform(low_high: tuple[float, float]) -> float:
        low, high = low_high
        return low + (high - low) * chance()

    def log_uniform(low_high: tuple[float, float]) -> float:
        low, high = (math.log(max(value, 1e-6)) for value in low_high)
        return math.exp(low + (high - low) * chance())

    exposure = uniform(config.exposure)
    is_sharp = chance() < config.sharp_probability
    motion = log_uniform(config.motion) if config.motion[1] > 0 else 0.0
    turn, zoom, tilt = (uniform(r) for r in (config.rotation, config.zoom, config.perspective))
    # Shift and tilt have two directions, which share their speed.
    speeds = np.array([math.sqrt(0.5)] * 2 + [turn, zoom] + [math.sqrt(0.5) * tilt] * 2)
    positions = _walk(
        motion * speeds,
        num_frames * KNOTS_PER_FRAME + 3,
        config,
        generator,
        smoothness=log_uniform(config.smoothness),
        centring=log_uniform(config.centring),
        has_pauses=chance() < config.pause_probability,
    )
    return Trajectory(
        positions=torch.from_numpy(positions),
        exposure=0.0 if is_sharp else exposure,
        source_scale=uniform(config.source_scale),
        size=size,
    )


def _walk(
    speeds: np.ndarray,
    num_knots: int,
    config: ShakeConfig,
    generator: torch.Generator,
    *,
    smoothness: float,
    centring: float,
    has_pauses: bool,
) -> np.ndarray:
    """Integrate the random speed of the six curves: float32 `[knots, 6]`, centred."""
    dt = 1 / KNOTS_PER_FRAME
    noise, jerks = torch.randn(2, num_knots, NUM_CURVES, generator=generator).double().numpy()
    chance = torch.rand(2, num_knots, generator=generator).tolist()
    jerks *= 2 * (np.array(chance[0])[:, None] < config.jerk_rate * dt)
    # The first draw of the same chance decides whether the clip opens with a pause.
    total = config.pause_frames + config.active_frames
    paused = has_pauses and chance[1][0] < config.pause_frames / total
    gate = _PAUSED_SPEED if paused else 1.0
    keep, jerk_keep = math.exp(-dt / smoothness), math.exp(-dt / 0.3)
    fresh = math.sqrt(1 - keep**2)
    drift, jerk = noise[0], jerks[0]
    path = np.zeros((num_knots, NUM_CURVES))
    for step in range(num_knots - 1):
        drift = keep * drift + fresh * noise[step]
        jerk = jerk_keep * jerk + jerks[step]
        length = config.pause_frames if paused else config.active_frames
        if has_pauses and chance[1][step] < dt / length:
            paused = not paused
        gate += ((_PAUSED_SPEED if paused else 1.0) - gate) * (dt / 0.25)
        velocity = speeds * (drift + jerk) - path[step] / centring
        excess = math.hypot(velocity[0], velocity[1]) / config.max_motion
        path[step + 1] = path[step] + dt * gate / math.sqrt(1 + excess**2) * velocity
    # Drift and jerks are defined by their speed, so the middle of the clip is as good an aim
    # as its start, and leaves the margin of the source on both sides.
    path -= 0.5 * (path.max(0) + path.min(0))
    return path.astype(np.float32)
