"""The warping error where motion is known, and its warp against scikit-image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.transform import warp
from video_deblur.evaluation.warping import Motion, WarpingError

DEFINITIONS = [
    WarpingError(flow="farneback", power=1),
    WarpingError(flow="dis", power=2),
]


def moving(num_frames: int = 4, step: int = 3) -> np.ndarray:
    """A smooth texture that moves `step` pixels to the left per frame, uint8."""
    rng = np.random.default_rng(2)
    texture = cv2.GaussianBlur(rng.normal(0, 1, (96, 160, 3)), (0, 0), 2)
    texture = np.rint(128 + 40 * texture / texture.std()).clip(0, 255).astype(np.uint8)
    return np.stack([texture[:, index * step :][:, :128] for index in range(num_frames)])


def still(motion: int = 2) -> list[Motion]:
    flow = np.zeros((40, 56, 2), np.float32)
    visible = np.zeros((40, 56), bool)
    visible[10:30, 10:40] = True
    return [Motion(flow=flow, visible=visible)] * motion


@pytest.mark.parametrize("definition", DEFINITIONS, ids=str)
def test_motion_is_followed_and_costs_nothing(definition):
    frames = moving()
    motion = definition.motion(frames, data_range=255)
    assert len(motion) == 3
    inner = motion[0].flow[30:-30, 30:-30]
    assert np.abs(inner - (3, 0)).max() < 0.2
    shaking = np.stack([np.roll(frame, 2 * (-1) ** i, 0) for i, frame in enumerate(frames)])
    steady, shaken = (
        np.mean(definition.errors(clip, motion, data_range=255)) for clip in (frames, shaking)
    )
    assert shaken > 10 * steady


@pytest.mark.parametrize("definition", DEFINITIONS, ids=str)
def test_flicker_costs_its_own_size(definition):
    motion = still(2)
    frames = np.full((3, 40, 56, 3), 100, np.uint8)
    frames[1] += 51
    expected = [0.2**definition.power] * 2
    assert definition.errors(frames, motion, data_range=255) == pytest.approx(expected)
    scaled = frames / 255
    assert definition.errors(scaled, motion, data_range=1) == pytest.approx(expected, rel=1e-5)


def test_what_cannot_be_followed_does_not_count():
    definition = WarpingError(flow="dis", power=2)
    frames = np.full((2, 40, 56, 3), 100, np.uint8)
    frames[1, :10] = 255
    motion = still(1)
    assert definition.errors(frames, motion, data_range=255) == [0]
    motion[0].visible[:] = False
    assert np.isnan(definition.errors(frames, motion, data_range=255)[0])


def test_the_warp_equals_scikit_image():
    rng = np.random.default_rng(0)
    previous = rng.random((40, 56, 3)).astype(np.float32)
    flow = rng.uniform(-3, 3, (40, 56, 2)).astype(np.float32)
    y, x = np.mgrid[:40, :56].astype(np.float32)
    coordinates = np.stack([y + flow[..., 1], x + flow[..., 0]])
    expected = np.stack(
        [warp(previous[..., i], coordinates, order=1, mode="edge") for i in range(3)], axis=-1
    )
    motion = [Motion(flow=flow, visible=np.ones((40, 56), bool))]
    frames = np.stack([previous, expected.astype(np.float32)])
    (error,) = WarpingError(flow="dis", power=1).errors(frames, motion, data_range=1)
    # OpenCV rounds places to 1/32 of a pixel.
    assert error < 0.01
    still_motion = [Motion(flow=0 * flow, visible=motion[0].visible)]
    (without,) = WarpingError(flow="dis", power=1).errors(frames, still_motion, data_range=1)
    assert without > 0.2


def test_what_an_object_uncovers_is_not_followed():
    background = cv2.resize(moving(1)[0], (256, 192))
    square = np.random.default_rng(5).integers(0, 256, (80, 80, 3)).astype(np.uint8)
    square = cv2.GaussianBlur(square, (0, 0), 1.5)
    frames = np.stack([background, background])
    frames[0, 28:108, 60:140] = square
    frames[1, 28:108, 66:146] = square
    (motion,) = WarpingError(flow="dis", power=2).motion(frames, data_range=255)
    assert np.abs(motion.flow[50:90, 90:120] - (-6, 0)).max() < 0.2
    assert motion.visible[30:106, 61:65].mean() < 0.3
    assert motion.visible[50:90, 90:120].all()
    assert motion.visible[:, 180:].mean() > 0.95


@pytest.mark.parametrize("definition", DEFINITIONS, ids=str)
def test_what_enters_the_frame_is_not_followed(definition):
    (motion,) = definition.motion(moving(2, step=6), data_range=255)
    assert motion.visible[8:-8, 8:-12].mean() > 0.95
    assert motion.visible[8:-8, -4:].mean() < 0.1


def test_unknown_definitions_and_tiny_frames_are_refused():
    with pytest.raises(ValueError, match="flow must be one of farneback, dis, got 'raft'"):
        WarpingError(flow="raft", power=1)
    with pytest.raises(ValueError, match="power must be 1 or 2, got 3"):
        WarpingError(flow="dis", power=3)
    with pytest.raises(ValueError, match="at least 32x32"):
        DEFINITIONS[0].motion(np.zeros((2, 20, 40, 3), np.uint8), data_range=255)
