"""The discriminator of DBLRGAN: how likely a frame of luma was never blurred.

After Zhang et al., "Adversarial Spatio-Temporal Learning for Video Deblurring" (arXiv
1804.00533), as a public re-implementation lists it: fourteen 3x3 convolutions in four levels,
then three linear layers, like VGG. That listing strides nowhere, which would leave the linear
layers with a frame's worth of inputs: here every level ends in a stride of two, as VGG's do in
pooling, and the linear layers see the mean over positions, so that frames of any size fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .config_fields import ConfigError, check_positive, check_range

_SLOPE = 0.2
"""Of the activations below zero."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The discriminator; defaults are a quarter of the published widths, for small crops."""

    channels: tuple[int, ...] = (16, 32, 64, 128)
    """Of the convolutions of each level (published: 64, 128, 256, 512)."""
    num_convs: tuple[int, ...] = (2, 3, 4, 5)
    """Convolutions of each level; the last one halves the frame."""
    hidden: tuple[int, ...] = (128,)
    """Of the linear layers before the last (published: 4096, 4096)."""
    batch_norm: bool = False
    """Normalise after the convolutions, as published; sharp and restored frames come in
    batches of their own, and each would tell what the batch is by its statistics."""
    spectral_norm: bool = False
    """Divide every weight by its largest singular value (arXiv 1802.05957). Fourteen layers
    then shrink what they see, and learning starts slowly."""

    def __post_init__(self) -> None:
        check_positive(self, "channels", "hidden")
        check_range(self, "num_convs", 1, 16)
        if not 1 <= len(self.channels) <= 8 or len(self.channels) != len(self.num_convs):
            raise ConfigError(
                f"channels and num_convs must have as many entries, 1 to 8, got "
                f"{len(self.channels)} and {len(self.num_convs)}"
            )


class Discriminator(nn.Module):
    """Tells sharp frames from restored ones."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = 1
        for width, count in zip(config.channels, config.num_convs, strict=True):
            for index in range(count):
                # The first layer of all sees brightness, which a norm would take away.
                normed = config.batch_norm and bool(layers)
                stride = 2 if index == count - 1 else 1
                layers.append(
                    nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=not normed)
                )
                layers += [nn.BatchNorm2d(width)] if normed else []
                layers.append(nn.LeakyReLU(_SLOPE))
                channels = width
        self.features = nn.Sequential(*layers)
        head: list[nn.Module] = []
        for inputs, outputs in pairwise((channels, *config.hidden)):
            head += [nn.Linear(inputs, outputs), nn.LeakyReLU(_SLOPE)]
        self.head = nn.Sequential(*head, nn.Linear((channels, *config.hidden)[-1], 1))
        for part in (*self.features, *self.head):
            if not isinstance(part, (nn.Conv2d, nn.Linear)):
                continue
            # PyTorch's own start would shrink every layer's output to less than half.
            nn.init.kaiming_normal_(part.weight, a=_SLOPE)
            if config.spectral_norm:
                spectral_norm(part)

    def forward(self, luma: Tensor) -> Tensor:
        """Return the logit of being sharp.

        Args:
            luma: `[N, 1, H, W]` in -1..1, of any size.

        Returns:
            float32 `[N]`.
        """
        features = self.features(luma).float().mean(dim=(2, 3))
        return self.head(features).float()[:, 0]
