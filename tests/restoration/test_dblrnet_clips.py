"""DBLRNet's checkpoints on clips of every kind, as the commands and nodes restore them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from video_deblur.models.checkpoint import CheckpointError, load_model, save_checkpoint
from video_deblur.models.dblrnet import DblrNet, to_luma
from video_deblur.restoration.borrowing import passes
from video_deblur.restoration.load import load_deblurrer
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming.stream import restore_stream

from ..conftest import SMALL_DBLRNET_CONFIG


@pytest.fixture(params=[True, False], ids=["normed", "plain"])
def engine(request, randomise, tmp_path):
    """The engine of a checkpoint with batch normalisation, and of one without."""
    config = dataclasses.replace(SMALL_DBLRNET_CONFIG, batch_norm=request.param)
    network = randomise(DblrNet(config), 0.05, add=True)
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, network.state_dict(), config, provenance={})
    return load_deblurrer(path, "cpu", "float32")


def settings(**values):
    return RestorationSettings(**{"borrow": False, **values})


@pytest.mark.parametrize("borrow", [False, True])
@pytest.mark.parametrize("shape", [(1, 40, 48), (2, 40, 48), (4, 40, 48), (4, 1, 1), (1, 1, 1)])
def test_clips_of_any_size_come_back_whole(engine, make_frames, monkeypatch, shape, borrow):
    monkeypatch.setattr(passes, "_SMALLEST_SIDE", 16)
    frames = make_frames(*shape)
    restored = engine.restore(frames, settings(borrow=borrow))
    assert restored.shape == frames.shape
    assert restored.isfinite().all()
    assert not torch.equal(restored, frames)


def test_alpha_passes_through_and_chroma_is_kept(engine, make_frames):
    frames = make_frames(5, 30, 40, channels=4) * 0.5 + 0.2
    restored = engine.restore(frames, settings())
    assert torch.equal(restored[..., 3], frames[..., 3])
    # Cb and Cr are differences of a colour and Y: all three colours change alike.
    change = (restored - frames)[..., :3]
    assert change.abs().max() > 1e-3
    torch.testing.assert_close(change, change[..., :1].expand_as(change), atol=1e-6, rtol=0)
    luma = [to_luma(x[..., :3].movedim(-1, -3)) for x in (restored, frames)]
    torch.testing.assert_close(luma[0] - luma[1], change[..., 0], atol=1e-6, rtol=0)


def test_strength_mixes_and_zero_leaves_the_frames(engine, make_frames):
    frames = make_frames(6, 30, 40) * 0.5 + 0.2
    whole = engine.restore(frames, settings())
    half = engine.restore(frames, settings(strength=0.5))
    torch.testing.assert_close(half, (whole + frames) / 2, atol=1e-6, rtol=0)
    assert torch.equal(engine.restore(frames, settings(strength=0)), frames)


def test_scene_cuts_end_what_a_frame_sees(engine, make_frames):
    first, second = make_frames(6, 40, 48) * 0.2, 1 - make_frames(5, 40, 48) * 0.2
    together = engine.restore(torch.cat([first, second]), settings())
    alone = [engine.restore(shot, settings()) for shot in (first, second)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


@pytest.mark.parametrize("tile", [64, 100])
def test_tiles_equal_whole_frames_to_the_bit(engine, make_frames, tile):
    frames = make_frames(3, 130, 150)
    whole = engine.restore(frames, settings())
    assert torch.equal(engine.restore(frames, settings(tile=tile)), whole)


def test_frames_of_files_are_restored_as_clips_in_memory(engine):
    frames = np.random.default_rng(0).integers(0, 255, (9, 40, 48, 3), np.uint8)
    at_once = engine.restore(torch.from_numpy(frames).float() / 255, settings()).numpy() * 255
    streamed = np.stack(list(restore_stream(frames, engine, settings())))
    assert np.abs(streamed - at_once).max() <= 0.501


def test_frames_that_are_not_numbers_are_refused(engine, make_frames):
    frames = make_frames(4, 20, 20)
    frames[2, 3, 4, 0] = float("nan")
    with pytest.raises(ValueError, match=r"not numbers \(NaN\) in frame 2"):
        engine.restore(frames, settings())


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    network = DblrNet(SMALL_DBLRNET_CONFIG)
    torch.nn.init.constant_(network.head1.weight, float("nan"))
    path = tmp_path / "bad.safetensors"
    save_checkpoint(path, network.state_dict(), network.config, provenance={})
    with pytest.raises(CheckpointError, match=r"bad.safetensors: .*'head1.weight' has values"):
        load_deblurrer(path, "cpu")


def test_a_file_that_claims_another_architecture_is_refused(tmp_path, small_model):
    path = tmp_path / "divd.safetensors"
    save_checkpoint(path, small_model.state_dict(), SMALL_DBLRNET_CONFIG, provenance={})
    with pytest.raises(CheckpointError, match=r"divd.safetensors: .*which DBLRNet needs"):
        load_model(path)
