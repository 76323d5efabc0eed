"""Drawing clips ahead of time: always the same ones, whoever draws them."""

from __future__ import annotations

import dataclasses
import pickle
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from video_deblur.models.config_fields import ConfigError
from video_deblur.synthesis.camera_shake import ShakeConfig
from video_deblur.training.config import DataConfig
from video_deblur.training.data import loader
from video_deblur.training.data.loader import ClipLoader, TrainingData, clip_generator

CONFIG = DataConfig(num_frames=3, crop=24, photo_share=1.0, clip_share=0.0)
CALM = dataclasses.replace(CONFIG, shake=ShakeConfig(sharp_probability=1.0))
TWO_PHASES = [(0, CALM), (5, CONFIG)]


def write(path, seed=0, size=(48, 56)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.GaussianBlur(pixels, (5, 5), 0))


@pytest.fixture
def folder(tmp_path):
    for seed in range(2):
        write(tmp_path / "photos" / f"{seed}.png", seed=seed)
    for index in range(4):
        for kind in ("blur", "sharp"):
            write(tmp_path / "pairs" / "a" / kind / f"{index}.png", seed=index)
    return tmp_path


@pytest.fixture
def data(folder):
    specs = [f"synthetic:{folder}", f"pairs:{folder / 'pairs'}*0.5"]
    return TrainingData(specs, num_frames=3, crop=24)


def described(clip):
    """Everything about a clip, comparable."""
    tensors = (clip.source, clip.blurry, clip.foreground)
    pixels = [None if t is None else (tuple(t.shape), t.numpy().tobytes()) for t in tensors]
    shot = clip.shot and (clip.shot.counts.tobytes(), clip.shot.scene.sub_frames.tobytes())
    return pixels, shot, clip.noise_seed, clip.crf


def batches(data, first, last, phases=TWO_PHASES, clips=4, seed=1, **options):
    drawn = ClipLoader(data, phases, clips=clips, seed=seed, **options).batches(first, last)
    return [[described(clip) for clip in batch] for batch in drawn]


def test_a_clip_depends_on_seed_update_and_place(data):
    drawn = {
        key: described(data.draw(CONFIG, *key))
        for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 300, 2), (0, 3, 200)]
    }
    seeds = [noise_seed for _, _, noise_seed, _ in drawn.values()]
    assert len(set(seeds)) == len(drawn)
    torch.manual_seed(5)
    for key, clip in drawn.items():
        assert described(data.draw(CONFIG, *key)) == clip


@pytest.mark.parametrize("num_workers", [0, 2])
def test_large_updates_are_drawn_in_pieces_and_stay_the_same(data, monkeypatch, num_workers):
    whole = batches(data, 3, 7, clips=5)
    monkeypatch.setattr(loader, "MOST_AT_ONCE", 2)
    assert batches(data, 3, 7, clips=5, num_workers=num_workers) == whole


def test_sources_are_drawn_by_their_weights(data):
    clips = [data.draw(CONFIG, 0, update, 0) for update in range(300)]
    share = sum(clip.blurry is not None for clip in clips) / 300
    assert abs(share - 1 / 3) < 0.08


def test_finishing_in_parts_gives_the_same_batch(data):
    clips = [data.draw(CONFIG, 0, 0, index) for index in range(4)]
    together = data.finish(clips)
    halves = [data.finish(clips[:2]), data.finish(clips[2:])]
    singles = [data.finish([clip]) for clip in clips]
    for parts in (halves, singles):
        for part, whole in zip(zip(*parts, strict=True), together, strict=True):
            assert torch.equal(torch.cat(part), whole)


def test_processes_share_the_batch_of_one(data):
    whole = batches(data, 3, 7)
    halves = [batches(data, 3, 7, rank=rank, world=2) for rank in range(2)]
    assert [one + two for one, two in zip(*halves, strict=True)] == whole
    assert len(whole) == 4
    assert len(whole[0]) == 4


def test_a_resumed_loader_goes_on_where_it_stopped(data):
    whole = batches(data, 0, 8)
    assert batches(data, 0, 3) + batches(data, 3, 8) == whole
    assert batches(data, 8, 8) == []


def test_phases_begin_at_their_update(data):
    loader = ClipLoader(data, TWO_PHASES, clips=12, seed=0)
    exposed = [
        [clip.shot.counts.max() > 1 for clip in batch if clip.shot is not None]
        for batch in loader.batches(3, 7)
    ]
    assert not any(map(any, exposed[:2]))
    assert all(map(any, exposed[2:]))


def test_workers_draw_the_same_clips_and_leave_the_global_generator_alone(data):
    torch.manual_seed(3)
    drawn = batches(data, 4, 7, num_workers=2)
    assert drawn == batches(data, 4, 7)
    value = torch.rand(())
    torch.manual_seed(3)
    assert torch.rand(()) == value


