"""Random camera trajectories: how a hand-held camera moves over a clip.

Time is counted in frame intervals: frame i opens its shutter at instant i. A trajectory is
six curves (shift x and y, rotation, zoom, perspective x and y), each in pixels of movement
that it causes at the frame's corner, so that one strength fits every frame size. Everything
here is tiny and lives on the CPU; only the homographies made from it travel to a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
class Trajectories:
    """The camera paths of a batch of clips, ready to be evaluated at any instant."""

    positions: Tensor
    """float32 `[B, knots, 6]`, pixels at the corner. Knot j is at instant
    `(j - 1) / KNOTS_PER_FRAME`; one knot lies before the clip and two after it."""
    exposure: Tensor
    """float32 `[B]`, share of the frame interval; 0 means no blur at all."""
    source_scale: Tensor
    """float32 `[B]`, source pixels per output pixel."""
    size: tuple[int, int]
    """Height and width of the frames, in pixels."""

    @property
    def num_frames(self) -> int:
        """Length of the clips, in frames."""
        return (self.positions.shape[1] - 3) // KNOTS_PER_FRAME

    def positions_at(self, instants: Tensor) -> Tensor:
        """Evaluate the six curves by Catmull-Rom interpolation.

        Args:
            instants: float32 `[B, N]`, in frames, from 0 to the number of frames.

        Returns:
            float32 `[B, N, 6]`, pixels at the corner.
        """
        last = self.positions.shape[1] - 3
        knot = instants * KNOTS_PER_FRAME
        start = knot.floor().clamp(0, last - 1)
        u = (knot - start)[..., None]
        index = start.long()[..., None].expand(-1, -1, NUM_CURVES)
        p0, p1, p2, p3 = (self.positions.gather(1, index + k) for k in range(4))
        bend = u * (2 * p0 - 5 * p1 + 4 * p2 - p3 + u * (3 * (p1 - p2) + p3 - p0))
        return p1 + 0.5 * u * (p2 - p0 + bend)

    def homographies(self, instants: Tensor) -> Tensor:
        """Map output pixels to source pixels, both counted from the centre of their picture.

        Args:
            instants: float32 `[B, N]`, in frames, from 0 to the number of frames.

        Returns:
            float32 `[B, N, 3, 3]`.
        """
        radius = 0.5 * math.hypot(*self.size)
        shift_x, shift_y, turn, zoom, tilt_x, tilt_y = self.positions_at(instants).unbind(-1)
        # The bounds keep a long drift from turning the picture inside out.
        angle = (turn / radius).clamp(-0.6, 0.6)
        scale = self.source_scale[:, None] * torch.exp((zoom / radius).clamp(-0.4, 0.4))
        tilts = [(tilt / radius).clamp(-0.25, 0.25) / radius for tilt in (tilt_x, tilt_y)]
        cos, sin = scale * angle.cos(), scale * angle.sin()
        one = torch.ones_like(cos)
        base = self.source_scale[:, None]
        rows = [cos, -sin, base * shift_x, sin, cos, base * shift_y, *tilts, one]
        return torch.stack(rows, -1).unflatten(-1, (3, 3))

    def exposure_instants(self, num_sub_frames: int) -> Tensor:
        """Place sub-frames at the middles of equal parts of each exposure.

        With exposure 1 the step from the last sub-frame of a frame to the first of the next
        is the same as all others.

        Returns:
            float32 `[B, T, S]`, in frames.
        """
        offsets = (torch.arange(num_sub_frames) + 0.5) / num_sub_frames
        frames = torch.arange(self.num_frames)[:, None]
        return frames + self.exposure[:, None, None] * offsets

    def middle_instants(self) -> Tensor:
        """Instants of the sharp frames: float32 `[B, T]`, the middle of each exposure."""
        return torch.arange(self.num_frames) + 0.5 * self.exposure[:, None]

    def path_lengths(self) -> Tensor:
        """Measure how far the picture moves during each exposure.

        Returns:
            float32 `[B, T]`, output pixels, of the corner that moves furthest.
        """
        num_points = KNOTS_PER_FRAME + 1
        offsets = torch.linspace(0, 1, num_points)
        instants = torch.arange(self.num_frames)[:, None] + (
            self.exposure[:, None, None] * offsets
        )
        matrices = self.homographies(instants.flatten(1))
        half_h, half_w = self.size[0] / 2, self.size[1] / 2
        corners = torch.tensor(
            [[x, y, 1.0] for x in (-half_w, half_w) for y in (-half_h, half_h)]
        )
        mapped = torch.einsum("bnij,cj->bnci", matrices, corners)
        points = mapped[..., :2] / mapped[..., 2:]
        points = points.unflatten(1, (self.num_frames, num_points))
        steps = points.diff(dim=2).norm(dim=-1).sum(2).amax(-1)
        return steps / self.source_scale[:, None]


def sample_trajectories(
    num_clips: int,
    num_frames: int,
    config: ShakeConfig,
    generator: torch.Generator,
    *,
    size: tuple[int, int],
) -> Trajectories:
    """Draw one smooth camera path per clip.

    The speed of the hand is a filtered random process (it forgets itself over `smoothness`
    frames) plus decaying jerks, pulled back to where the hand aims, and throttled in pauses.

    Args:
        num_clips: Number of clips B.
        num_frames: Length T, in frames.
        config: Ranges to draw from.
        generator: CPU generator; the same state gives the same paths.
        size: Height and width of the frames, in pixels.

    Raises:
        ValueError: If there is no clip or no frame.
    """
    if num_clips < 1 or num_frames < 1:
        raise ValueError(f"expected at least one clip and frame, got {num_clips}, {num_frames}")

    def uniform(low_high: tuple[float, float]) -> Tensor:
        low, high = low_high
        return low + (high - low) * torch.rand(num_clips, generator=generator)

    def log_uniform(low_high: tuple[float, float]) -> Tensor:
        low, high = (math.log(max(value, 1e-6)) for value in low_high)
        return torch.exp(low + (high - low) * torch.rand(num_clips, generator=generator))

    exposure = uniform(config.exposure)
    is_sharp = torch.rand(num_clips, generator=generator) < config.sharp_probability
    motion = log_uniform(config.motion) * (config.motion[1] > 0)
    shares = [uniform(r) for r in (config.rotation, config.zoom, config.perspective)]
    shift = torch.full_like(motion, math.sqrt(0.5))
    tilt = shares[2] * math.sqrt(0.5)
    speeds = motion[:, None] * torch.stack([shift, shift, shares[0], shares[1], tilt, tilt], 1)
    positions = _walk(
        speeds,
        num_frames * KNOTS_PER_FRAME + 3,
        config,
        generator,
        smoothness=log_uniform(config.smoothness)[:, None],
        centring=log_uniform(config.centring)[:, None],
        has_pauses=torch.rand(num_clips, generator=generator) < config.pause_probability,
    )
    return Trajectories(
        positions=positions,
        exposure=exposure.masked_fill(is_sharp, 0.0),
        source_scale=uniform(config.source_scale),
        size=size,
    )


def _walk(
    speeds: Tensor,
    num_knots: int,
    config: ShakeConfig,
    generator: torch.Generator,
    *,
    smoothness: Tensor,
    centring: Tensor,
    has_pauses: Tensor,
) -> Tensor:
    """Integrate the random speed of the six curves: `[B, knots, 6]`, centred over the clip."""
    num_clips = speeds.shape[0]
    dt = 1 / KNOTS_PER_FRAME
    noise = torch.randn(num_knots, num_clips, NUM_CURVES, generator=generator)
    jerks = 2 * torch.randn(num_knots, num_clips, NUM_CURVES, generator=generator)
    chance = torch.rand(2, num_knots, num_clips, 1, generator=generator)
    jerks = jerks * (chance[0] < config.jerk_rate * dt)
    # The first draw of the same chance decides whether the clip opens with a pause.
    total = config.pause_frames + config.active_frames
    paused = has_pauses[:, None] & (chance[1, 0] < config.pause_frames / total)
    gate = torch.where(paused, _PAUSED_SPEED, 1.0)
    keep = torch.exp(-dt / smoothness)
    fresh = (1 - keep**2).sqrt()
    drift, jerk = noise[0], jerks[0]
    position = torch.zeros(num_clips, NUM_CURVES)
    positions = []
    for step in range(num_knots):
        positions.append(position)
        drift = keep * drift + fresh * noise[step]
        jerk = math.exp(-dt / 0.3) * jerk + jerks[step]
        length = torch.where(paused, config.pause_frames, config.active_frames)
        paused = has_pauses[:, None] & (paused ^ (chance[1, step] < dt / length))
        gate = gate + (torch.where(paused, _PAUSED_SPEED, 1.0) - gate) * (dt / 0.25)
        velocity = speeds * (drift + jerk) - position / centring
        excess = velocity[:, :2].norm(dim=1, keepdim=True) / config.max_motion
        position = position + dt * gate * velocity / (1 + excess**2).sqrt()
    path = torch.stack(positions, 1)
    # Drift and jerks are defined by their speed, so the middle of the clip is as good an aim
    # as its start, and leaves the margin of the source on both sides.
    return path - 0.5 * (path.amax(1, keepdim=True) + path.amin(1, keepdim=True))
