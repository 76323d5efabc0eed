import dataclasses
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from video_deblur.synthesis import shot
from video_deblur.synthesis.camera_response import RESPONSES, to_display, to_linear
from video_deblur.synthesis.camera_shake import (
    KNOTS_PER_FRAME,
    NUM_CURVES,
    Trajectory,
    sample_trajectory,
)
from video_deblur.synthesis.motion_blur import (
    ShakeConfig,
    average_frames,
    compress_h264,
    compress_jpeg,
    degrade,
    render_clips,
    shake_clips,
)
from video_deblur.synthesis.shot import draw_shot, plan_shot

GAMMA = RESPONSES.index("gamma")
CALM = ShakeConfig(motion=(0, 0), source_scale=(1, 1), sharp_probability=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def several(*seeds):
    return [seeded(seed) for seed in seeds]


def photos(num_clips=2, height=48, width=56, num_sources=1):
    shape = (num_clips, num_sources, 3, height, width)
    return torch.randint(0, 256, shape, generator=seeded(9), dtype=torch.uint8)


def straight_path(speed, num_frames, exposure, size=(32, 48)):
    """A camera that shifts horizontally by `speed` pixels per frame."""
    positions = torch.zeros(num_frames * KNOTS_PER_FRAME + 3, NUM_CURVES)
    positions[:, 0] = speed * (torch.arange(len(positions)) - 1) / KNOTS_PER_FRAME
    return Trajectory(positions=positions, exposure=exposure, source_scale=1.0, size=size)


@pytest.mark.parametrize("num_sources", [1, 3])
def test_camera_at_rest_returns_the_photo_twice(num_sources):
    sources = photos(num_sources=num_sources)
    blurry, sharp = shake_clips(sources, 3, (32, 40), CALM, several(0, 1))
    expected = (sources[..., 8:40, 8:48].float() / 255).expand_as(sharp)
    assert torch.allclose(sharp, expected, atol=0.3 / 255)
    assert torch.allclose(blurry, expected, atol=0.5 / 255)


def test_horizontal_shift_draws_a_square_into_a_band_of_equal_light():
    source = torch.zeros(1, 1, 3, 64, 96, dtype=torch.uint8)
    source[..., 28:36, 44:52] = 255
    path = straight_path(speed=24.0, num_frames=1, exposure=1.0, size=(32, 72))
    blurry, sharp = render_clips(source, [plan_shot(path, GAMMA, ShakeConfig())])
    light, still = (clip[0, 0, 0].double() ** 2.2 for clip in (blurry, sharp))
    assert still.sum().item() == pytest.approx(64, rel=0.03)
    assert light.sum().item() == pytest.approx(64, rel=0.05)
    row = light[16]
    # A square of 8 pixels smeared over 24 has a third of its light in the middle.
    assert row.max().item() == pytest.approx(1 / 3, rel=0.03)
    lit = (row > 0.01).nonzero()[:, 0]
    assert abs(len(lit) - 31) <= 1
    # The camera moves right, so the square moves left from the middle (32..39).
    assert abs(int(lit.max()) - 39) <= 1


def test_average_of_black_and_white_has_its_share_of_the_light():
    frames = torch.zeros(9, 3, 4, 4, dtype=torch.uint8)
    frames[3:6] = 255
    blurry, sharp = average_frames(frames, 9, response=GAMMA)
    assert blurry.shape == (1, 3, 4, 4)
    assert torch.allclose(blurry, torch.tensor((1 / 3) ** (1 / 2.2)), atol=0.5 / 255)
    assert torch.equal(sharp[0], frames[4].float() / 255)


def test_average_of_frames_keeps_whole_groups_at_the_stride():
    frames = photos(1, 8, 8, 20)[0]
    blurry, sharp = average_frames(frames, 7, stride=10)
    assert len(blurry) == len(sharp) == 2
    assert torch.equal(sharp[1], frames[13].float() / 255)
    with pytest.raises(ValueError, match="averaging needs 7 frames, got 5"):
        average_frames(frames[:5], 7)
    with pytest.raises(ValueError, match=r"expected an odd num_averaged.*got 8"):
        average_frames(frames, 8)


def test_sub_frames_continue_evenly_into_the_next_frame_at_full_exposure():
    path = dataclasses.replace(
        sample_trajectory(8, ShakeConfig(), seeded(), size=(64, 64)), exposure=1.0
    )
    instants = path.exposure_instants(16).flatten()
    assert torch.allclose(instants.diff(), torch.tensor(1 / 16), atol=1e-5)
    jumps = path.positions_at(instants).diff(dim=0).abs().amax(-1)
    seams = jumps[15::16]
    assert seams.max() > 0
    # No jump at a seam: the speed there is that of its two neighbours.
    neighbours = torch.maximum(jumps[14:-1:16], jumps[16::16])
    assert (seams <= 1.5 * neighbours + 0.02).all()
    assert torch.allclose(path.middle_instants(), torch.arange(8) + 0.5)


def test_interpolated_path_passes_through_its_knots():
    path = sample_trajectory(3, ShakeConfig(), seeded(), size=(64, 64))
    instants = torch.arange(3 * KNOTS_PER_FRAME + 1) / KNOTS_PER_FRAME
    assert torch.allclose(path.positions_at(instants), path.positions[1:-1], atol=1e-4)


def test_motion_covers_rest_and_heavy_shake():
    config = ShakeConfig(sharp_probability=0)
    paths = [sample_trajectory(16, config, seeded(i), size=(128, 128)) for i in range(200)]
    positions = torch.stack([path.positions for path in paths])
    frame_starts = positions[:, 1 : 1 + 16 * KNOTS_PER_FRAME : KNOTS_PER_FRAME, :2]
    speed = frame_starts.diff(dim=1).norm(dim=-1).median(1).values
    assert 6 < speed.median() < 14
    assert speed.quantile(0.1) > 1.5
    assert speed.quantile(0.9) < 25
    lengths = torch.stack([path.path_lengths() for path in paths])
    assert (lengths.amax(1) > 4 * lengths.amin(1)).float().mean() > 0.4


@pytest.mark.parametrize("num_sources", [1, 3])
def test_same_generator_state_gives_the_same_clip(num_sources):
    arguments = (photos(3, num_sources=num_sources), 3, (32, 32), ShakeConfig())
    fronts = photos(3)[:, 0]
    first = shake_clips(*arguments, several(4, 5, 6), fronts)
    again = shake_clips(*arguments, several(4, 5, 6), fronts)
    other = shake_clips(*arguments, several(7, 8, 9), fronts)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("num_sources", [1, 3])
def test_a_clip_is_the_same_to_the_bit_whatever_its_neighbours(num_sources):
    # Odd sizes, so that rows of the batch start at every place of a vector register.
    sources, fronts = photos(4, 45, 53, num_sources), photos(4, 31, 37)[:, 0]
    config = ShakeConfig(foreground_probability=0.5)

    def film(clips):
        generators = several(*(10 + clip for clip in clips))
        blurry, sharp = shake_clips(
            sources[clips], 3, (29, 27), config, generators, fronts[clips]
        )
        return degrade(blurry, generators), sharp

    together = film([0, 1, 2, 3])
    for parts in ([[0, 1], [2, 3]], [[3, 1], [0], [2]]):
        for part in parts:
            for one, all_of_them in zip(film(part), together, strict=True):
                assert torch.equal(one, all_of_them[part])


def test_frames_sorted_by_their_motion_return_to_their_places():
    sources, config = photos(3), ShakeConfig(foreground_probability=1.0)
    shots = [
        draw_shot(4, (24, 24), config, generator, may_have_front=True)
        for generator in several(2, 3, 4)
    ]
    assert len({tuple(shot.counts) for shot in shots}) == 3
    fronts = photos(3, 40, 44)[:, 0]
    as_photo = render_clips(sources, shots, fronts)
    as_clip = render_clips(sources.repeat(1, 4, 1, 1, 1), shots, fronts)
    for photo, clip in zip(as_photo, as_clip, strict=True):
        assert torch.allclose(photo, clip, atol=1e-5)


def test_clips_drawn_as_sharp_have_no_blur_but_move():
    config = ShakeConfig(sharp_probability=1, motion=(20, 20))
    blurry, sharp = shake_clips(photos(), 3, (32, 32), config, several(0, 1))
    assert torch.equal(blurry, sharp)
    assert not torch.allclose(sharp[:, 0], sharp[:, 1], atol=0.05)


def test_foreground_covers_a_part_of_the_scene():
    scene = torch.zeros(4, 1, 3, 48, 48, dtype=torch.uint8)
    front = torch.full((4, 3, 48, 48), 255, dtype=torch.uint8)
    config = dataclasses.replace(CALM, foreground_probability=1)
    _, sharp = shake_clips(scene, 2, (48, 48), config, several(0, 1, 2, 3), front)
    covered = (sharp > 0.5).float().mean((1, 2, 3, 4))
    assert covered.min() > 0.05
    assert covered.max() < 0.7


@pytest.mark.parametrize("response", range(len(RESPONSES)))
def test_response_table_returns_every_level(response):
    levels = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    index = torch.tensor([response])
    light = to_linear(levels, index)
    assert (light.diff(dim=-1) >= 0).all()
    assert light.max() == 1
    assert torch.allclose(to_display(light, index) * 255, levels.float(), atol=0.15)


def test_noise_stays_within_its_limit_and_rounds_to_8_bits():
    clean = torch.full((64, 2, 3, 16, 16), 0.5)
    noisy = degrade(clean, several(*range(64)))
    assert torch.equal(noisy, degrade(clean, several(*range(64))))
    assert torch.allclose(noisy * 255, (noisy * 255).round(), atol=1e-3)
    deviation = noisy.flatten(1).std(1)
    assert deviation.max() < 0.02 * 1.5
    assert 0.25 < (deviation < 1e-6).float().mean() < 0.75
    untouched = degrade(clean, several(*range(64)), noise_probability=0, round_to_8_bits=False)
    assert torch.equal(untouched, clean)


@pytest.mark.parametrize("shape", [(3, 32, 48, 3), (2, 33, 47, 3)])
def test_compression_keeps_shape_and_resembles_the_clip(shape):
    ramp = np.linspace(0, 255, shape[2]).astype(np.uint8)
    clip = np.broadcast_to(ramp[None, None, :, None], shape).copy()
    for result in (compress_jpeg(clip, 60), compress_h264(clip, 28)):
        assert result.shape == clip.shape
        assert result.dtype == np.uint8
        assert np.abs(result.astype(float) - clip).mean() < 12


COMPRESS = """
import hashlib, sys
import numpy as np
from video_deblur.synthesis.degradation import compress_h264
shape = tuple(map(int, sys.argv[1:]))
clip = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(shape)
print(hashlib.md5(compress_h264(clip, 20)).hexdigest())
"""


def test_compression_does_not_depend_on_what_lies_in_memory():
    rows, columns = np.mgrid[:96, :96]
    waves = [np.sin(rows / 7 + index) + np.cos((columns - 3 * index) / 4) for index in range(8)]
    noise = np.random.default_rng(0).normal(0, 8, (8, 96, 96, 3))
    clip = (128 + 45 * np.array(waves)[..., None] + noise).clip(0, 255).astype(np.uint8)
    # glibc fills memory with this byte when it is allocated and freed.
    done = subprocess.run(
        [sys.executable, "-c", COMPRESS, *map(str, clip.shape)],
        input=clip.tobytes(),
        env={**os.environ, "MALLOC_PERTURB_": "85"},
        capture_output=True,
        check=True,
    )
    here = hashlib.md5(compress_h264(clip, 20)).hexdigest()
    assert done.stdout.decode().strip() == here


def test_compression_keeps_colours_in_their_channels():
    clip = np.zeros((2, 32, 32, 3), np.uint8)
    clip[..., 0] = 200
    for result in (compress_jpeg(clip, 90), compress_h264(clip, 18)):
        assert result[..., 0].mean() > 180
        assert result[..., 2].mean() < 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposure": (0.5, 1.5)}, "exposure cannot exceed 1"),
        ({"motion": (5, 2)}, "motion: expected"),
        ({"pause_probability": 2}, "pause_probability must be between 0 and 1"),
        ({"min_sub_frames": 40}, "min_sub_frames <= max_sub_frames"),
    ],
)
def test_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ShakeConfig(**change)