def test_a_clip_is_drawn_before_workers_are_forked(data, monkeypatch):
    # So that OpenCV has this thread's data: forked in an unlucky moment, 5 of 1500 workers that
    # had to make them hung (OpenCV 5.0.0), 0 of 3000 that did not.
    drawn, draw = [], data.draw
    monkeypatch.setattr(data, "draw", lambda *args: drawn.append(args) or draw(*args))
    loader = ClipLoader(data, [(0, CONFIG)], clips=2, seed=0, num_workers=1)
    assert len(list(loader.batches(3, 5))) == 2
    assert [args[1:] for args in drawn] == [(0, 3, 0)]
    assert list(loader.batches(5, 5)) == []


def test_pixels_of_a_batch_share_one_file(data):
    loader = ClipLoader(data, [(0, CONFIG)], clips=12, seed=0, num_workers=1)
    (batch,) = loader.batches(0, 1)
    pixels = [clip.source for clip in batch]
    pixels += [clip.blurry for clip in batch if clip.blurry is not None]
    assert len(pixels) > 12
    assert len({part.untyped_storage().data_ptr() for part in pixels}) == 1


def test_what_workers_hold_can_be_sent_to_them(data):
    loader = ClipLoader(data, TWO_PHASES, clips=4, seed=1)
    copy = pickle.loads(pickle.dumps(loader))
    ours, theirs = ([described(c) for b in x.batches(4, 6) for c in b] for x in (loader, copy))
    assert ours == theirs


KILLED = """
import os, signal, sys, time
from video_deblur.training.config import DataConfig
from video_deblur.training.data.loader import ClipLoader, TrainingData

if __name__ == "__main__":
    data = TrainingData([f"synthetic:{sys.argv[1]}"], num_frames=3, crop=24)
    config = DataConfig(num_frames=3, crop=24, photo_share=1.0, clip_share=0.0)
    batches = ClipLoader(data, [(0, config)], clips=32, seed=0, num_workers=2).batches(0, 99)
    next(batches)
    time.sleep(0.5)
    print("drawing", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_workers_end_with_a_process_that_is_killed(folder, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    # Its end of the pipe closes when the last worker is gone.
    done = subprocess.run(
        [sys.executable, script, folder], stdout=subprocess.PIPE, timeout=180, check=False
    )
    assert done.stdout == b"drawing\n"
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_breaks_during_the_run_is_named_in_one_line(folder, num_workers):
    data = TrainingData([f"pairs:{folder / 'pairs'}"], num_frames=3, crop=24)
    for path in (folder / "pairs" / "a" / "sharp").iterdir():
        path.write_bytes(b"gone")
    loader = ClipLoader(data, [(0, CONFIG)], clips=2, seed=0, num_workers=num_workers)
    with pytest.raises(ValueError, match=r"^[^\n]*\.png: cannot be read as an image$"):
        list(loader.batches(0, 2))


def test_single_images_follow_their_generator(data):
    def draw(seed):
        return data.images(5, 40, torch.Generator().manual_seed(seed))

    images = draw(0)
    assert images.shape == (5, 3, 40, 40)
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(images, draw(0))
    assert not torch.equal(images, draw(1))


def test_generators_of_neighbouring_clips_have_nothing_in_common():
    draws = torch.stack(
        [
            torch.randn(2000, generator=clip_generator(seed, update, place, purpose))
            for seed, update, place in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
            for purpose in ("clip", "noise")
        ]
    )
    off_diagonal = torch.corrcoef(draws) - torch.eye(len(draws))
    assert off_diagonal.abs().max() < 0.1


def test_clips_that_the_data_cannot_give_are_refused(data, folder):
    for change, message in (
        ({"num_frames": 4}, "up to 3 frames and 24x24 cannot give 4 frames"),
        ({"crop": 25}, "cannot give 3 frames and 25x25"),
        ({"photo_share": 0.0}, "has no clips/, where photo_share and clip_share"),
    ):
        config = dataclasses.replace(CONFIG, **change)
        with pytest.raises(ValueError, match=message):
            ClipLoader(data, [(0, CONFIG), (9, config)], clips=4, seed=0)
    with pytest.raises(ValueError, match=r"too small for clips of 49x49"):
        TrainingData([f"synthetic:{folder}"], num_frames=3, crop=49)


def test_batches_that_cannot_be_shared_are_refused(data):
    with pytest.raises(ValueError, match=r"6 clips .* evenly by 4 processes; choose a multip"):
        ClipLoader(data, TWO_PHASES, clips=6, seed=0, world=4)
    for starts in ([], [1], [0, 5, 5]):
        with pytest.raises(ValueError, match="phases must start at update 0 and grow"):
            ClipLoader(data, [(start, CONFIG) for start in starts], clips=4, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_frames": 0}, "num_frames must be 1 or more, got 0"),
        ({"pair_shrinking": 0.5}, "pair_shrinking must be 1 or more"),
        ({"compressed_share": 1.5}, "compressed_share must be between 0 and 1"),
        ({"photo_share": 0.8, "clip_share": 0.3}, "photo_share and clip_share add up to 1.1"),
    ],
)
def test_impossible_shares_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**change)
