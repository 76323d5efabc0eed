"""Memory that runs out in spite of smaller pieces: one line that says what to do."""

from __future__ import annotations

import os

import pytest
import torch
from video_deblur.cli.options import less_memory
from video_deblur.jobs import parts
from video_deblur.restoration.denoising.layout import is_out_of_memory
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.settings import RestorationSettings
from video_deblur.restoration.streaming import segments

from .command import refused, run, write_clip

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)"
    ),
    MemoryError("Unable to allocate 7.28 TiB for an array with shape (1000000000000,)"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "numpy"])
@pytest.mark.parametrize("options", [[], ["--resume"]], ids=["straight", "resume"])
def test_a_run_ends_in_one_line(error, options, checkpoint, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(Deblurrer, "predict", fail)
    clip = write_clip(tmp_path / "clip.mp4", 6, 64, 48)
    folder = tmp_path / "out"
    folder.mkdir()
    command = ["run", clip, "-o", folder / "out.mp4", "--checkpoint", checkpoint, *options]
    line = refused(capsys, *command)
    assert "out of memory at 64x48: use --tile 256 or a smaller --window" in line
    assert os.listdir(folder) == []


def test_finished_parts_are_kept(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(parts, "PART_FRAMES", 8)
    monkeypatch.setattr(segments, "_SEGMENT_PIXELS", 1)
    predict, seen = Deblurrer.predict, []

    def fail_later(self, x, *others):
        seen.append(1)
        if len(seen) > 6:
            raise ERRORS[0]
        return predict(self, x, *others)

    monkeypatch.setattr(Deblurrer, "predict", fail_later)
    clip = write_clip(tmp_path / "clip.mp4", 30, 32, 24)
    command = ["run", clip, "-o", tmp_path / "out.mp4", "--checkpoint", checkpoint, "--resume"]
    command += ["--window", 4, "--no-borrow"]
    assert "out of memory at 32x24" in refused(capsys, *command)
    assert not (tmp_path / "out.mp4").exists()
    assert (tmp_path / ".out.mp4.resume" / "000000.json").exists()
    monkeypatch.setattr(Deblurrer, "predict", predict)
    assert run(capsys, *command)[0] == 0


def test_a_checkpoint_that_does_not_fit_ends_in_one_line(
    checkpoint, tmp_path, capsys, monkeypatch
):
    def fail(*arguments, **options):
        raise ERRORS[1]

    monkeypatch.setattr("video_deblur.restoration.load.load_deblurrer", fail)
    clip = write_clip(tmp_path / "clip.mp4", 2, 32, 24)
    line = refused(capsys, "run", clip, "-o", tmp_path / "o.mp4", "--checkpoint", checkpoint)
    assert "out of memory: end other programs or use another --device" in line


def test_only_what_helps_is_advised():
    settings = RestorationSettings(tile=128, window=2, overlap=0)
    assert less_memory(settings, "cuda") == "use --device cpu"
    assert less_memory(settings, "cpu") == "choose a smaller video"
    settings = RestorationSettings()
    advice = "use --tile 256 or a smaller --window, or --device cpu"
    assert less_memory(settings, "cuda") == advice


def test_other_errors_are_not_taken_for_it():
    assert all(is_out_of_memory(error) for error in ERRORS)
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
