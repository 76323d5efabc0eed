"""What one input of a batch is called, loses or cannot write costs the others nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from video_deblur.images.folders import FrameFolder
from video_deblur.jobs import parts
from video_deblur.jobs.batch import BatchSettings, plan_batch, restore_batch
from video_deblur.jobs.batch_record import BatchRecord

from ..images import image_files
from .footage import SETTINGS, pictures


class Pool:
    """Restores parts in this process, one at a time."""

    def __init__(self, deblurrer) -> None:
        self.deblurrer, self.waiting = deblurrer, []

    @property
    def wants_more(self) -> bool:
        return not self.waiting

    @property
    def is_idle(self) -> bool:
        return not self.waiting

    def submit(self, key, frames, task) -> None:
        self.waiting.append((key, frames, task))

    def collect(self, done, timeout_s) -> None:
        key, frames, task = self.waiting.pop()
        done(key, parts.restore_part(frames, task, self.deblurrer, SETTINGS))

    def give_up(self, done) -> None:
        pass


@pytest.fixture
def run(deblurrer, tmp_path):
    """Restore inputs into the folder `out`; returns what became of them."""

    def run_batch(*sources: Path, **options):
        clips = plan_batch(sources, tmp_path / "out", "h264")
        settings = BatchSettings(
            config=deblurrer.config,
            restoration=SETTINGS,
            identity={"checkpoint": "1"},
            **options,
        )
        restore_batch(clips, Pool(deblurrer), settings)
        return clips

    return run_batch


def write_folder(folder: Path, num_frames: int = 4) -> Path:
    folder.mkdir()
    for index, pixels in enumerate(pictures(num_frames)):
        (folder / f"{index}.png").write_bytes(image_files.png(pixels))
    return folder


@pytest.mark.parametrize("name", ["v_foo.avi", "take.mp4", "loop.gif", "a.png"])
def test_a_folder_becomes_a_folder_whatever_it_is_called(name, run, clip, tmp_path):
    for _ in range(2):
        folder, video = run(write_folder(tmp_path / name), clip)
        assert (folder.state, folder.error, video.state) == ("restored", "", "restored")
        assert FrameFolder(tmp_path / "out" / name).names == [f"{i}.png" for i in range(4)]
        # An empty folder of that name, of an earlier run say, is filled.
        for frame in (*(tmp_path / "out" / name).iterdir(), *(tmp_path / name).iterdir()):
            frame.unlink()
        (tmp_path / name).rmdir()
        video.output.unlink()


def test_pages_become_a_folder_whatever_they_are_called(run, tmp_path):
    (tmp_path / "scan.mp4.tif").write_bytes(image_files.tiff(list(pictures(3))))
    (pages,) = run(tmp_path / "scan.mp4.tif")
    assert (pages.state, pages.error) == ("restored", "")
    assert len(FrameFolder(tmp_path / "out" / "scan.mp4")) == 3


def test_an_input_that_is_gone_once_it_was_restored_is_no_error(
    run, clip, tmp_path, monkeypatch
):
    folder = write_folder(tmp_path / "frames")
    add = BatchRecord.add

    def add_without_input(self, output, *more):
        if output.name == clip.name:
            clip.unlink()
        add(self, output, *more)

    monkeypatch.setattr(BatchRecord, "add", add_without_input)
    first, second = run(clip, folder)
    assert not clip.exists()
    assert (first.state, first.error, second.state) == ("restored", "", "restored")
    assert BatchRecord(tmp_path / "out").changes(first.output, {}) != []


def test_a_record_that_cannot_be_written_is_the_error_of_its_clip(
    run, clip, tmp_path, monkeypatch
):
    folder = write_folder(tmp_path / "frames")
    add = BatchRecord.add

    def full(self, output, *more):
        if output.name == clip.name:
            raise OSError(28, "No space left on device", RECORD)
        add(self, output, *more)

    monkeypatch.setattr(BatchRecord, "add", full)
    first, second = run(clip, folder)
    assert (first.state, second.state) == ("failed", "restored")
    assert first.error == (
        f"{first.output}: is restored, but what it was made from could not be noted beside it "
        "(No space left on device)"
    )
    assert first.output.exists()


RECORD = ".video_deblur_batch.json"


def test_inputs_and_records_that_are_gone_do_not_stop_a_batch(run, clip, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "frames")
    run(clip, folder)
    changes = BatchRecord.changes

    def unreadable(self, output, made_from):
        if output.name == clip.name:
            raise PermissionError(13, "Permission denied", str(output.parent / RECORD))
        return changes(self, output, made_from)

    monkeypatch.setattr(BatchRecord, "changes", unreadable)
    first, second = run(clip, folder)
    assert (first.state, second.state) == ("failed", "skipped")
    assert "Permission denied" in first.error
    assert sorted(os.listdir(tmp_path / "out")) == [RECORD, "clip.mp4", "frames"]


def test_sound_that_was_dropped_is_named_by_a_batch_that_keeps_it(run, clip):
    assert run(clip, audio="drop")[0].state == "restored"
    (again,) = run(clip)
    assert (again.state, again.changes) == ("skipped", ["audio"])
    assert run(clip, audio="drop")[0].changes == []
