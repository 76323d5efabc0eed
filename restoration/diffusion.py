"""The engine of the diffusion model: encode, denoise, decode."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from ..models.config import DivdConfig
from ..models.divd import Divd
from ..models.schedule import clean_from_velocity
from ..restoration import phases
from .denoising.estimates import Estimates, WindowCache
from .denoising.layout import make_layout
from .denoising.noise import FrameNoise, IndexedNoise
from .denoising.windows import Layout, Span
from .engine import Engine, Session
from .frames import DeviceFrames
from .progress import Work
from .settings import RestorationSettings
from .streaming.segments import Segment, SegmentGrid, segment_grid

logger = logging.getLogger(__name__)


class Deblurrer(Engine):
    """The engine of a `Divd`.

    Its autoencoder and blur encoder are in float32: residual decoding subtracts two nearly
    equal pictures. UNet and image tower are in float32 or the dtype that they compute in.
    """

    model: Divd

    @classmethod
    def grid(
        cls, config: DivdConfig, settings: RestorationSettings, height: int, width: int
    ) -> SegmentGrid:
        """See `Engine`: segments end where windows do."""
        return segment_grid(settings, height, width)

    @classmethod
    def noise_shape(cls, config: DivdConfig, height: int, width: int) -> tuple[int, int, int]:
        """See `Engine`: the shape of a frame's latents."""
        coding = config.autoencoder
        rows, columns = -(-height // coding.downscale), -(-width // coding.downscale)
        return coding.latent_channels, rows, columns

    def session(
        self,
        settings: RestorationSettings,
        height: int,
        width: int,
        state: bytes | None = None,
        *,
        grid: SegmentGrid | None = None,
    ) -> DiffusionSession:
        """See `Engine`."""
        grid = grid or self.grid(self.config, settings, height, width)
        return DiffusionSession(self, settings, (height, width), state, grid)

    def layout(self, settings: RestorationSettings, height: int, width: int) -> Layout:
        """Return how a shot of frames of `height` x `width` pixels is cut."""
        downscale = self.model.downscale
        _, rows, columns = self.noise_shape(self.config, height, width)
        return make_layout(
            settings.window,
            settings.overlap,
            settings.tile,
            rows * downscale,
            columns * downscale,
            self.config.sampling,
            downscale,
        )

    def predict(self, x: Tensor, condition: Tensor, context: Tensor, timestep: int) -> Tensor:
        """Return the clean estimate of a piece from its noisy and its blur latents.

        Raises:
            FloatingPointError: If the network gives values that are not finite, in float32
                too.
        """
        timesteps = torch.tensor([timestep], device=self.device)
        inputs = (torch.cat([x, condition], dim=1), timesteps, context)
        with phases.computing_in(self.dtype, self.device):
            v = self.model.unet(*inputs).float()
        # One answer from the device for each piece: they take far longer than that.
        if not bool(v.isfinite().all()):
            v = self._in_float32(*inputs)
        return clean_from_velocity(self.config.schedule, x, v, timesteps)

    def _in_float32(self, *inputs: Tensor) -> Tensor:
        """Run the UNet again, past the range of the dtype it runs in."""
        message = "the network gave values that are not finite"
        weights = dict(self.model.unet.named_parameters())
        narrow = {self.dtype, *(weight.dtype for weight in weights.values())} - {torch.float32}
        if not narrow:
            raise FloatingPointError(
                f"{message}: the checkpoint may be damaged or not fit these settings; try "
                f"another one, or the preset `fast`"
            )
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in narrow))
        logger.warning("%s in %s: this window is computed in float32", message, names)
        widened = {name: weight.float() for name, weight in weights.items()}
        v = functional_call(self.model.unet, widened, inputs)
        if not bool(v.isfinite().all()):
            raise FloatingPointError(
                f"{message}, in float32 too: the checkpoint may be damaged"
            )
        return v


@dataclass(frozen=True, kw_only=True, eq=False)
class _Carried:
    """What two segments share: the last windows of one, the first of the other."""

    start: int
    """First frame of these windows."""
    condition: Tensor
    """Blur latents, `[1, C, T, h, w]`."""
    estimates: dict
    """`WindowCache.kept`."""