def test_sources_of_the_wrong_kind_are_refused():
    with pytest.raises(ValueError, match="sources: expected uint8"):
        shake_clips(photos().float(), 2, (8, 8), CALM, several(0, 1))
    with pytest.raises(ValueError, match="expected 1 or 4 frames per clip, got 3"):
        shake_clips(photos(num_sources=3), 4, (8, 8), CALM, several(0, 1))
    with pytest.raises(ValueError, match="foregrounds: expected"):
        shake_clips(photos(), 2, (8, 8), CALM, several(0, 1), photos(1)[:, 0])
    with pytest.raises(ValueError, match="one generator for each clip, got 1 for 2"):
        shake_clips(photos(), 2, (8, 8), CALM, several(0))
    clips = torch.zeros(2, 1, 3, 8, 8)
    with pytest.raises(ValueError, match="for each of 2 clips, got 3 and 2"):
        degrade(clips, several(0, 1, 2))
    with pytest.raises(ValueError, match="for each of 2 clips, got 2 and 1"):
        degrade(clips, several(0, 1), noise_probability=[0.5])
    with pytest.raises(ValueError, match=r"noise_probability in 0..1"):
        degrade(clips, several(0, 1), noise_probability=[0.5, 2])


def test_every_response_is_drawn_and_half_of_the_clips_see_the_measured_one(monkeypatch):
    drawn = [draw_shot(1, (8, 8), CALM, seeded(seed)).response for seed in range(400)]
    shares = np.bincount(drawn, minlength=len(RESPONSES)) / len(drawn)
    assert len(shares) == len(RESPONSES)
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.07)
    monkeypatch.setattr(shot, "RESPONSES", (*RESPONSES, "another"))
    more = [draw_shot(1, (8, 8), CALM, seeded(seed)).response for seed in range(400)]
    assert np.bincount(more) / len(more) == pytest.approx([0.5, *[1 / 6] * 3], abs=0.07)


def test_a_part_of_a_shot_renders_to_the_same_frames():
    shot = draw_shot(4, (40, 56), ShakeConfig(), torch.Generator().manual_seed(3))
    clip = torch.randint(0, 256, (1, 4, 3, 60, 80), dtype=torch.uint8)
    whole = render_clips(clip, [shot])
    part = render_clips(clip[:, 1:3], [shot.part(1, 3)])
    for all_frames, some in zip(whole, part, strict=True):
        assert torch.equal(all_frames[:, 1:3], some)
