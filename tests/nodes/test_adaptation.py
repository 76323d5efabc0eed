"""The input `adapt`: networks learn from the clip first, and those in the cache stay."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from video_deblur.models.checkpoint import save_checkpoint
from video_deblur.restoration.adaptation.memory import adaptation_bytes
from video_deblur.restoration.adaptation.stretches import (
    learn_from_stretches,
    lessons_bytes,
    stretches_of,
)
from video_deblur.restoration.adaptation.tuning import with_engine
from video_deblur.restoration.load import load_deblurrer
from video_deblur.restoration.settings import preset_settings

from ..restoration.adaptation.test_material import one_sharp_frame
from ..restoration.adaptation.test_tuning import SHORT, spoilt_engine
from .checkpoints import STAGES
from .test_deblur_video import read, write_clip

FRAMES, VIDEO = "VideoDeblur_Deblur", "VideoDeblur_DeblurVideo"
NAME = "spoilt.safetensors"
TWO_UPDATES = dataclasses.replace(SHORT, updates=2, least_gain_db=-100)


@pytest.fixture(autouse=True)
def checkpoint(cpgd_files, our_module, monkeypatch) -> Path:
    """A checkpoint that spoils what it restores; two updates are taken whatever they do."""
    settings = our_module("restoration.adaptation.settings")
    own = settings.AdaptationSettings
    values = dataclasses.asdict(TWO_UPDATES)
    monkeypatch.setattr(settings, "AdaptationSettings", lambda: own(**values))
    path = cpgd_files[STAGES[1]].with_name(NAME)
    engine = spoilt_engine()
    save_checkpoint(path, engine.model.state_dict(), engine.config, provenance={})
    return path


@pytest.fixture
def frames() -> torch.Tensor:
    return one_sharp_frame()[0].clamp(0, 1)


def test_frames_are_restored_as_by_a_library_that_learned(call_node, checkpoint, frames):
    engine = load_deblurrer(checkpoint, "cpu")
    settings = preset_settings(engine.config, "fast", seed=2)
    parts, length = stretches_of(frames)
    learned = learn_from_stretches(engine, parts, length, settings, TWO_UPDATES)
    assert learned.weights is not None
    expected = with_engine(engine, learned.weights).restore(frames, settings)
    (plain,) = call_node(FRAMES, frames=frames, checkpoint=NAME, seed=2)
    (restored,) = call_node(FRAMES, frames=frames, checkpoint=NAME, seed=2, adapt=True)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)
    assert (restored - plain).abs().mean() > 1e-3
    # The network that nodes share has learned nothing.
    (again,) = call_node(FRAMES, frames=frames, checkpoint=NAME, seed=2)
    assert torch.equal(again, plain)


def test_room_is_made_for_gradients(comfy, call_node, checkpoint, frames, monkeypatch):
    asked = []
    monkeypatch.setattr(
        comfy.model_management, "free_memory", lambda memory, *_, **__: asked.append(memory)
    )
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: None)
    call_node(FRAMES, frames=frames, checkpoint=NAME, adapt=True)
    engine = load_deblurrer(checkpoint, "cpu")
    lessons = lessons_bytes(*frames.shape[1:3])
    assert asked[0] >= adaptation_bytes(engine.model, TWO_UPDATES) + 2 * lessons


def test_a_video_learns_once_though_it_is_cancelled(
    comfy, call_node, our_module, frames, tmp_path, monkeypatch
):
    stretches = our_module("restoration.adaptation.stretches")
    adapt, calls = stretches.adapt, []

    def counted(*arguments):
        calls.append(arguments)
        return adapt(*arguments)

    monkeypatch.setattr(stretches, "adapt", counted)
    path = write_clip(tmp_path / "clip.mp4", frames, Fraction(25))
    video = comfy.api.InputImpl.VideoFromFile(str(path))
    folder = Path(comfy.folder_paths.get_temp_directory())

    def restored():
        (result,) = call_node(VIDEO, video=video, checkpoint=NAME, crf=0, adapt=True)
        return read(result.get_stream_source())

    whole = restored()
    files = our_module("jobs.files")
    with monkeypatch.context() as patched:

        def cancel(*_, **__):
            raise comfy.model_management.InterruptProcessingException

        patched.setattr(files, "restore_ends", cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            restored()
    assert len(list(folder.glob("video_deblur_parts_*.adapted.safetensors"))) == 1
    again = restored()
    assert len(calls) == 2
    assert torch.equal(torch.as_tensor(again), torch.as_tensor(whole))
    assert not list(folder.glob("video_deblur_parts_*"))


def test_cancelling_while_it_learns_leaves_nothing(
    comfy, call_node, frames, tmp_path, monkeypatch
):
    path = write_clip(tmp_path / "clip.mp4", frames, Fraction(25))
    video = comfy.api.InputImpl.VideoFromFile(str(path))
    folder = Path(comfy.folder_paths.get_temp_directory())
    before = set(folder.iterdir())

    def cancel_late(bar, value, total=None, preview=None):
        if value > 0.9 * total:
            comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", cancel_late)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        call_node(VIDEO, video=video, checkpoint=NAME, adapt=True)
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("kind", ["file", "frames"])
def test_a_vae_on_another_device_is_refused_before_anything_is_learned(
    comfy,
    call_node,
    our_module,
    load_in_nodes,
    random_checkpoint,
    frames,
    tmp_path,
    monkeypatch,
    kind,
):
    def learn(*_):
        raise AssertionError("nothing can be restored with it")

    monkeypatch.setattr(our_module("jobs.adaptation"), "learn_from_stretches", learn)
    loaded = load_in_nodes(random_checkpoint.name)
    monkeypatch.setattr(loaded.vae.patcher, "load_device", torch.device("meta"))
    (video,) = call_node("CreateVideo", images=frames, fps=25.0)
    if kind == "file":
        path = write_clip(tmp_path / "clip.mp4", frames, Fraction(25))
        video = comfy.api.InputImpl.VideoFromFile(str(path))
    inputs = {"video": video, "checkpoint": random_checkpoint.name, "adapt": True}
    with pytest.raises(ValueError, match=r"same device as the model.*--cpu-vae"):
        call_node(VIDEO, **inputs)


@pytest.mark.parametrize("node", [FRAMES, VIDEO])
def test_without_strength_nothing_is_learned(
    node, comfy, call_node, our_module, frames, tmp_path, monkeypatch
):
    def learn(*_):
        raise AssertionError("the result is the input anyway")

    monkeypatch.setattr(our_module("jobs.adaptation"), "learn_from_stretches", learn)
    path = write_clip(tmp_path / "clip.mp4", frames, Fraction(25))
    given = {"frames": frames}
    if node == VIDEO:
        given = {"video": comfy.api.InputImpl.VideoFromFile(str(path))}
    (restored,) = call_node(node, **given, checkpoint=NAME, strength=0, adapt=True)
    if node == FRAMES:
        assert torch.equal(restored, frames)


def test_networks_that_do_not_learn_are_refused_in_one_line(call_node, frames):
    with pytest.raises(ValueError, match=r"without a second stage.*leave adaptation out"):
        call_node(FRAMES, frames=frames, checkpoint=STAGES[2], adapt=True)
