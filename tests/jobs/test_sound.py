"""What becomes of sound in runs that go on and in batches."""

from __future__ import annotations

import av
import numpy as np
import pytest
from video_deblur.jobs.batch import BatchSettings, plan_batch, restore_batch
from video_deblur.jobs.files import restore_file
from video_deblur.jobs.local_pool import LocalPool
from video_deblur.video.reader import VideoReader
from video_deblur.video.sound import SoundEncoder

from .footage import (
    NUM_FRAMES,
    SETTINGS,
    decoded,
    packets,
    pictures,
    resumable,
    stopped,
    write_clip,
)


def with_sound(path, codec):
    """Write a clip whose sound no output takes as it is."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        audio = container.add_stream(codec, rate=22050, layout="mono")
        audio.bit_rate = 64000
        for index, pixels in enumerate(pictures()):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            size = audio.codec_context.frame_size or 882
            if size * index > 22050 * NUM_FRAMES // 25:
                continue
            kind = audio.codec_context.format.name
            wave = 0.3 * np.sin(np.arange(size) / 5)[None]
            wave = (wave * 32767).astype("i2") if kind == "s16" else wave.astype("f4")
            samples = av.AudioFrame.from_ndarray(wave, format=kind, layout="mono")
            samples.sample_rate, samples.pts = 22050, size * index
            container.mux(audio.encode(samples))
        for each in (stream, audio):
            container.mux(each.encode(None))
    return path


def sound_codecs(path):
    with av.open(str(path)) as container:
        return [each.codec_context.name for each in container.streams.audio]


def test_a_run_that_goes_on_encodes_sound_as_one_in_a_row(deblurrer, tmp_path, caplog):
    clip = with_sound(tmp_path / "clip.wmv", "wmav2")
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    restore_file(clip, whole, deblurrer, SETTINGS, resumable=resumable(whole))
    assert ["(wmav2) is encoded to AAC" in each for each in caplog.messages] == [True]
    stopped(clip, output, deblurrer, 15)
    restore_file(clip, output, deblurrer, SETTINGS, resumable=resumable(output))
    assert sound_codecs(output) == ["aac"]
    assert packets(output, "audio") == packets(whole, "audio")
    assert len(decoded(output)) == NUM_FRAMES


@pytest.mark.parametrize("keep", [False, True])
def test_sound_can_be_dropped(keep, deblurrer, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", pictures())
    output = tmp_path / "out.mp4"
    chosen = resumable(output) if keep else None
    restore_file(clip, output, deblurrer, SETTINGS, audio="drop", resumable=chosen)
    assert sound_codecs(output) == []
    assert len(decoded(output)) == NUM_FRAMES


def test_a_batch_names_outputs_by_what_holds_the_sound(tmp_path):
    sources = [
        with_sound(tmp_path / "wma.wmv", "wmav2"),
        with_sound(tmp_path / "pcm.mkv", "pcm_s16le"),
    ]
    names = {
        choice: [
            clip.output.name for clip in plan_batch(sources, tmp_path / "o", "h264", choice)
        ]
        for choice in ("copy", "encode", "drop")
    }
    assert names["copy"] == ["wma.mp4", "pcm.mkv"]
    assert names["encode"] == names["drop"] == ["wma.mp4", "pcm.mp4"]


@pytest.mark.parametrize("where", ["planning", "reading", "joining"])
def test_no_error_of_one_clip_ends_a_batch(where, deblurrer, tmp_path, monkeypatch):
    bad = with_sound(tmp_path / "bad.wmv", "wmav2")
    good = write_clip(tmp_path / "good.mp4", pictures())

    def failing(method):
        def fail(self, *args):
            if getattr(self, "name", "bad.wmv").endswith("bad.wmv"):
                raise AttributeError("libav said nothing of the kind")
            return method(self, *args)

        return fail

    if where == "planning":
        monkeypatch.setattr(VideoReader, "_open", failing(VideoReader._open))
    elif where == "reading":
        monkeypatch.setattr(VideoReader, "__next__", failing(VideoReader.__next__))
    else:
        monkeypatch.setattr(SoundEncoder, "encode", failing(SoundEncoder.encode))
    clips = plan_batch([bad, good], tmp_path / "out", "h264")
    settings = BatchSettings(
        config=deblurrer.config, restoration=SETTINGS, identity={"checkpoint": "1"}
    )
    restore_batch(clips, LocalPool(deblurrer, SETTINGS), settings)
    assert [clip.state for clip in clips] == ["failed", "restored"]
    assert clips[0].error == f"{bad}: libav said nothing of the kind"
    assert len(decoded(clips[1].output)) == NUM_FRAMES
