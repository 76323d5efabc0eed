from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from video_deblur.models.checkpoint import load_model, read_info
from video_deblur.training.config import AutoencoderStage, DataConfig, JointStage, Preset
from video_deblur.training.recipe import is_hidden_matrix, train_preset
from video_deblur.training.stages import draw_timesteps, joint_loss


@pytest.fixture
def data_folder(tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 72, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "data" / "photos" / f"{seed}.png"), pixels)
    return tmp_path / "data"


def make_preset(model):
    data = DataConfig(num_frames=3, crop=32, clips_per_batch=1, compressed_share=0.0)
    return Preset(
        model=model,
        autoencoder=AutoencoderStage(steps=2, batch_size=2, crop=32),
        joint=JointStage(steps=3, data=data, mixed_from=0.5),
    )


def test_a_short_run_exports_a_checkpoint_that_loads(tmp_path, data_folder, small_config):
    preset = make_preset(small_config)
    path = train_preset(preset, data_folder, tmp_path / "run", provenance={"data": "noise"})
    info = read_info(path)
    assert info.provenance["data"] == "noise"
    assert info.provenance["joint"]["steps_done"] == 3
    assert len(info.config.autoencoder.latent_std) == 4
    weights = load_model(path).state_dict()
    again = train_preset(preset, data_folder, tmp_path / "again")
    assert again.parent == tmp_path / "again"
    for name, value in load_model(again).state_dict().items():
        assert torch.equal(value, weights[name]), name
    warm = train_preset(preset, data_folder, tmp_path / "warm", init=path)
    assert read_info(warm).provenance["init"] == path.name
    assert read_info(warm).config.autoencoder == info.config.autoencoder


def test_a_preset_without_stage_0_needs_a_checkpoint(tmp_path, data_folder, small_config):
    preset = dataclasses.replace(make_preset(small_config), autoencoder=None)
    with pytest.raises(ValueError, match="starts from a checkpoint; name one with --init"):
        train_preset(preset, data_folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_muon_takes_the_matrices_inside_the_unet(untrained_model):
    names = {
        name
        for name, parameter in untrained_model.named_parameters()
        if is_hidden_matrix(name, parameter)
    }
    assert "unet.down_blocks.0.resnets.0.conv1.weight" in names
    assert any(name.endswith("to_qkv.weight") for name in names)
    assert not names & {"unet.conv_in.weight", "unet.conv_out.weight"}
    assert all(name.startswith("unet.") and name.endswith("weight") for name in names)
    assert not any("time_emb" in name or "norm" in name for name in names)


def test_timesteps_are_the_last_alone_before_the_mix():
    stage, generator = JointStage(steps=1), torch.Generator().manual_seed(0)
    assert set(draw_timesteps(50, stage, 0.1, 999, generator).tolist()) == {999}
    mixed = draw_timesteps(4000, stage, 0.9, 999, generator)
    assert abs(float((mixed == 999).float().mean()) - stage.last_timestep_share) < 0.05
    assert int(mixed.min()) >= 0
    below = float((mixed < 700).float().mean())
    expected = 0.7 * (1 - stage.last_timestep_share - stage.high_timestep_share)
    assert abs(below - expected) < 0.05


def test_the_joint_loss_reaches_everything_that_is_trained(untrained_model, small_config):
    model = untrained_model.requires_grad_(True)
    model.autoencoder.requires_grad_(False)
    with torch.no_grad():
        model.unet.conv_out.weight.add_(0.01)
    sharp = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    stage = dataclasses.replace(JointStage(steps=1), token_dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    parts = joint_loss(model, sharp.roll(1, -1), sharp, stage, 0.0, generator)
    parts["loss"].backward()
    for prefix in ("unet.conv_in", "blur_encoder.", "image_encoder."):
        gradients = [p.grad for n, p in model.named_parameters() if n.startswith(prefix)]
        assert any(g is not None and g.abs().max() > 0 for g in gradients), prefix
    assert all(p.grad is None for p in model.autoencoder.parameters())
