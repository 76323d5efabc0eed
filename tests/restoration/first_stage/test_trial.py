"""Networks that fail on test pictures are not run on frames."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from video_deblur.restoration.feed_forward import FeedForward
from video_deblur.restoration.first_stage import trial
from video_deblur.restoration.first_stage.stage import FirstStage
from video_deblur.restoration.settings import RestorationSettings


class Made:
    """A network for single images made of a function of `[1, 3, H, W]`."""

    config = SimpleNamespace(num_frames=1)
    reach = None

    def __init__(self, restore):
        self.restore = restore
        self.calls = 0

    def restore_frame(self, around):
        self.calls += 1
        return self.restore(around)[0]


def engine(restore):
    return FeedForward(Made(restore))


def sharpened(amount, side=5):
    def restore(frame):
        smooth = F.avg_pool2d(frame, side, 1, side // 2, count_include_pad=False)
        return (frame + amount * (frame - smooth)).clamp(0, 1)

    return restore


def knows_the_answer(frame):
    """Give the sharp picture for either."""
    return trial._pictures()["sharp"].sharp.permute(2, 0, 1)[None]


WRONG = {
    "noise": lambda frame: torch.rand_like(frame),
    "black": torch.zeros_like,
    "negative": lambda frame: 1 - frame,
    "displaced": lambda frame: frame.roll((4, 6), (2, 3)),
    "turned": lambda frame: frame.flip(3),
    "other colours": lambda frame: frame.flip(1),
}


@pytest.mark.parametrize("restore", WRONG.values(), ids=WRONG)
def test_what_shows_something_else_is_found(restore):
    assert "something else than a sharp test picture" in trial.fault_of(engine(restore))


def test_values_that_are_not_finite_are_found():
    fault = trial.fault_of(engine(lambda frame: torch.full_like(frame, torch.nan)))
    assert fault == "it gave values that are not finite on a test picture"


@pytest.mark.parametrize(("amount", "side"), [(2, 5), (1, 9), (0.5, 9), (1, 5)])
def test_oversharpening_is_found(amount, side):
    fault = trial.fault_of(engine(sharpened(amount, side)))
    assert "sharp test picture" in fault


def test_what_blurs_a_blurred_picture_further_is_found():
    """Of a sharp picture it makes a sharp one; only the blurred one shows it."""
    sharp = trial._pictures()["sharp"].shown.permute(2, 0, 1)[None]

    def restore(frame):
        moved = frame.roll((1, 2), (2, 3))
        return frame if torch.equal(frame, sharp) else moved

    assert "makes a blurred test picture worse" in trial.fault_of(engine(restore))


@pytest.mark.parametrize(
    "restore", [lambda frame: frame, sharpened(0.5), sharpened(0.75)], ids=["0", "0.5", "0.75"]
)
def test_what_does_not_deblur_is_found(restore):
    assert "hardly deblurs a blurred test picture (24.2 dB" in trial.fault_of(engine(restore))


def test_what_restores_has_no_fault():
    assert trial.fault_of(engine(knows_the_answer)) is None
    halfway = engine(lambda frame: frame.lerp(knows_the_answer(frame), 0.5))
    assert trial.fault_of(halfway) is None


def test_a_network_for_clips_need_not_deblur_a_single_picture():
    still = engine(lambda frame: frame[2:3])
    still.model.config = SimpleNamespace(num_frames=5)
    assert trial.fault_of(still) is None


def test_the_pictures_are_sharp_and_blurred():
    pictures = trial._pictures()
    assert torch.equal(pictures["sharp"].shown, trial._pictures()["sharp"].shown)
    for picture in pictures.values():
        assert picture.shown.shape == picture.sharp.shape == (192, 192, 3)
        assert 0 <= picture.shown.amin() <= picture.shown.amax() <= 1
    psnr = {kind: trial._psnr(each.shown, each.sharp) for kind, each in pictures.items()}
    assert psnr["sharp"] > 45
    assert 20 < psnr["blurred"] < 28
    # No blur moves the picture as a whole.
    luma = [each.shown.mean(-1) for each in pictures.values()]
    spectra = [torch.fft.fft2(each - each.mean()) for each in luma]
    shift = torch.fft.ifft2(spectra[0] * spectra[1].conj()).real.argmax()
    assert shift == 0


def test_a_network_with_a_fault_is_left_out_and_named_once(small_model, make_frames, caplog):
    from video_deblur.restoration.diffusion import Deblurrer

    frames = make_frames(6, 64, 72)
    settings = RestorationSettings(window=4, overlap=2)
    alone = Deblurrer(small_model).restore(frames, settings)
    wrong, calls = engine(torch.zeros_like), []
    made = Deblurrer(small_model)
    made.first_stage = FirstStage(wrong, "wrong.pth", "00")
    for _ in range(2):
        restored = made.restore(frames, settings, lambda *call: calls.append(call))
        assert torch.equal(restored, alone)
    assert wrong.model.calls == 1, "one test picture, no frame"
    (record,) = caplog.records
    assert record.getMessage() == (
        "first stage wrong.pth was not trusted: it shows something else than a sharp test "
        "picture; it is left out"
    )
    assert (
        f"first stage wrong.pth was not trusted: {made.first_stage.not_trusted}" in caplog.text
    )
    total = calls[-1][1]
    assert [done for done, _ in calls] == 2 * list(range(total + 1))
