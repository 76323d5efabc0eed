"""What a first stage made of frames is followed as far as it explains them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from video_deblur.restoration.borrowing.candidates import Panel
from video_deblur.restoration.borrowing.first_candidate import _trust, followed, judged
from video_deblur.restoration.borrowing.passes import borrow_stream

from .test_passes import texture

SHARP = texture(seed=3, size=(160, 192))


def blurred(frame: np.ndarray, width: int) -> np.ndarray:
    return cv2.blur(frame, (width, 1))


def tensor(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame, np.float32))


def trust_in(blurry: np.ndarray, candidate: np.ndarray) -> float:
    """Return the mean trust; 0 for what is refused."""
    trust = _trust(tensor(blurry), tensor(candidate))
    return 0.0 if trust is None else trust.mean().item()


def error(picture: torch.Tensor, truth: np.ndarray) -> float:
    return (picture - tensor(truth)).square().mean().item()


NOISE = np.random.default_rng(0).random(SHARP.shape, np.float32)
WRONG = {
    "noise": NOISE,
    "black": np.zeros_like(SHARP),
    "upside down": SHARP[::-1],
    "displaced": np.roll(SHARP, (9, 12), (0, 1)),
    "brighter": SHARP * 0.5 + 0.5,
}


def test_a_sharper_picture_of_a_blurred_frame_is_followed():
    blurry = blurred(SHARP, 11)
    assert trust_in(blurry, SHARP) > 0.7
    restored = followed(Panel(tensor(blurry), tensor(blurry), tensor(SHARP)))
    assert error(restored, SHARP) < 0.2 * error(tensor(blurry), SHARP)


def test_a_sharp_frame_stays_whatever_a_network_changes_of_it():
    halo = cv2.addWeighted(SHARP, 2.0, cv2.GaussianBlur(SHARP, (0, 0), 0.7), -1.0, 0)
    assert trust_in(SHARP, halo.clip(0, 1)) < 0.1


def test_the_wider_the_blur_the_more_is_followed():
    trusts = [trust_in(blurred(SHARP, width), SHARP) for width in (3, 5, 7, 11)]
    assert trusts == sorted(trusts)
    assert trusts[-1] > trusts[0] + 0.5


def test_only_the_blurred_region_is_followed():
    blurry = SHARP.copy()
    blurry[:, 96:] = blurred(SHARP, 11)[:, 96:]
    trust = _trust(tensor(blurry), tensor(SHARP))
    assert trust is not None
    assert trust[..., :3].mean() < 0.2
    assert trust[..., -3:].mean() > 0.6


@pytest.mark.parametrize("what", WRONG)
def test_what_shows_something_else_is_hardly_followed(what):
    assert trust_in(blurred(SHARP, 11), WRONG[what]) < 0.1


@pytest.mark.parametrize("what", ["noise", "black", "upside down"])
def test_a_refused_first_stage_changes_nothing_and_is_told(what):
    clip = [blurred(np.roll(SHARP, 2 * index, 1), 1 + 8 * (index % 2)) for index in range(4)]
    frames = [tensor(frame) for frame in clip]
    without = list(borrow_stream(Panel(each, each.clone()) for each in frames))
    told = []
    wrong = tensor(WRONG[what])
    panels = (Panel(each, each.clone(), wrong) for each in frames)
    result = list(borrow_stream(panels, refused=lambda: told.append(1)))
    assert len(told) == len(frames)
    assert torch.equal(torch.stack(result), torch.stack(without))


def test_without_a_first_stage_the_restored_frame_is_taken():
    panel = Panel(tensor(SHARP), tensor(blurred(SHARP, 3)))
    assert torch.equal(judged(panel).pixels, panel.restored)
    assert torch.equal(followed(panel), panel.restored)


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (33, 47)])
def test_frames_of_any_size(size):
    frame = tensor(cv2.resize(SHARP, size[::-1]))
    assert followed(Panel(frame, frame, frame)).shape == frame.shape
