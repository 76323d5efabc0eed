"""Engines: what restores a clip, behind one interface for every kind of network.

`Engine.restore` takes a clip in memory; `streaming.stream` takes clips of any length. Both
restore segments with the same code: the engine's own phases, then those that all share
(`SegmentRestorer`). `load.load_deblurrer` makes the engine of a checkpoint.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .denoising.windows import Span, shots
from .frames import DeviceFrames, TensorFrames, copied, usable_frames
from .phases import blend_clip
from .progress import ProgressCallback, Work
from .settings import RestorationSettings
from .streaming.segments import Segment, SegmentGrid, widened

if TYPE_CHECKING:
    from .clip_priors import GivenPriors
    from .first_stage.stage import FirstStage

logger = logging.getLogger(__name__)


class Session(ABC):
    """An engine at work on the segments of one clip, in order."""

    @property
    @abstractmethod
    def state(self) -> bytes:
        """What the next segment's result depends on besides its frames: the noise."""

    @abstractmethod
    def skip(self, num_frames: int) -> None:
        """Pass over frames that nothing is restored of."""

    def seek(self, frame: int) -> None:  # noqa: B027 (most have nothing to do)
        """Go to a frame of the clip without the state there; the noise is another one then."""

    @abstractmethod
    def count(self, segment: Segment, span: Span) -> int:
        """Return the pieces of work that `restored` will count.

        Args:
            segment: As for `restored`.
            span: As for `restored`.
        """

    @abstractmethod
    def restored(
        self,
        frames: DeviceFrames,
        shares: Sequence[float],
        segment: Segment,
        span: Span,
        next_context: int,
        work: Work,
    ) -> Iterator[Tensor]:
        """Restore frames of a segment, each by itself or with what is around it.

        Args:
            frames: Of the segment's context.
            shares: Of each; 0 for frames that stay as they are.
            segment: Where they lie in the clip.
            span: First frame that is wanted, and one past the last, within `frames`.
            next_context: Where the context of the next segment starts, in the clip.
            work: To count with.

        Yields:
            `[H, W, 3]`, float32, not clamped, on the device; frames of share 0 unchanged.
        """


class Engine(ABC):
    """What restores clips with the networks of a checkpoint.

    Args:
        model: The network, in evaluation mode, already on `device`.
        device: Where to compute.
        dtype: What the network computes in, where it need not be exact.
    """

    restores_singly = False
    """Whether every frame is restored by itself, the same in any segment that holds it."""
    first_stage: FirstStage | None = None
    """Another network whose results are candidates of fusion."""
    priors: GivenPriors | None = None
    """Coding priors of the clip, for networks that read them; None: they find their own."""

    def __init__(
        self,
        model: Any,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model
        self.device = torch.device(device)
        self.dtype = dtype
        self._warned: set[str] = set()

    @property
    def config(self) -> Any:
        """Of the checkpoint."""
        return self.model.config

    def warn_once(self, message: str) -> None:
        """Log a warning that this engine has not logged yet."""
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)

    @classmethod
    @abstractmethod
    def grid(
        cls, config: Any, settings: RestorationSettings, height: int, width: int
    ) -> SegmentGrid:
        """Return how clips of such frames (pixels) are cut into segments."""

    @classmethod
    def near(cls, config: Any) -> int | None:
        """Return how many frames on either side a restored one depends on.

        None: those that it shares windows with, as `grid` cuts them.
        """
        return None

    @classmethod
    def fitted(
        cls, settings: RestorationSettings, height: int, width: int
    ) -> RestorationSettings:
        """Return settings whose windows hold no more frames of this size than fit: here all."""
        return settings

    @property
    def networks(self) -> list[tuple[type[Engine], Any]]:
        """Engine and config of this network, and of the first stage."""
        engines = [self] if self.first_stage is None else [self, self.first_stage.engine]
        return [(type(engine), engine.config) for engine in engines]

    def joint_grid(self, settings: RestorationSettings, height: int, width: int) -> SegmentGrid:
        """Return how clips are cut for this network and the first stage."""
        return joint_grid(self.networks, settings, height, width)

    @classmethod
    @abstractmethod
    def noise_shape(cls, config: Any, height: int, width: int) -> tuple[int, int, int] | None:
        """Return channels, height and width of a frame's start noise; None without noise."""

    @abstractmethod
    def session(
        self,
        settings: RestorationSettings,
        height: int,
        width: int,
        state: bytes | None = None,
        *,
        grid: SegmentGrid | None = None,
    ) -> Session:
        """Begin a clip, at its start or where `state` was taken.

        `grid` says how the clip is cut where another network needs more around each segment.
        """

    # Not inference mode: callers may change the result in place.
    @torch.no_grad()
    def restore(
        self,
        frames: Tensor,
        settings: RestorationSettings,
        callback: ProgressCallback | None = None,
    ) -> Tensor:
        """Restore a clip: every shot is one segment.

        Args:
            frames: `[T, H, W, C]`, float32 in 0..1; any T, H, W from 1 up, C = 3 or 4 with
                alpha, which passes through. Values outside are limited.
            settings: What the user chose.
            callback: Progress; may raise to cancel.

        Returns:
            The same shape, float32 in 0..1, where `frames` are.

        Raises:
            ValueError: If the frames are not of that form, or hold NaN.
            FloatingPointError: If the network gives values that are not finite.
        """
        # Not at the top: ComfyUI loads this file at start-up and does not need these.
        from .streaming.footage import survey_clip
        from .streaming.stream import SegmentRestorer

        frames = usable_frames(frames)
        if settings.strength == 0:
            return copied(frames)
        cuts, shares = survey_clip((frame.cpu().numpy() for frame in frames), settings)
        if not any(shares):
            return copied(frames)
        height, width = frames.shape[1:3]
        restorer = SegmentRestorer(self, settings, height, width)
        spans = shots(len(frames), cuts)
        segments = [
            Segment(start=start, stop=stop, context_start=start, context_stop=stop)
            for start, stop in spans
        ]
        work = Work(callback, sum(map(restorer.count, segments)))
        clip = TensorFrames(frames, self.device)
        amounts = [settings.strength * share for share in shares]
        result = copied(frames)
        for segment in segments:
            part = slice(segment.start, segment.stop)
            shot = TensorFrames(frames[part], self.device)
            restored = restorer.restored(shot, shares[part], segment, segment.stop, work)
            blend_clip(result, clip, restored, amounts, settings.color_match)
        work.finish()
        return result


def joint_grid(
    networks: Sequence[tuple[type[Engine], Any]],
    settings: RestorationSettings,
    height: int,
    width: int,
) -> SegmentGrid:
    """Return a grid whose segments hold what each of some networks needs.

    Args:
        networks: Engine and config of each.
        settings: Of all of them.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
    """
    # All that cut windows cut the same ones, as the settings say.
    settings = joint_settings(networks, settings, height, width)
    windowed = [each for each in networks if each[0].near(each[1]) is None]
    grids = [
        engine.grid(config, settings, height, width)
        for engine, config in windowed or networks[:1]
    ]
    nearest = max(engine.near(config) or 0 for engine, config in networks)
    # One that samples in steps needs more around each segment than one that does not.
    return widened(max(grids, key=lambda grid: (grid.context, grid.length)), nearest)


def joint_settings(
    networks: Sequence[tuple[type[Engine], Any]],
    settings: RestorationSettings,
    height: int,
    width: int,
) -> RestorationSettings:
    """Return settings whose windows fit every one of some networks; arguments as above."""
    for engine, _ in networks:
        settings = engine.fitted(settings, height, width)
    return settings
