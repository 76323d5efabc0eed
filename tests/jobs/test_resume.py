"""Runs that are stopped and go on: the same file, nothing lost, nothing left."""

from __future__ import annotations

import dataclasses
import errno
import logging
import threading
import time
from itertools import islice

import av
import cv2
import numpy as np
import pytest
from video_deblur.jobs import local_pool, part_store
from video_deblur.jobs.files import restore_ends, restore_file, restore_folder
from video_deblur.jobs.part_store import resume_folder
from video_deblur.jobs.video_ends import VideoEnds
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.feed_forward import FeedForward
from video_deblur.restoration.first_stage.stage import FirstStage
from video_deblur.restoration.streaming import stream
from video_deblur.video.encoder import PacketEncoder

from ..conftest import SMALL_CPGD_CONFIG
from .footage import (
    NUM_FRAMES,
    SETTINGS,
    StoppedError,
    decoded,
    hidden,
    packets,
    pictures,
    resumable,
    stop_after,
    stopped,
    write_clip,
)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("out.mp4", "h264"), ("out.mov", "prores"), ("out.mkv", "ffv1"), ("out.mp4", "h265")],
)
def test_a_stopped_run_goes_on_and_gives_the_same_file(name, codec, clip, deblurrer, tmp_path):
    whole, output = tmp_path / f"whole_{name}", tmp_path / name
    report = restore_file(
        clip, whole, deblurrer, SETTINGS, codec=codec, resumable=resumable(whole)
    )
    seen = []
    for after in (11, 23):
        stopped(clip, output, deblurrer, after, codec=codec)
        seen.append(len(list(resume_folder(output).glob("*.packets"))))
    assert seen == [1, 2]
    again = restore_file(
        clip, output, deblurrer, SETTINGS, codec=codec, resumable=resumable(output)
    )
    assert again == report
    assert report.num_frames == NUM_FRAMES
    assert report.cuts == (26,)
    for kind in ("video", "audio"):
        assert packets(output, kind) == packets(whole, kind)
    assert packets(output, "audio") == packets(clip, "audio") or name.endswith("mkv")
    assert np.array_equal(decoded(output), decoded(whole))
    assert hidden(tmp_path) == []


def test_parts_give_the_frames_and_times_of_one_piece(clip, deblurrer, tmp_path):
    paths = [tmp_path / "straight.mkv", tmp_path / "parts.mkv"]
    restore_file(clip, paths[0], deblurrer, SETTINGS, codec="ffv1")
    chosen = resumable(paths[1])
    restore_file(clip, paths[1], deblurrer, SETTINGS, codec="ffv1", resumable=chosen)
    assert np.array_equal(decoded(paths[0]), decoded(paths[1]))
    times = [[pts for pts, _ in packets(path, "video")] for path in paths]
    assert times[0] == times[1]


def test_networks_without_noise_are_restored_in_parts_as_well(clip, randomise, tmp_path):
    network = DblrNet(DblrNetConfig(channels=4, num_units=1, head_channels=4)).eval()
    engine = FeedForward(randomise(network.requires_grad_(False), 0.2))
    paths = [tmp_path / "straight.mkv", tmp_path / "parts.mkv"]
    restore_file(clip, paths[0], engine, SETTINGS, codec="ffv1")
    chosen = resumable(paths[1])
    restore_file(clip, paths[1], engine, SETTINGS, codec="ffv1", resumable=chosen)
    assert np.array_equal(decoded(paths[0]), decoded(paths[1]))
    assert not np.array_equal(decoded(paths[0]), decoded(clip))


def test_parts_in_a_row_share_windows(clip, tmp_path, monkeypatch):
    engine = ClipRestorer(Cpgd(SMALL_CPGD_CONFIG).eval().requires_grad_(False))
    seen, restore = [], engine.restore_piece
    monkeypatch.setattr(engine, "restore_piece", lambda *args: seen.append(1) or restore(*args))
    counts = []
    for name in ("straight.mkv", "parts.mkv"):
        path = tmp_path / name
        chosen = resumable(path) if name == "parts.mkv" else None
        restore_file(clip, path, engine, SETTINGS, codec="ffv1", resumable=chosen)
        counts.append(len(seen))
        seen.clear()
    assert counts[0] == counts[1] > 4


def test_h264_parts_decode_to_what_was_encoded(clip, deblurrer, tmp_path):
    output = tmp_path / "out.mp4"
    settings = dataclasses.replace(SETTINGS, strength=0)
    restore_file(clip, output, deblurrer, settings, crf=0, resumable=resumable(output))
    difference = decoded(output).astype(int) - decoded(clip)
    assert np.abs(difference).mean() < 1.5
    with av.open(str(output)) as container:
        keys = [p.is_keyframe for p in container.demux(video=0) if p.size]
    assert sum(keys) >= NUM_FRAMES // 10


