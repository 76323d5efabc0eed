from __future__ import annotations

import dataclasses
import json
import re

import pytest
from video_deblur.models.config import (
    AutoencoderConfig,
    DivdConfig,
    ImageEncoderConfig,
    SamplingConfig,
    ScheduleConfig,
    UNet3DConfig,
)
from video_deblur.models.config_fields import ConfigError, config_from_dict, config_to_dict
from video_deblur.training.presets import PRESETS, TINY_MODEL


@pytest.mark.parametrize("name", ["small", "kl", "tiny", "statistics"])
def test_a_config_survives_json(small_config, kl_config, name):
    config = {
        "small": small_config,
        "kl": kl_config,
        "tiny": TINY_MODEL,
        "statistics": dataclasses.replace(
            small_config,
            autoencoder=dataclasses.replace(
                small_config.autoencoder,
                latent_mean=(0.1, 0.2, 0.3, -0.4),
                latent_std=(1.0, 2.0, 3.0, 4.0),
                latent_rgb_factors=((0.1, 0.2, 0.3),) * 4,
                latent_rgb_bias=(0.0, 0.1, 0.2),
            ),
        ),
    }[name]
    values = json.loads(json.dumps(config_to_dict(config)))
    copy = config_from_dict(DivdConfig, values)
    assert copy == config
    assert hash(copy) == hash(config)


def test_missing_fields_take_their_defaults():
    assert config_from_dict(ScheduleConfig, {}) == ScheduleConfig()


