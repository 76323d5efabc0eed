"""The presets: what each run trains unless a file of changes says otherwise.

`docs/training.md` has the score that each reached, `docs/results.md` the runs behind it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..models.config import (
    AutoencoderConfig,
    DivdConfig,
    ImageEncoderConfig,
    SamplingConfig,
    UNet3DConfig,
)
from ..models.config_fields import ConfigError, config_from_dict, config_to_dict
from ..models.cpgd_config import CpfpConfig, CpgdConfig
from ..models.dblrnet import DblrNetConfig
from ..synthesis.camera_shake import ShakeConfig
from .config import (
    AdversarialStage,
    AutoencoderStage,
    ContentStage,
    CpcStage,
    DataConfig,
    DiffusionStage,
    Preset,
)

TINY_MODEL = DivdConfig(
    unet=UNet3DConfig(
        in_channels=32,
        out_channels=16,
        block_channels=(48, 64, 128),
        layers_per_block=1,
        head_dim=32,
        context_dim=128,
        attention_levels=(False, False, True),
        temporal_attention="window",
        temporal_levels=(False, True, True),
        windows=((8, 4, 4), (8, 4, 4), (8, 8, 8)),
        norm="channel",
        transformer_in=False,
        latent_skip=True,
    ),
    autoencoder=AutoencoderConfig(latent_channels=16, channels=(32, 64), blocks=(1, 2)),
    image_encoder=ImageEncoderConfig(
        image_size=64,
        patch_size=8,
        width=128,
        layers=3,
        heads=4,
        embedding_dim=128,
        num_tokens=4,
        context_dim=128,
    ),
    sampling=SamplingConfig(),
)

_STRAIGHT = ShakeConfig(
    motion=(7.0, 13.0),
    exposure=(0.6, 0.9),
    rotation=(0.0, 0.0),
    zoom=(0.0, 0.0),
    perspective=(0.0, 0.0),
    smoothness=(3.0, 6.0),
    jerk_rate=0.0,
    pause_probability=0.0,
    foreground_probability=0.0,
    sharp_probability=0.0,
)
_MODERATE = ShakeConfig(
    motion=(4.0, 14.0),
    exposure=(0.4, 0.95),
    rotation=(0.0, 0.2),
    zoom=(0.0, 0.1),
    perspective=(0.0, 0.05),
    smoothness=(1.5, 5.0),
    jerk_rate=0.05,
    pause_probability=0.3,
    foreground_probability=0.1,
    sharp_probability=0.03,
)
_FULL = ShakeConfig(motion=(3.0, 20.0))

_PAPER_STAGE = DiffusionStage(
    # The paper gives neither the updates nor the clips per update.
    steps=10_000,
    trains=("blur_encoder.",),
    data=DataConfig(
        num_frames=16, crop=256, clips_per_batch=32, noise_share=0.0, compressed_share=0.0
    ),
    gradient_checkpointing=True,
    optimizer="adamw",
    learning_rate=5e-5,
    blur_encoder_rate=1.0,
    betas=(0.9, 0.999),
    warmup_steps=500,
    ema_decay=0.9999,
    relative=False,
    pixel_loss="off",
    last_timestep_share=0.0,
    high_timestep_share=0.0,
    mixed_from=0.0,
)

_WINDOWS = DataConfig(num_frames=5, crop=96, clips_per_batch=4, pair_shrinking=1.5)
"""What DBLRNet is trained on: one window per clip, so that an update sees as many scenes."""
_CONTENT_STAGE = ContentStage(
    # Blur of up to 20 pixels, as for others, did not pay in run 21 (docs/results.md, DBLRNet).
    steps=6600,
    data=dataclasses.replace(
        _WINDOWS, photo_share=0.65, clip_share=0.25, compressed_share=0.1, shake=_MODERATE
    ),
    straight_data=dataclasses.replace(
        _WINDOWS, photo_share=0.8, clip_share=0.15, compressed_share=0.05, shake=_STRAIGHT
    ),
    pixel_floor=(5e-3, 1e-3),
)
_DBLRNET = DblrNetConfig(input_skip=True, batch_norm=False)

CPGD_TINY = CpgdConfig(
    cpfp=CpfpConfig(
        channels=(16, 32, 48),
        encoder_blocks=(0, 1, 2),
        decoder_blocks=(0, 1, 4),
        pass_blocks=2,
        offset_groups=4,
    )
)
_PROPAGATED = DataConfig(
    # Noise and compression as for the others, and most clips as they come: compressed.
    num_frames=6,
    crop=96,
    clips_per_batch=4,
    pair_shrinking=1.5,
    compressed_share=0.6,
)

_NO_TOWER = ImageEncoderConfig(
    image_size=8,
    patch_size=8,
    width=8,
    layers=1,
    heads=1,
    embedding_dim=8,
    num_tokens=1,
    context_dim=128,
)
"""An image tower next to nothing: `divd-tiny` does as well without tokens (docs/decisions.md),
and its own would take the size that the control branch has."""

PRESETS = {
    "tiny": Preset(
        preset="tiny",
        model=TINY_MODEL,
        autoencoder=AutoencoderStage(steps=1500),
        joint=DiffusionStage(
            steps=3000,
            data=DataConfig(crop=96, pair_shrinking=1.5, shake=_FULL),
            easy_data=DataConfig(
                crop=96,
                photo_share=0.85,
                clip_share=0.05,
                pair_shrinking=1.5,
                compressed_share=0.05,
                shake=_STRAIGHT,
            ),
        ),
    ),
    "tiny-further": Preset(
        preset="tiny-further",
        joint=DiffusionStage(
            steps=6000,
            data=DataConfig(crop=96, pair_shrinking=1.5, shake=_FULL),
            easy_data=DataConfig(
                crop=96,
                photo_share=0.65,
                clip_share=0.2,
                pair_shrinking=1.5,
                compressed_share=0.1,
                shake=_MODERATE,
            ),
            learning_rate=5e-4,
            blur_encoder_rate=0.25,
            latent_floor=(0.1, 0.02),
            pixel_floor=(1e-3, 1e-4),
            mixed_from=0.9,
        ),
    ),
    "paper": Preset(
        preset="paper",
        stage1=_PAPER_STAGE,
        stage2=dataclasses.replace(
            _PAPER_STAGE,
            steps=50_000,
            trains=(
                "blur_encoder.",
                "unet.",
                "image_encoder.token_projection.",
                "autoencoder.decoder.",
            ),
            pixel_loss="decoder",
        ),
    ),
    "dblrnet": Preset(preset="dblrnet", generator=_DBLRNET, content=_CONTENT_STAGE),
    "dblrgan": Preset(
        preset="dblrgan",
        generator=_DBLRNET,
        content=_CONTENT_STAGE,
        adversarial=AdversarialStage(
            steps=1200,
            data=_CONTENT_STAGE.data,
            learning_rate=3e-4,
            pixel_floor=(1e-3, 1e-3),
            high_frequency_weight=0.5,
            r1_weight=0.3,
        ),
    ),
    "cpgd-tiny": Preset(
        preset="cpgd-tiny",
        cpgd_model=CPGD_TINY,
        cpfp=ContentStage(
            steps=4000,
            data=dataclasses.replace(_PROPAGATED, shake=_FULL),
            easy_data=dataclasses.replace(
                _PROPAGATED, photo_share=0.65, clip_share=0.25, shake=_MODERATE
            ),
            straight_data=dataclasses.replace(
                _PROPAGATED, photo_share=0.8, clip_share=0.15, shake=_STRAIGHT
            ),
        ),
        cpc=CpcStage(
            steps=1500,
            diffusion="divd-tiny",
            control_channels=(16, 32, 32),
            image_encoder=_NO_TOWER,
            trains=("cpc.control.", "cpc.divd.unet.", "cpc.divd.blur_encoder."),
            data=dataclasses.replace(_PROPAGATED, shake=_FULL),
            easy_data=dataclasses.replace(
                _PROPAGATED, photo_share=0.65, clip_share=0.25, shake=_MODERATE
            ),
            latent_floor=(0.1, 0.02),
            pixel_floor=(1e-3, 1e-4),
        ),
    ),
    "cpgd-paper": Preset(
        preset="cpgd-paper",
        cpgd_model=CpgdConfig(),
        cpfp=ContentStage(
            # The paper gives none of these; clips and updates are those of BSSTNet, which its
            # code is built on.
            steps=600_000,
            data=DataConfig(
                num_frames=24,
                crop=256,
                clips_per_batch=8,
                noise_share=0.0,
                compressed_share=0.0,
            ),
            optimizer="adamw",
            learning_rate=4e-4,
            last_layer_rate=1.0,
            betas=(0.9, 0.99),
            warmup_steps=2000,
            weight_decay=0.0,
            gradient_clip=0.01,
            pixel_loss="charbonnier",
            fft_weight=0.0,
        ),
        cpc=CpcStage(
            # Not given either; these are DiffBIR's, whose control branch the paper takes, with
            # the clips of the paper's sampling. The coherence loss is Wang & Long's.
            steps=80_000,
            data=DataConfig(
                num_frames=6,
                crop=256,
                clips_per_batch=32,
                noise_share=0.0,
                compressed_share=0.0,
            ),
            gradient_checkpointing=True,
            optimizer="adamw",
            learning_rate=1e-4,
            betas=(0.9, 0.999),
            warmup_steps=500,
            ema_decay=0.9999,
            coherence_weight=0.0,
            relative=False,
            pixel_loss="off",
            last_timestep_share=0.0,
            high_timestep_share=0.0,
            mixed_from=0.0,
        ),
    ),
}
"""By name: "tiny" from scratch, "tiny-further" from a checkpoint that "tiny" gave, "paper" the
two stages of Wang & Long from pretrained weights, "dblrnet" and "dblrgan" feed-forward
networks, "cpgd-tiny" and "cpgd-paper" CPGD-Net: its first stage from scratch, its second one
from a diffusion model."""


def load_preset(name_or_path: str | Path) -> Preset:
    """Return a preset by name, or read a JSON file of changes to one.

    The file holds {"preset": NAME, ...} and any fields of `Preset`, nested; what it leaves
    out is the named preset's.

    Raises:
        FileNotFoundError: If it is neither a preset nor a file.
        ConfigError: If the file is not JSON, or a field is unknown or out of range.
    """
    if str(name_or_path) in PRESETS:
        return PRESETS[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{name_or_path}: neither a preset ({', '.join(PRESETS)}) nor a file"
        )
    try:
        # Windows' editor puts a mark in front of UTF-8.
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error
    name = values.get("preset") if isinstance(values, dict) else None
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f'{path}: "preset" must be one of {", ".join(PRESETS)}')
    base = config_to_dict(PRESETS[name])
    return config_from_dict(Preset, _merged(base, values), str(path))


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with nested changes; unknown names stay in, to be refused by name."""
    merged = dict(base)
    for name, value in changes.items():
        old = base.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[name] = _merged(old, value)
        else:
            merged[name] = value
    return merged