@pytest.mark.parametrize(
    "change", ["settings", "checkpoint", "input", "codec", "deinterlace", "first_stage"]
)
def test_whatever_the_result_depends_on_starts_over(change, clip, deblurrer, tmp_path, caplog):
    output = tmp_path / "out.mp4"
    stopped(clip, output, deblurrer, 23)
    settings, options = SETTINGS, {}
    chosen = resumable(output)
    if change == "settings":
        settings = dataclasses.replace(SETTINGS, seed=3)
    elif change == "checkpoint":
        chosen = resumable(output, checkpoint="2")
    elif change == "input":
        write_clip(clip, pictures()[::-1])
    elif change == "first_stage":
        deblurrer.first_stage = FirstStage(Deblurrer(deblurrer.model), "other", "00")
    elif change == "deinterlace":
        options["deinterlace"] = "frame"
    else:
        options["codec"] = "h265"
    with caplog.at_level(logging.WARNING):
        restore_file(clip, output, deblurrer, settings, resumable=chosen, **options)
    named = {"codec": "codec, quality or form of the pictures"}.get(change, change)
    (message,) = [r.getMessage() for r in caplog.records if "starts over" in r.getMessage()]
    assert message.endswith(f"since the run that was stopped: {named}")
    fresh = tmp_path / "fresh.mp4"
    restore_file(clip, fresh, deblurrer, settings, resumable=resumable(fresh), **options)
    assert packets(output, "video") == packets(fresh, "video")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_mistyped_option_costs_no_finished_part(clip, deblurrer, tmp_path, caplog):
    output = tmp_path / "out.mp4"
    stopped(clip, output, deblurrer, 23)
    for seed in (3, 4):
        stopped(clip, output, deblurrer, 5, dataclasses.replace(SETTINGS, seed=seed))
    assert len([m for m in caplog.messages if "starts over" in m]) == 1
    report = restore_file(clip, output, deblurrer, SETTINGS, resumable=resumable(output))
    assert report.num_kept > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_of_other_work_only_the_last_is_kept(clip, deblurrer, tmp_path):
    output = tmp_path / "out.mp4"
    for seed in (1, 2, 3):
        stopped(clip, output, deblurrer, 23, dataclasses.replace(SETTINGS, seed=seed))
    folders = [path.name for path in tmp_path.iterdir() if ".resume" in path.name]
    assert len(folders) == 2


@pytest.mark.usefixtures("any_first_stage")
def test_a_first_stage_that_looks_at_neighbours_goes_on_too(
    clip, deblurrer, randomise, tmp_path, monkeypatch
):
    network = DblrNet(DblrNetConfig(channels=4, num_units=1, head_channels=4)).eval()
    other = FeedForward(randomise(network.requires_grad_(False), 0.2))
    deblurrer.first_stage = FirstStage(other, "other", "00")
    monkeypatch.setattr(stream, "fuse", _only_first)
    straight, output = tmp_path / "straight.mkv", tmp_path / "out.mkv"
    restore_file(clip, straight, deblurrer, SETTINGS, codec="ffv1")
    stopped(clip, output, deblurrer, 23, codec="ffv1")
    chosen = resumable(output)
    restore_file(clip, output, deblurrer, SETTINGS, codec="ffv1", resumable=chosen)
    assert np.array_equal(decoded(straight), decoded(output))
    expected = tmp_path / "expected.mkv"
    restore_file(clip, expected, other, SETTINGS, codec="ffv1")
    # Candidates are kept in 16 bits.
    assert np.abs(decoded(straight).astype(int) - decoded(expected)).max() <= 1


def _only_first(panels, device, before, wanted=None, *, borrow=True, refused=None):
    chosen = (panel.restored if panel.first is None else panel.first for panel in panels)
    return islice(chosen, *(wanted or (0, None)))


@pytest.mark.parametrize("damage", ["packets", "json", "leftover"])
def test_a_part_that_is_not_whole_is_made_again(damage, clip, deblurrer, tmp_path):
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    restore_file(clip, whole, deblurrer, SETTINGS, resumable=resumable(whole))
    stopped(clip, output, deblurrer, 23)
    folder = resume_folder(output)
    last = sorted(folder.glob("*.packets"))[-1]
    if damage == "packets":
        last.write_bytes(last.read_bytes()[:-5])
    elif damage == "json":
        last.with_suffix(".json").write_text('{"packets": [[')
    else:
        (folder / ".000009.packets.part-1").write_bytes(b"half")
    restore_file(clip, output, deblurrer, SETTINGS, resumable=resumable(output))
    assert packets(output, "video") == packets(whole, "video")
    assert hidden(tmp_path) == []


def test_a_run_without_finished_parts_leaves_nothing(clip, deblurrer, tmp_path):
    output = tmp_path / "out.mp4"
    stopped(clip, output, deblurrer, 3)
    assert hidden(tmp_path) == []


