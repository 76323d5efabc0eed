"""Runs that are cancelled: heard soon, whatever is under way."""

from __future__ import annotations

import threading
import time

import pytest
from video_deblur.jobs import local_pool
from video_deblur.jobs.clip_ends import ClipToFolderEnds
from video_deblur.jobs.files import restore_ends
from video_deblur.jobs.video_ends import VideoEnds
from video_deblur.video.encoder import PacketEncoder

from .footage import NUM_FRAMES, SETTINGS, StoppedError, hidden, resumable, stop_after


def test_a_cancel_while_a_part_is_read_waits_for_no_part_before(
    clip, deblurrer, tmp_path, monkeypatch
):
    finish, slow, restored = PacketEncoder.finish, threading.Event(), []

    def finish_late(self):
        slow.wait(60 * bool(restored))
        return finish(self)

    monkeypatch.setattr(PacketEncoder, "finish", finish_late)
    monkeypatch.setattr(local_pool, "_PATIENCE_S", 0.1)

    def on_read(count: int, total: int | None) -> None:
        if restored:
            raise StoppedError

    start = time.monotonic()
    with pytest.raises(StoppedError):
        restore_ends(
            VideoEnds(clip, tmp_path / "out.mp4"),
            deblurrer,
            SETTINGS,
            resumable=resumable(tmp_path / "out.mp4"),
            on_frame=lambda *frames: restored.append(1),
            on_read=on_read,
            cancelled_by=(StoppedError,),
        )
    assert time.monotonic() - start < 50
    assert len(restored) < NUM_FRAMES
    slow.set()


@pytest.mark.parametrize("ends", [VideoEnds, ClipToFolderEnds])
def test_a_cancel_is_heard_while_frames_are_passed_over(
    ends, clip, deblurrer, tmp_path, monkeypatch
):
    output, passed = tmp_path / ("out.mp4" if ends is VideoEnds else "out"), []
    with pytest.raises(StoppedError):
        restore_ends(
            ends(clip, output),
            deblurrer,
            SETTINGS,
            resumable=resumable(output),
            callback=stop_after(23),
        )
    checked = ends._raise_if_closing

    def slowly(self) -> None:
        passed.append(1)
        time.sleep(0.3)
        checked(self)

    monkeypatch.setattr(ends, "_raise_if_closing", slowly)

    def check() -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        restore_ends(
            ends(clip, output),
            deblurrer,
            SETTINGS,
            resumable=resumable(output),
            check=check,
            cancelled_by=(StoppedError,),
        )
    assert 1 <= len(passed) <= 3


def test_a_run_can_be_cancelled_at_every_frame_that_is_read(clip, deblurrer, tmp_path):
    read = []

    def on_read(count: int, total: int | None) -> None:
        read.append((count, total))
        if count == 4:
            raise StoppedError

    output = tmp_path / "out.mp4"
    with pytest.raises(StoppedError):
        restore_ends(
            VideoEnds(clip, output),
            deblurrer,
            SETTINGS,
            resumable=resumable(output),
            on_read=on_read,
            on_frame=lambda *frames: pytest.fail("no frame is restored"),
        )
    assert read == [(count, NUM_FRAMES) for count in range(1, 5)]
    assert hidden(tmp_path) == []
