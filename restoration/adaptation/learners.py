"""Networks as adaptation sees them: blurry clips in, restored clips out, gradients back.

Clips are `[B, 3, T, H, W]` in -1..1.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...models import inference_layers
from ...models.config import DivdConfig
from ...models.cpgd import Cpgd
from ...models.cpgd_config import CpgdConfig
from ...models.divd import Divd
from ...models.registry import architecture_of
from ...models.schedule import clean_from_velocity
from ..clip_priors import as_pictures, batched, priors_of_frames
from ..settings import RestorationSettings


class Learner(Protocol):
    """A network and what of it is tuned."""

    network: Any

    @property
    def tuned(self) -> list[nn.Parameter]:
        """The parameters that are tuned."""
        ...

    def restored(self, blurry: Tensor, generator: torch.Generator) -> Tensor:
        """Restore clips.

        Args:
            blurry: With sides that are multiples of 32.
            generator: Of whatever is random.

        Returns:
            The same shape, float32, not clamped.
        """
        ...


class ClipLearner:
    """The first stage of CPGD-Net, with the priors of each clip as a codec finds them."""

    def __init__(self, network: Cpgd) -> None:
        self.network = network

    @property
    def tuned(self) -> list[nn.Parameter]:
        """See `Learner`."""
        return list(self.network.cpfp.parameters())

    def restored(self, blurry: Tensor, generator: torch.Generator) -> Tensor:
        """See `Learner`; nothing is random."""
        priors = [priors_of_frames(as_pictures(clip)) for clip in blurry]
        return self.network(blurry, batched(priors).to(blurry.device)).float()


class DiffusionLearner:
    """The estimate of a diffusion model at the last timestep, which one step takes.

    UNet and encoders of the blurry frames are tuned; the autoencoder stays.
    """

    _TUNED = ("unet.", "blur_encoder.", "image_encoder.")

    def __init__(self, network: Divd) -> None:
        self.network = network

    @property
    def tuned(self) -> list[nn.Parameter]:
        """See `Learner`."""
        named = self.network.named_parameters()
        return [parameter for name, parameter in named if name.startswith(self._TUNED)]

    def restored(self, blurry: Tensor, generator: torch.Generator) -> Tensor:
        """See `Learner`."""
        network = self.network
        schedule = network.config.schedule
        timesteps = torch.full((len(blurry),), schedule.num_timesteps - 1, device=blurry.device)
        condition = network.encode_blur(blurry).float()
        noise = torch.randn(condition.shape, generator=generator).to(condition)
        tokens = network.encode_tokens(blurry[:, :, blurry.shape[2] // 2])
        pred = network.unet(torch.cat([noise, condition], dim=1), timesteps, tokens).float()
        latents = clean_from_velocity(schedule, noise, pred, timesteps)
        return network.decode_restored(latents, blurry).float()


def check_adaptable(config: Any, settings: RestorationSettings) -> None:
    """Raise ValueError, in one line, if a network cannot learn from a clip.

    Args:
        config: Of the checkpoint.
        settings: What the user chose.
    """
    architecture = architecture_of(type(config))
    if not isinstance(config, CpgdConfig | DivdConfig):
        raise ValueError(
            f"adaptation tunes DIVD and CPGD-Net; this checkpoint holds "
            f"{architecture.described}: leave adaptation out, or choose another checkpoint"
        )
    if isinstance(config, CpgdConfig) and config.cpc is not None:
        raise ValueError(
            "adaptation tunes CPGD-Net without a second stage; this checkpoint has one: leave "
            "adaptation out, or choose another checkpoint"
        )
    if isinstance(config, DivdConfig) and settings.passes > 1:
        raise ValueError(
            f"adaptation tunes what one step without guidance gives; the settings take "
            f"{settings.passes} passes: use steps 1 and guidance scale 1, or leave adaptation "
            f"out"
        )
    if settings.network_input != "blurry":
        raise ValueError(
            "adaptation tunes a network that sees the blurry frames: set network input to "
            "blurry, or leave adaptation out"
        )


def make_learner(model: Any) -> Learner:
    """Return a float32 copy of a network, ready to be tuned; the network stays as it is.

    Args:
        model: A `Cpgd` or `Divd`, with layers of any kind.
    """
    config = model.config
    network = architecture_of(type(config)).build(config, device="meta", operations=nn)
    weights = {
        name: value.detach().to(torch.float32, copy=True)
        for name, value in model.state_dict().items()
    }
    network.load_state_dict(weights, strict=True, assign=True)
    network.requires_grad_(False)
    assert isinstance(network, Cpgd | Divd), "see check_adaptable"
    learner = ClipLearner(network) if isinstance(network, Cpgd) else DiffusionLearner(network)
    for parameter in learner.tuned:
        parameter.requires_grad_(True)
    return learner


def with_weights(model: Any, weights: dict[str, Tensor]) -> Any:
    """Return a network like another one, with other weights in the dtypes of its own.

    Args:
        model: Gives config, dtypes and devices.
        weights: Of every name.
    """
    config = model.config
    network = architecture_of(type(config)).build(
        config, device="meta", operations=inference_layers
    )
    own = model.state_dict()
    cast = {name: weights[name].to(value.device, value.dtype) for name, value in own.items()}
    network.load_state_dict(cast, strict=True, assign=True)
    return network.eval().requires_grad_(False)