def test_a_full_disk_keeps_what_is_finished_and_says_so(clip, deblurrer, tmp_path, monkeypatch):
    output = tmp_path / "out.mp4"
    write_file = part_store.write_file

    def full(path, data):
        if path.name == "000002.packets":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_file(path, data)

    monkeypatch.setattr(part_store, "write_file", full)
    with pytest.raises(
        OSError, match=r"^\[Errno 28\] .*; \d+ finished frames are kept"
    ) as caught:
        restore_file(clip, output, deblurrer, SETTINGS, resumable=resumable(output))
    assert caught.value.strerror.startswith(
        f"{output}: could not be written (No space left on device), free some space; "
    )
    monkeypatch.setattr(part_store, "write_file", write_file)
    done = []
    restore_file(
        clip,
        output,
        deblurrer,
        SETTINGS,
        resumable=resumable(output),
        callback=lambda count, total: done.append(count),
    )
    assert done[0] > 15
    assert len(decoded(output)) == NUM_FRAMES


def test_a_folder_of_frames_goes_on_too(deblurrer, tmp_path):
    source = tmp_path / "frames"
    source.mkdir()
    for index, pixels in enumerate(pictures(30)):
        cv2.imwrite(str(source / f"{index:03d}.png"), pixels)
    whole, output = tmp_path / "whole", tmp_path / "out"
    restore_folder(source, whole, deblurrer, SETTINGS)
    with pytest.raises(StoppedError):
        restore_folder(
            source,
            output,
            deblurrer,
            SETTINGS,
            resumable=resumable(output),
            callback=stop_after(15),
        )
    assert not output.exists()
    done = []
    report = restore_folder(
        source,
        output,
        deblurrer,
        SETTINGS,
        resumable=resumable(output),
        callback=lambda count, total: done.append(count),
    )
    assert done[0] > 5
    assert (report.num_frames, report.cuts) == (30, (20,))
    for path in whole.iterdir():
        assert path.read_bytes() == (output / path.name).read_bytes()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("settings", [SETTINGS, dataclasses.replace(SETTINGS, borrow=True)])
def test_parts_take_over_what_they_share(settings, clip, deblurrer, tmp_path, monkeypatch):
    seen = []
    predict = deblurrer.predict

    def counted(x, *others):
        seen.append(x.shape[2])
        return predict(x, *others)

    monkeypatch.setattr(deblurrer, "predict", counted)
    counts = []
    for name in ("straight", "parts"):
        output = tmp_path / f"{name}.mkv"
        chosen = resumable(output) if name == "parts" else None
        restore_file(clip, output, deblurrer, settings, codec="ffv1", resumable=chosen)
        counts.append(sum(seen))
        seen.clear()
    assert counts[0] == counts[1]
    assert np.array_equal(decoded(tmp_path / "straight.mkv"), decoded(tmp_path / "parts.mkv"))


def test_a_part_that_is_still_being_encoded_is_kept(clip, deblurrer, tmp_path, monkeypatch):
    encode, slow = PacketEncoder.encode, threading.Event()
    monkeypatch.setattr(local_pool, "_PATIENCE_S", 30)

    def encode_late(self, *frame):
        slow.wait(10)
        return encode(self, *frame)

    monkeypatch.setattr(PacketEncoder, "encode", encode_late)

    def stop(done: float, total: int | None) -> None:
        # In the second part; the first one has not been encoded yet.
        if done >= 11:
            assert not list(resume_folder(output).glob("*.packets"))
            slow.set()
            raise StoppedError

    output = tmp_path / "out.mp4"
    with pytest.raises(StoppedError):
        restore_file(
            clip, output, deblurrer, SETTINGS, resumable=resumable(output), callback=stop
        )
    assert len(list(resume_folder(output).glob("*.packets"))) == 1


def test_a_part_that_is_encoded_for_long_is_not_waited_for(
    clip, deblurrer, tmp_path, monkeypatch
):
    finish, slow, restored = PacketEncoder.finish, threading.Event(), []

    def finish_late(self):
        if len(restored) == NUM_FRAMES:
            slow.wait(60)
        return finish(self)

    monkeypatch.setattr(PacketEncoder, "finish", finish_late)

    def check() -> None:
        # All that is left to do is to wait for the encoder.
        if len(restored) == NUM_FRAMES:
            raise StoppedError

    output = tmp_path / "out.mp4"
    start = time.monotonic()
    with pytest.raises(StoppedError):
        restore_ends(
            VideoEnds(clip, output),
            deblurrer,
            SETTINGS,
            resumable=resumable(output),
            on_frame=lambda *frames: restored.append(1),
            check=check,
        )
    assert time.monotonic() - start < 50
    slow.set()
    assert not output.exists()


def test_a_frame_that_cannot_be_read_costs_no_part_before_it(deblurrer, tmp_path):
    source = tmp_path / "frames"
    source.mkdir()
    for index, pixels in enumerate(pictures(30)):
        cv2.imwrite(str(source / f"{index:03d}.png"), pixels)
    good = (source / "025.png").read_bytes()
    # What the headers say stays as it is, so that only decoding finds it.
    start = good.index(b"IDAT") + 4
    (source / "025.png").write_bytes(good[:start] + bytes(40) + good[start + 40 :])
    output = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"025\.png: cannot be read as an image"):
            restore_folder(source, output, deblurrer, SETTINGS, resumable=resumable(output))
    kept = sorted(resume_folder(output).glob("[0-9]*.json"))
    assert len(kept) == 2
    assert not output.exists()