class DiffusionSession(Session):
    """Restore the segments of a clip in order.

    Holds what a segment has of use for the next: the state of the noise, and with one step
    the encoded frames and the estimates of the windows that both share. That saves time and
    changes no bit, as groups of frames end where windows of the grid do.
    """

    def __init__(
        self,
        engine: Deblurrer,
        settings: RestorationSettings,
        size: tuple[int, int],
        state: bytes | None,
        grid: SegmentGrid,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._size = size
        self._grid = grid
        self._noise_shape = engine.noise_shape(engine.config, *size)
        self._layout = engine.layout(settings, *size)
        self._noise = FrameNoise(settings.seed)
        if state is not None:
            self._noise.restore(state)
        self._carried: _Carried | None = None
        self._told: set[Layout] = set()

    @property
    def state(self) -> bytes:
        """State of the noise before the next segment's context."""
        return self._noise.state

    def skip(self, num_frames: int) -> None:
        """See `Session`."""
        self._carried = None
        self._noise.skip(num_frames, *self._noise_shape)

    def seek(self, frame: int) -> None:
        """See `Session`."""
        self._noise = IndexedNoise(self._settings.seed, frame)

    def count(self, segment: Segment, span: Span) -> int:
        """See `Session`."""
        num_frames = segment.context_stop - segment.context_start
        pieces = self._layout.count(num_frames, *self._noise_shape[1:])
        coded = len(self._encoding(segment)) + len(self._decoding(span))
        return coded + self._settings.passes * pieces

    def restored(
        self,
        frames: DeviceFrames,
        shares: Sequence[float],
        segment: Segment,
        span: Span,
        next_context: int,
        work: Work,
    ) -> Iterator[Tensor]:
        """See `Session`."""
        model, settings = self._engine.model, self._settings
        config = model.config.autoencoder
        groups, carried = self._encoding(segment), self._carried_to(segment)
        self._carried = None
        shared = next_context - segment.context_start
        noise = self._draw(len(frames), shared).to(self._engine.device)
        parts = [] if carried is None else [carried.condition]
        parts += phases.encode(model.encode_blur, config, frames, groups, work.advance)
        condition = torch.cat(parts, dim=2)
        cache = WindowCache(carried and carried.estimates, shared)
        estimates = Estimates(
            self._engine.predict,
            condition,
            lambda index: phases.encode_tokens(model, frames, index),
            settings,
            shares,
            cache,
        )
        latents = phases.denoise(
            estimates,
            noise,
            model.config.schedule,
            settings,
            # What had to shrink for one segment is tried again for the next: every way to
            # restore a clip, also on after a stop, gives the same frames.
            self._layout,
            model.downscale,
            work,
            self._told,
        )
        if settings.steps == 1 and shared < len(frames):
            self._carried = _Carried(
                start=next_context,
                condition=condition[:, :, shared:].clone(),
                estimates=cache.kept,
            )
        groups = self._decoding(span)
        return phases.decode(model, latents, frames, shares, groups, work.advance)

    def _carried_to(self, segment: Segment) -> _Carried | None:
        carried = self._carried
        return carried if carried and carried.start == segment.context_start else None

    def _encoding(self, segment: Segment) -> list[Span]:
        """Return the groups of a segment's context that are to be encoded.

        They end on the grid and after what segments share.
        """
        grid, num_frames = self._grid, segment.context_stop - segment.context_start
        bounds = [*range(0, num_frames, grid.hop), grid.window + grid.context]
        carried = self._carried_to(segment)
        known = 0 if carried is None else carried.condition.shape[2]
        config = self._engine.config.autoencoder
        groups = phases.frame_groups(config, (0, num_frames), self._size, bounds)
        return [group for group in groups if group[0] >= known]

    def _decoding(self, span: Span) -> list[Span]:
        return phases.frame_groups(self._engine.config.autoencoder, span, self._size)

    def _draw(self, num_frames: int, until_next: int) -> Tensor:
        """Draw the noise of a context; the generator stays where the next one starts."""
        first = self._noise.draw(min(num_frames, until_next), *self._noise_shape)
        state = self._noise.state
        rest = self._noise.draw(num_frames - first.shape[2], *self._noise_shape)
        self._noise.restore(state)
        return torch.cat([first, rest], dim=2)