@pytest.mark.parametrize(
    ("config_type", "values", "message"),
    [
        (DivdConfig, None, "config: expected an object, got NoneType"),
        (DivdConfig, {"unett": {}}, r"'unett'; did you mean 'unet'\? known fields: unet, "),
        (DivdConfig, {"unet": {"head_dimm": 8}}, r"config\.unet: unknown field 'head_dimm'"),
        (DivdConfig, {"unet": []}, r"config\.unet: expected an object, got list"),
        (UNet3DConfig, {"head_dim": "8"}, r"config\.head_dim: expected int, got '8'"),
        (UNet3DConfig, {"head_dim": True}, "expected int"),
        (UNet3DConfig, {"head_dim": 8.0}, "expected int"),
        (UNet3DConfig, {"head_dim": None}, "expected int"),
        (UNet3DConfig, {"latent_skip": 1}, "expected bool"),
        (UNet3DConfig, {"block_channels": 8}, "expected a list, got int"),
        (UNet3DConfig, {"block_channels": [8, "x"]}, r"block_channels\[1\]: expected int"),
        (UNet3DConfig, {"windows": [[8, 8]] * 4}, r"windows\[0\]: expected 3 entries, got 2"),
        (UNet3DConfig, {"norm": "batch"}, "norm must be one of group, channel, got 'batch'"),
        (UNet3DConfig, {"norm": ["group"]}, "norm must be one of"),
        (UNet3DConfig, {"temporal_attention": "flow"}, "must be one of frame, window, both"),
        (ScheduleConfig, {"beta_start": "a"}, "expected float, got 'a'"),
        (ScheduleConfig, {"beta_start": 10**400}, "beta_start"),
        (ScheduleConfig, {"timestep_spacing": "linspace"}, "trailing, leading"),
    ],
)
def test_json_that_is_no_config_is_refused_by_field(config_type, values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config_from_dict(config_type, values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config_type", "values", "message"),
    [
        (UNet3DConfig, {"block_channels": (320,)}, "2 to 8 levels, got 1"),
        (UNet3DConfig, {"attention_levels": (True,)}, r"one entry per level \(4\), got 1"),
        (UNet3DConfig, {"windows": ((8, 8, 8),)}, "windows needs one entry per level"),
        (UNet3DConfig, {"windows": ((8, 0, 8),) * 4}, "at least 1 along each axis"),
        (UNet3DConfig, {"norm_groups": 33}, r"divide by norm_groups \(33\), got 320"),
        (UNet3DConfig, {"head_dim": 48}, r"divide by head_dim \(48\), got 320"),
        (UNet3DConfig, {"head_dim": 0}, "head_dim must be between 1 and .*, got 0"),
        (UNet3DConfig, {"layers_per_block": 0}, "layers_per_block must be between 1 and"),
        (UNet3DConfig, {"block_channels": (-32, 32, 32, 32)}, "block_channels"),
        (UNet3DConfig, {"latent_skip": True}, "latent_skip needs the blur latents"),
        (AutoencoderConfig, {"channels": (8,)}, "one entry per resolution, got 1 and 2"),
        (AutoencoderConfig, {"channels": (), "blocks": ()}, "one entry per resolution"),
        (AutoencoderConfig, {"channels": (0, 8)}, "channels must be between 1 and"),
        (AutoencoderConfig, {"latent_mean": (0.0,)}, "latent_mean needs 16 entries, got 1"),
        (AutoencoderConfig, {"latent_std": (0.0,) * 16}, "latent_std must be positive"),
        (AutoencoderConfig, {"latent_std": (float("nan"),) * 16}, "latent_std"),
        (AutoencoderConfig, {"latent_std": (float("inf"),) * 16}, "latent_std"),
        (AutoencoderConfig, {"latent_mean": (float("nan"),) * 16}, "latent_mean"),
        (AutoencoderConfig, {"latent_rgb_factors": ((1.0,),) * 16}, "latent_rgb_factors"),
        (AutoencoderConfig, {"latent_rgb_bias": (1.0,)}, "latent_rgb_bias"),
        (AutoencoderConfig, {"kind": "vq"}, "kind must be one of local, kl, got 'vq'"),
        (AutoencoderConfig, {"kind": "kl", "channels": (32, 48)}, r"norm_groups \(32\)"),
        (AutoencoderConfig, {"kind": "kl", "blocks": (0, 1)}, "1 or more for kind kl, got 0"),
        (AutoencoderConfig, {"kind": "kl", "detail_skip": True}, "needs an .* kind local"),
        (AutoencoderConfig, {"norm_groups": 0}, "norm_groups must be between 1"),
        (ImageEncoderConfig, {"patch_size": 15}, r"divide by patch_size \(15\), got 224"),
        (ImageEncoderConfig, {"heads": 7}, r"width must divide by heads \(7\), got 1280"),
        (ImageEncoderConfig, {"mlp_ratio": float("nan")}, "mlp_ratio"),
        (ImageEncoderConfig, {"mlp_ratio": -1.0}, "mlp_ratio"),
        (ScheduleConfig, {"num_timesteps": 1}, "between 2 and 100000, got 1"),
        (ScheduleConfig, {"beta_start": 0.02}, "0 < beta_start <= beta_end < 1"),
        (ScheduleConfig, {"beta_end": float("nan")}, "beta_end"),
        (SamplingConfig, {"overlap": 9}, "between 0 and 8 for a window of 16 frames, got 9"),
        (SamplingConfig, {"overlap": -1}, "overlap must be between 0 and 8"),
        (SamplingConfig, {"tile_overlap": 300}, "tile_overlap must be between 0 and 256"),
        (SamplingConfig, {"window": 1, "overlap": 0}, "window must be between 2"),
        (SamplingConfig, {"window": 10**9}, "window must be between 2 and 65536"),
        (SamplingConfig, {"steps": 0}, "steps must be between 1 and .*, got 0"),
    ],
)
def test_values_that_describe_no_network_are_refused(config_type, values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config_type(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"out_channels": 3}, "unet.out_channels must be the 4 latent channels"),
        ("unet", {"in_channels": 9}, r"twice the latent channels (8), got 9"),
        ("unet", {"context_dim": 8}, "must be equal"),
    ],
)
def test_the_parts_of_a_model_must_fit_together(small_config, part, changes, message):
    changed = dataclasses.replace(getattr(small_config, part), **changes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        dataclasses.replace(small_config, **{part: changed})


def test_autoencoders_of_both_kinds_know_their_scale(small_config, kl_config):
    assert (small_config.autoencoder.downscale, kl_config.autoencoder.downscale) == (4, 8)
    # 8 channels at half the height and width, 8 channels at full size.
    assert small_config.autoencoder.values_per_pixel == 2
    assert kl_config.autoencoder.values_per_pixel == 8


def test_configs_cannot_be_changed(small_config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_config.residual_decoding = False


def test_presets_describe_networks_of_the_promised_size():
    config = PRESETS["tiny"].model
    assert config.autoencoder.downscale == 4
    assert config.unet.size_multiple == 2 ** (len(config.unet.block_channels) - 1)
