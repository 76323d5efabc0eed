from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from video_deblur.models.autoencoder import Autoencoder, normalise_latents
from video_deblur.models.import_weights.autoencoder import import_autoencoder
from video_deblur.models.import_weights.weight_file import open_weights

from . import published


def load(path):
    """Return our autoencoder and blur encoder's weights from a file."""
    with open_weights(path, "vae") as file:
        imported = import_autoencoder(file)
        weights = {
            name: source.make(*map(file.read, source.names)).clone()
            for name, source in imported.part.sources.items()
        }
    autoencoder = Autoencoder(imported.config).eval().requires_grad_(False)
    autoencoder.load_state_dict(
        {
            name.removeprefix("autoencoder."): value
            for name, value in weights.items()
            if name.startswith("autoencoder.")
        }
    )
    return autoencoder, weights, imported


def save(path, weights):
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
    else:
        torch.save({"state_dict": weights}, path)
    return path


def write(kind, weights, folder):
    """Write the weights of diffusers' autoencoder as one of the published files has them."""
    ldm = published.ldm_state_dict(weights)
    if kind == "a whole Stable Diffusion checkpoint":
        others = {"model.diffusion_model.out.2.bias": torch.zeros(4)}
        inside = {f"first_stage_model.{name}": value for name, value in ldm.items()}
        return save(folder / "v2-1_512-ema-pruned.ckpt", inside | others)
    if kind == "LDM with what its training left":
        training = {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}
        return save(folder / "vae-ft-mse-840000-ema-pruned.safetensors", ldm | training)
    if kind == "the old diffusers":
        old = published.old_diffusers_state_dict(weights)
        return save(folder / "diffusion_pytorch_model.bin", old)
    name = "diffusion_pytorch_model.safetensors"
    return published.write_folder(folder / "vae", name, weights, scaling_factor=0.18215)


@pytest.mark.parametrize(
    "kind",
    [
        "a whole Stable Diffusion checkpoint",
        "LDM with what its training left",
        "the old diffusers",
        "a folder of diffusers",
    ],
)
def test_published_layouts_give_what_diffusers_computes(
    reference_autoencoder, assert_same, tmp_path, kind
):
    path = write(kind, reference_autoencoder.state_dict(), tmp_path)
    autoencoder, weights, imported = load(path)
    assert imported.config.channels == (32, 32, 64, 64)
    assert imported.config.downscale == 8
    images = torch.rand(1, 3, 24, 16, dtype=torch.float64) * 2 - 1
    autoencoder, reference = autoencoder.double(), copy.deepcopy(reference_autoencoder).double()
    expected = reference.encode(images).latent_dist.mode()
    latents = autoencoder.encode(images)
    assert_same(latents, expected)
    assert_same(normalise_latents(imported.config, latents), expected * 0.18215)
    assert_same(autoencoder.decode(latents), reference.decode(latents).sample)
    encoder = {name for name in weights if name.startswith("autoencoder.encoder.")}
    for name in encoder:
        blur_name = name.replace("autoencoder.encoder.", "blur_encoder.")
        assert torch.equal(weights[blur_name], weights[name])


def test_diffusers_reads_the_ldm_files_of_these_tests_the_same(
    reference_autoencoder, assert_same, tmp_path
):
    from diffusers import AutoencoderKL

    weights = published.ldm_state_dict(reference_autoencoder.state_dict())
    path = save(tmp_path / "vae.safetensors", weights)
    reference_autoencoder.save_config(tmp_path / "config")
    theirs = AutoencoderKL.from_single_file(path, config=str(tmp_path / "config"))
    for name, value in reference_autoencoder.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"decoder.up.1.block.2.conv1.bias": None},
            r"lacks 'autoencoder\.decoder\.up_blocks\.2\.resnets\.2",
        ),
        ({"post_quant_conv.weight": None}, "lacks 'decoder.post_quant_conv.weight'"),
        (
            {"encoder.temporal.weight": torch.zeros(1)},
            "has '.*', which .* does not .1 too many in all",
        ),
        (
            {"encoder.conv_out.bias": torch.zeros(9)},
            r"\.conv_out\.bias' has shape \[9\]",
        ),
        ({"encoder.mid.attn_1.q.weight": torch.zeros(64, 32, 1, 1)}, r"shape \[64, 32, 1, 1\]"),
        ({"encoder.down.0.block.0.conv1.weight": torch.zeros(40, 32, 3, 3)}, "norm_groups"),
    ],
)
def test_other_networks_are_refused_by_name(reference_autoencoder, tmp_path, change, message):
    weights = published.ldm_state_dict(reference_autoencoder.state_dict()) | change
    weights = {name: value for name, value in weights.items() if value is not None}
    path = save(tmp_path / "vae.safetensors", weights)
    with (
        open_weights(path, "vae") as file,
        pytest.raises(ValueError, match=message) as caught,
    ):
        import_autoencoder(file)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_latents_of_another_scale_are_refused(reference_autoencoder, tmp_path):
    name = "diffusion_pytorch_model.safetensors"
    weights = reference_autoencoder.state_dict()
    folder = published.write_folder(tmp_path / "vae", name, weights, scaling_factor=0.13025)
    with (
        open_weights(folder, "vae") as file,
        pytest.raises(ValueError, match=r"scaling_factor 0\.13025, expected 0\.18215"),
    ):
        import_autoencoder(file)
