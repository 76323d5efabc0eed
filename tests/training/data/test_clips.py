"""One clip: what is cut out, and what the device makes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from video_deblur.images.datasets import PairedSequence
from video_deblur.synthesis.camera_shake import ShakeConfig
from video_deblur.training.config import DataConfig
from video_deblur.training.data.clips import draw_clip, draw_image, finish_clips
from video_deblur.training.data.sources import PairedSource, SyntheticSource
from video_deblur.training.presets import PRESETS

# An odd size, so that clips of a batch start at every place of a vector register.
CONFIG = DataConfig(num_frames=3, crop=27, compressed_share=0.3)
PHOTOS = dataclasses.replace(CONFIG, photo_share=1.0, clip_share=0.0)
RUNS = dataclasses.replace(CONFIG, photo_share=0.0, clip_share=1.0)
SHARP = dataclasses.replace(CONFIG, photo_share=0.0, clip_share=0.0)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def textured(num_frames, height, width, seed=0):
    shape = (num_frames, height, width, 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 1.2) for frame in noise])


@pytest.fixture(scope="module")
def synthetic():
    return SyntheticSource(
        root=Path("data"),
        weight=1.0,
        photos=tuple(torch.from_numpy(textured(1, 90, 120, seed)) for seed in range(3)),
        runs=tuple(torch.from_numpy(textured(5, 100, 80, seed)) for seed in range(2)),
    )


@pytest.fixture
def paired(tmp_path):
    """Two sequences that brighten; sharp pixels are even, blurry ones half of them."""
    sequences = []
    for name, num_frames, size in (("a", 6, (40, 50)), ("b", 4, (60, 34))):
        folders = {kind: tmp_path / name / kind for kind in ("blur", "sharp")}
        for index, noise in enumerate(textured(num_frames, *size)):
            frame = noise // 4 * 2 + np.uint8(20 * index)
            for kind, pixels in (("blur", frame // 2), ("sharp", frame)):
                folders[kind].mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(folders[kind] / f"{index}.png"), pixels)
        blurry, sharp = (tuple(sorted(folders[k].iterdir())) for k in ("blur", "sharp"))
        sequences.append(PairedSequence(name=name, blurry=blurry, sharp=sharp))
    return PairedSource(weight=1.0, sequences=tuple(sequences), sizes=((40, 50), (60, 34)))


def test_each_kind_has_its_form(synthetic, paired):
    photo = draw_clip(synthetic, PHOTOS, seeded(0))
    assert photo.source.shape == (1, 3, 27 + 128, 27 + 128)
    assert photo.shot is not None
    run = draw_clip(synthetic, RUNS, seeded(0))
    assert run.source.shape == (3, 3, 27 + 128, 27 + 128)
    assert run.shot is not None
    assert run.foreground is None
    sharp = draw_clip(synthetic, SHARP, seeded(0))
    assert sharp.source.shape == (3, 3, 27, 27)
    assert sharp.shot is None
    pair = draw_clip(paired, CONFIG, seeded(0))
    assert pair.blurry.shape == pair.source.shape == (3, 3, 27, 27)
    for clip in (photo, run, sharp, pair):
        assert clip.source.dtype == torch.uint8


def test_a_foreground_is_cut_only_for_shots_that_have_one(synthetic):
    shake = ShakeConfig(foreground_probability=0.5)
    config = dataclasses.replace(PHOTOS, shake=shake)
    clips = [draw_clip(synthetic, config, seeded(seed)) for seed in range(30)]
    with_front = [clip.foreground is not None for clip in clips]
    assert with_front == [clip.shot.front is not None for clip in clips]
    assert 5 < sum(with_front) < 25


def test_kinds_come_in_their_shares(synthetic):
    config = dataclasses.replace(CONFIG, photo_share=0.6, clip_share=0.1)
    clips = [draw_clip(synthetic, config, seeded(seed)) for seed in range(300)]
    photos = sum(clip.shot is not None and len(clip.source) == 1 for clip in clips)
    sharp = sum(clip.shot is None for clip in clips)
    assert abs(photos / 300 - 0.6) < 0.08
    assert abs(sharp / 300 - 0.3) < 0.08
    assert abs(sum(clip.crf is not None for clip in clips) / 300 - 0.3) < 0.08
    assert {clip.crf for clip in clips} <= {None, *range(16, 33)}


def test_blurry_and_sharp_frames_of_a_pair_are_cut_alike(paired):
    corners, backwards = set(), []
    for seed in range(40):
        clip = draw_clip(paired, CONFIG, seeded(seed))
        assert torch.equal(clip.blurry * 2, clip.source)
        corners.add(tuple(clip.source[:, 0, 0, 0].tolist()))
        brightness = clip.source.float().mean((1, 2, 3))
        assert (brightness.diff().sign() == (brightness[-1] - brightness[0]).sign()).all()
        backwards.append(bool(brightness[-1] < brightness[0]))
    assert len(corners) > 30
    assert 10 < sum(backwards) < 30


def test_pairs_are_shrunk_only_if_asked_to(paired):
    config = dataclasses.replace(CONFIG, pair_shrinking=1.25)
    clips = [draw_clip(paired, config, seeded(seed)) for seed in range(10)]
    for clip in clips:
        assert clip.source.shape == (3, 3, 27, 27)
        assert (clip.blurry * 2.0 - clip.source).abs().max() <= 2
    assert any((clip.source % 2 == 1).any() for clip in clips)


@pytest.mark.parametrize("size", [27, 34])
def test_pairs_are_crops_of_the_frames_at_their_own_scale(paired, size):
    config = dataclasses.replace(CONFIG, crop=size, num_frames=1)
    wanted = draw_clip(paired, config, seeded(3)).source[0]
    turned = [wanted.rot90(turns, (1, 2)) for turns in range(4)]
    candidates = {p.numpy().tobytes() for c in turned for p in (c, c.flip(2))}
    found = False
    for sequence in paired.sequences:
        for path in sequence.sharp:
            frame = np.moveaxis(cv2.imread(str(path))[..., ::-1], -1, 0)
            _, height, width = frame.shape
            found |= any(
                frame[:, top : top + size, left : left + size].tobytes() in candidates
                for top in range(height - size + 1)
                for left in range(width - size + 1)
            )
    assert found


def test_single_images_are_sharp_crops(synthetic, paired):
    for source in (synthetic, paired):
        image = draw_image(source, 30, seeded(0))
        assert image.shape == (3, 30, 30)
        assert image.dtype == torch.uint8
        assert torch.equal(image, draw_image(source, 30, seeded(0)))
        assert not torch.equal(image, draw_image(source, 30, seeded(1)))


def test_finished_clips_have_the_promised_form(synthetic, paired):
    clips = [draw_clip(s, CONFIG, seeded(i)) for i, s in enumerate([synthetic] * 6 + [paired])]
    blurry, sharp = finish_clips(clips, "cpu")
    for batch in (blurry, sharp):
        assert batch.shape == (7, 3, 3, 27, 27)
        assert batch.dtype == torch.float32
        assert batch.min() >= 0
        assert batch.max() <= 1
    assert torch.allclose(blurry * 255, (blurry * 255).round(), atol=1e-3)
    assert torch.equal(sharp[6], clips[6].source / 255)


def test_a_finished_clip_is_the_same_to_the_bit_whatever_its_neighbours(synthetic, paired):
    clips = [draw_clip(synthetic, config, seeded(i)) for i, config in enumerate([PHOTOS] * 5)]
    clips += [draw_clip(synthetic, config, seeded(9)) for config in (RUNS, SHARP, RUNS)]
    clips += [draw_clip(paired, CONFIG, seeded(20 + i)) for i in range(4)]
    clips = [
        dataclasses.replace(c, crf=20 if i % 5 == 1 else None) for i, c in enumerate(clips)
    ]
    assert any(clip.foreground is not None for clip in clips)
    together = finish_clips(clips, "cpu")
    for size in (1, 4, 6):
        parts = [finish_clips(clips[i : i + size], "cpu") for i in range(0, 12, size)]
        for one, whole in zip(zip(*parts, strict=True), together, strict=True):
            assert torch.equal(torch.cat(one), whole)
    backwards = finish_clips(clips[::-1], "cpu")
    for one, whole in zip(backwards, together, strict=True):
        assert torch.equal(one.flip(0), whole)


def test_the_papers_take_real_pairs_as_they_are(paired):
    paper = PRESETS["paper"].stage2.data
    assert (paper.noise_share, paper.compressed_share) == (0, 0)
    config = dataclasses.replace(paper, num_frames=3, crop=27)
    clips = [draw_clip(paired, config, seeded(i)) for i in range(8)]
    blurry, sharp = finish_clips(clips, "cpu")
    for index, clip in enumerate(clips):
        assert torch.equal((blurry[index] * 255).round(), clip.blurry)
        assert torch.equal((sharp[index] * 255).round(), clip.source)


def test_noise_comes_in_its_share(synthetic):
    for share, low, high in ((0.0, 0, 0), (0.5, 5, 30), (1.0, 20, 40)):
        config = dataclasses.replace(SHARP, noise_share=share, compressed_share=0.0)
        blurry, sharp = finish_clips(
            [draw_clip(synthetic, config, seeded(i)) for i in range(40)], "cpu"
        )
        # Rounding to 8 bits swallows the weakest.
        changed = sum(not torch.allclose(*pair) for pair in zip(blurry, sharp, strict=True))
        assert low <= changed <= high


def test_compression_changes_the_blurry_frames_alone(synthetic):
    clip = dataclasses.replace(draw_clip(synthetic, SHARP, seeded(1)), crf=None)
    hard = dataclasses.replace(clip, crf=32)
    blurry, sharp = finish_clips([clip, hard], "cpu")
    assert torch.equal(sharp[0], sharp[1])
    error = (blurry[0] - blurry[1]).abs().mean()
    assert 0.005 < error < 0.1
