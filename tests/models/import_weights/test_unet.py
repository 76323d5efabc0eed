from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from video_deblur.models.config import UNet3DConfig
from video_deblur.models.import_weights.unet import import_unet, vgen_to_diffusers
from video_deblur.models.import_weights.weight_file import open_weights
from video_deblur.models.unet3d import UNet3D

from . import published


def load_unet(path):
    """Return our UNet with a file's weights, and what was imported."""
    with open_weights(path, "unet") as file:
        imported = import_unet(file)
        weights = {
            name.removeprefix("unet."): source.make(*map(file.read, source.names)).clone()
            for name, source in imported.part.sources.items()
            if name.startswith("unet.")
        }
    unet = UNet3D(imported.config).eval().requires_grad_(False)
    unet.load_state_dict(weights, strict=True)
    return unet, imported


def as_blocks(attends):
    from diffusers import UNet3DConditionModel

    unet = UNet3DConditionModel(**published.small_unet_config(attends))
    unet.load_state_dict(published.randomised(unet))
    return unet.eval().requires_grad_(False)


def assert_equals_text_to_video(unet, reference, assert_same):
    """Compare with any blur latents: their channels start at zero."""
    width = reference.config.cross_attention_dim
    noisy, blur = torch.randn(2, 1, 4, 3, 16, 16).unbind(0)
    timesteps, context = torch.tensor([321]), torch.randn(1, 5, width)
    expected = reference(noisy, timesteps, context).sample
    assert_same(unet(torch.cat([noisy, blur], dim=1), timesteps, context), expected)


def test_the_published_names_are_those_of_diffusers_renamed():
    unet = UNet3D(UNet3DConfig(), device="meta").state_dict()
    names = published.vgen_state_dict(unet)
    assert len(names) == 1480
    renamed = {vgen_to_diffusers(name): value for name, value in names.items()}
    assert renamed.keys() == unet.keys()
    for name, value in renamed.items():
        shape = tuple(value.shape)
        assert shape[: unet[name].ndim] == tuple(unet[name].shape), name
    assert sum(value.numel() for value in names.values()) == 1_411_233_860


@pytest.mark.parametrize(("wrapped", "prefix"), [(False, ""), (True, "model.diffusion_model.")])
def test_modelscope_gives_what_diffusers_computes(
    reference_unet, assert_same, tmp_path, wrapped, prefix
):
    weights = published.vgen_state_dict(reference_unet.state_dict())
    weights = {prefix + name: value for name, value in weights.items()}
    path = tmp_path / "text2video_pytorch_model.pth"
    torch.save({"state_dict": weights, "step": 7} if wrapped else weights, path)
    unet, imported = load_unet(path)
    assert imported.part.layout == "ModelScopeT2V (VGen's names)"
    assert not imported.is_tf_t2v
    assert imported.num_tokens is None
    assert_equals_text_to_video(unet, reference_unet, assert_same)


@pytest.mark.parametrize("given", ["file", "folder", "pipeline"])
def test_the_layout_of_diffusers_is_read(reference_unet, assert_same, tmp_path, given):
    weights = reference_unet.state_dict()
    name = "diffusion_pytorch_model.fp16.safetensors"
    folder = published.write_folder(
        tmp_path / "pipe" / "unet", name, weights, attention_head_dim=64
    )
    path = {"file": folder / name, "folder": folder, "pipeline": folder.parent}[given]
    unet, imported = load_unet(path)
    assert imported.part.path == folder / name
    assert imported.part.layout == "ModelScopeT2V (diffusers' names)"
    assert_equals_text_to_video(unet, reference_unet, assert_same)


@pytest.mark.parametrize(
    ("attends", "conditions"),
    [((True, True, True, False), tuple(published.CONDITIONS)), ((False, True, True, True), ())],
)
def test_tf_t2v_gives_what_diffusers_computes(assert_same, tmp_path, attends, conditions):
    reference = as_blocks(attends)
    weights = published.tf_t2v_state_dict(reference.state_dict(), attends, conditions)
    path = tmp_path / "tft2v_t2v_non_ema_512000.pth"
    torch.save({"state_dict": weights, "step": 512000}, path)
    unet, imported = load_unet(path)
    assert imported.config.attention_levels == attends == imported.config.temporal_levels
    assert imported.is_tf_t2v
    assert imported.num_tokens == 4
    assert_equals_text_to_video(unet, reference, assert_same)
    tokens = {
        name.rpartition("token_projection.")[2]: source.names
        for name, source in imported.part.sources.items()
        if not name.startswith("unet.")
    }
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    assert tokens == {name: (f"pre_image_condition.{name}",) for name in names}


def without(weights, *names):
    return {name: value for name, value in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: without(w, "middle_block.3.in_layers.0.bias"),
            r"lacks 'unet\.mid_block\.resnets\.1\.norm1\.bias' of the UNet .*1 missing in all",
        ),
        (lambda w: without(w, "out.2.weight"), r"lacks 'conv_out\.weight'"),
        (lambda w: without(w, "input_blocks.0.0.weight"), "lacks the first convolution of"),
        (
            lambda w: {**w, "local_image_concat.0.weight": torch.zeros(1)},
            r"has 'local_image_concat\.0\.weight', which .* does not \(1 too many",
        ),
        (
            lambda w: {**w, "input_blocks.4.0.in_layers.2.bias": torch.zeros(3)},
            r"'input_blocks\.4\.0\.in_layers\.2\.bias' has shape \[3\], which does not fit",
        ),
        (
            lambda w: {**w, "input_blocks.0.0.weight": torch.zeros(64, 8, 3, 3)},
            "takes 8 channels, expected 4: 4 for ModelScopeT2V, 12 for TF-T2V",
        ),
        (
            lambda w: {n: v for n, v in w.items() if ".temopral_conv." not in n},
            "a UNet for images, it has no temporal layers",
        ),
        (
            lambda w: {**w, "input_blocks.1.0.in_layers.2.weight": torch.zeros(48, 64, 3, 3)},
            "block_channels must divide by norm_groups",
        ),
        (
            lambda w: {**w, "pre_image_condition.0.weight": torch.zeros(64, 64)},
            "takes 4 channels, expected 12",
        ),
    ],
)
def test_other_networks_are_refused_by_name(reference_unet, tmp_path, change, message):
    path = tmp_path / "other.safetensors"
    weights = change(published.vgen_state_dict(reference_unet.state_dict()))
    save_file({name: value.clone() for name, value in weights.items()}, path)
    with (
        open_weights(path, "unet") as file,
        pytest.raises(ValueError, match=message) as caught,
    ):
        import_unet(file)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_projection_of_another_width_is_refused(reference_unet, tmp_path):
    weights = published.tf_t2v_state_dict(reference_unet.state_dict())
    weights["pre_image_condition.0.weight"] = torch.zeros(64, 32)
    path = tmp_path / "other.pth"
    torch.save(weights, path)
    with (
        open_weights(path, "unet") as file,
        pytest.raises(ValueError, match=r"'pre_image_condition\.0\.weight' has shape \[64, 32"),
    ):
        import_unet(file)


def test_heads_of_another_width_are_refused(reference_unet, tmp_path):
    name = "diffusion_pytorch_model.safetensors"
    folder = published.write_folder(
        tmp_path / "unet", name, reference_unet.state_dict(), attention_head_dim=32
    )
    with (
        open_weights(folder, "unet") as file,
        pytest.raises(ValueError, match="attention_head_dim 32, expected 64"),
    ):
        import_unet(file)
