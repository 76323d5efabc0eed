"""Every architecture that a checkpoint may hold, one entry each.

A newcomer of a known kind takes two files: its network, beside a frozen config dataclass whose
`__post_init__` bounds whatever multiplies modules, and an entry at the end of this one. All
that reads, writes, shows or runs checkpoints goes by the entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from .config import DivdConfig
from .cpgd import Cpgd
from .cpgd_config import CpgdConfig
from .cpgd_control import Cpc
from .cpgd_priors import ClipPriors
from .dblrnet import DblrNet, DblrNetConfig
from .divd import Divd
from .maxim import Maxim, MaximConfig

Kind = Literal["diffusion", "feed_forward", "clip"]

KINDS: dict[str, str] = {
    "diffusion": "a diffusion model",
    "feed_forward": "a feed-forward network",
    "clip": "a network that restores clips",
}
"""Kinds of engine that run networks, and what messages call a network of each;
`restoration/load.py` has the engines. Those of `diffusion` have the methods of `Divd`, those of
`feed_forward` the ones of `FeedForwardNetwork`, those of `clip` the ones of `ClipNetwork`."""


class FeedForwardNetwork(Protocol):
    """A network that restores one frame from those around it in one pass, without a sampler.

    Its engine takes care of the ends of clips, of tiles, dtype and device.
    """

    @property
    def config(self) -> Any:
        """Its config, with `num_frames`: the consecutive frames that it looks at.

        An odd number; the middle one is restored.
        """
        ...

    @property
    def reach(self) -> int | None:
        """Pixels in each direction that a restored pixel depends on.

        A tile cut with so many pixels around it equals that part of the whole frame. None: on
        all of the frame, so that tiles overlap and are blended.
        """
        ...

    @property
    def bytes_per_pixel(self) -> int:
        """Working memory per pixel of a tile, float32, in bytes."""
        ...

    def restore_frame(self, around: Tensor) -> Tensor:
        """Restore the middle frame.

        Args:
            around: RGB `[num_frames, 3, H, W]`, float32 in 0..1.

        Returns:
            RGB `[3, H, W]`, float32, not clamped.
        """
        ...


class ClipNetwork(Protocol):
    """A network that restores all frames of a window together, with a codec's priors.

    Its engine takes care of windows, tiles, priors, dtype and device.
    """

    @property
    def config(self) -> Any:
        """Its config, with `sampling`: windows and tiles."""
        ...

    @property
    def cpc(self) -> Cpc | None:
        """Networks that refine the result by sampling; None: there are none."""
        ...

    @property
    def bytes_per_pixel(self) -> int:
        """Working memory per pixel of a window's frame, float32, in bytes."""
        ...

    def __call__(self, video: Tensor, priors: ClipPriors) -> Tensor:
        """Restore a clip.

        Args:
            video: `[1, 3, T, H, W]` in -1..1.
            priors: Of the same frames.

        Returns:
            The same shape, float32, not clamped.
        """
        ...


@runtime_checkable
class RowNetwork(FeedForwardNetwork, Protocol):
    """One that saves work on frames in a row, or on windows that are computed together."""

    def restore_frames(self, frames: Tensor) -> Tensor:
        """Restore every frame that has all of its neighbours, as `restore_frame` would.

        Args:
            frames: RGB `[N + num_frames - 1, 3, H, W]`, float32 in 0..1.

        Returns:
            RGB `[N, 3, H, W]`, float32, not clamped.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What sets the checkpoints of one architecture apart."""

    name: str
    """In the metadata of its checkpoints; permanent."""
    title: str
    """What messages call it."""
    summary: str
    """One line for `video-deblur info`."""
    kind: Kind
    """What kind of engine runs it."""
    config_type: type
    """Its config dataclass, which belongs to it alone."""
    build: Callable[..., nn.Module]
    """Called with a config and the keywords `device`, `dtype` and `operations` (`layers`)."""
    prefixes: tuple[str, ...]
    """Every weight starts with one of these, and a checkpoint has weights of each."""
    pixel_prefixes: tuple[str, ...] = ()
    """Those of the parts that read or make pixels, and need more exact numbers than others."""

    @property
    def described(self) -> str:
        """Name and kind, for messages: `DIVD, a diffusion model`."""
        return f"{self.title}, {KINDS[self.kind]}"


ARCHITECTURES: dict[str, Architecture] = {}
"""By name, in the order in which they were registered."""


def register(architecture: Architecture) -> None:
    """Make an architecture known.

    Raises:
        ValueError: If its kind is unknown, or its name or config class is another one's.
    """
    if architecture.kind not in KINDS:
        raise ValueError(
            f"architecture {architecture.name!r}: kind must be one of {', '.join(KINDS)}, "
            f"got {architecture.kind!r}"
        )
    for known in ARCHITECTURES.values():
        if architecture.name == known.name:
            raise ValueError(f"architecture {known.name!r} is registered already")
        if architecture.config_type is known.config_type:
            raise ValueError(
                f"architecture {architecture.name!r} has the config class of {known.name!r}: "
                f"give it its own, as the class tells what a checkpoint holds"
            )
    ARCHITECTURES[architecture.name] = architecture


def architecture_of(config_type: type) -> Architecture:
    """Return the architecture that configs of a class belong to.

    Raises:
        ValueError: If there is none.
    """
    for architecture in ARCHITECTURES.values():
        if architecture.config_type is config_type:
            return architecture
    raise ValueError(
        f"no architecture has configs of class {config_type.__name__}: register one "
        f"(models/registry.py)"
    )


register(
    Architecture(
        name="divd",
        title="DIVD",
        summary="image encoders, a conditioned 3D-UNet that denoises latents, and a decoder",
        kind="diffusion",
        config_type=DivdConfig,
        build=Divd,
        prefixes=("unet.", "blur_encoder.", "autoencoder.", "image_encoder."),
        pixel_prefixes=("blur_encoder.", "autoencoder."),
    )
)
register(
    Architecture(
        name="dblrnet",
        title="DBLRNet",
        summary="luma of five frames in, luma of the middle one out",
        kind="feed_forward",
        config_type=DblrNetConfig,
        build=DblrNet,
        prefixes=("conv1.", "conv2.", "units.", "head1.", "head2.", "head3."),
    )
)
register(
    Architecture(
        name="maxim",
        title="MAXIM",
        summary="one frame in, one frame out; its MLPs mix pixels over the whole frame",
        kind="feed_forward",
        config_type=MaximConfig,
        build=Maxim,
        prefixes=("stages.", "output."),
    )
)
register(
    Architecture(
        name="cpgd",
        title="CPGD-Net",
        summary="a clip and what a video codec knows of it in, the clip out",
        kind="clip",
        config_type=CpgdConfig,
        build=Cpgd,
        prefixes=("cpfp.encoder.", "cpfp.passes.", "cpfp.decoder."),
        pixel_prefixes=("cpfp.", "cpc.divd.blur_encoder.", "cpc.divd.autoencoder."),
    )
)
