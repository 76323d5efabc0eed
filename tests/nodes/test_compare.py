"""The nodes that show, measure and make: Compare, Measure PSNR and SSIM, Synthesize Blur."""

from __future__ import annotations

import pytest
import torch

from .checkpoints import blurry_clip


@pytest.fixture(scope="module")
def clips(extension_nodes):
    sharp = blurry_clip(3, 100, 120)
    return (0.9 * sharp + 0.02), sharp


@pytest.mark.parametrize("view", ["split", "wipe", "difference", "crops"])
def test_every_view_gives_a_picture_per_frame(call_node, clips, view):
    before, after = clips
    (pictures,) = call_node("VideoDeblur_Compare", before=before, after=after, view=view)
    assert len(pictures) == 3
    assert pictures.dtype == torch.float32
    assert 0 <= pictures.min() < pictures.max() <= 1
    (preview,) = call_node("ImageScaleBy", image=pictures, scale_by=0.5)
    assert len(preview) == 3


def test_views_of_the_node_are_those_of_the_library(extension_nodes):
    from video_deblur.evaluation.comparison import VIEWS

    view = extension_nodes["VideoDeblur_Compare"].GET_SCHEMA().inputs[2]
    assert list(view.options) == list(VIEWS)
    assert {name for name in VIEWS if f"{name}:" in view.tooltip} == set(VIEWS)


def test_a_single_image_goes_with_every_frame(call_node, clips):
    before, after = clips
    alpha = torch.rand(1, 100, 120, 1)
    inputs = {"after": after, "labels": False}
    single = torch.cat([before[:1], alpha], dim=-1)
    (pictures,) = call_node("VideoDeblur_Compare", before=single, **inputs)
    assert torch.equal(pictures[:, :, :120], before[:1].expand(3, -1, -1, -1))
    assert torch.equal(pictures[:, :, -120:], after)


@pytest.mark.parametrize(
    ("node_id", "names"),
    [
        ("VideoDeblur_Compare", ("before", "after")),
        ("VideoDeblur_MeasureRestoration", ("restored", "sharp")),
    ],
)
def test_clips_that_do_not_fit_are_refused_in_one_line(call_node, clips, node_id, names):
    first, second = names
    message = f"{first} is 120x100 pixels but {second} is 110x100"
    with pytest.raises(ValueError, match=message) as caught:
        call_node(node_id, **{first: clips[0], second: clips[1][:, :, :110]})
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"{first} is 3 frames but {second} is 2") as caught:
        call_node(node_id, **{first: clips[0], second: clips[1][:2]})
    assert "\n" not in str(caught.value)


def test_figures_are_those_of_the_evaluation(call_node, clips):
    from video_deblur.evaluation.fidelity import psnr, ssim

    restored, sharp = clips
    blurry = 0.5 * sharp
    mean_psnr, mean_ssim, report = call_node(
        "VideoDeblur_MeasureRestoration", restored=restored, sharp=sharp, blurry=blurry
    )
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(restored, sharp, strict=True)]
    expected = [psnr(a, b, data_range=1) for a, b in pairs]
    assert mean_psnr == pytest.approx(sum(expected) / 3)
    similar = [ssim(a, b, data_range=1) for a, b in pairs]
    assert mean_ssim == pytest.approx(sum(similar) / 3)
    lines = report.splitlines()
    assert len(lines) == 4
    before = psnr(blurry[1].numpy(), sharp[1].numpy(), data_range=1)
    assert lines[2].startswith(f"1: PSNR {before:.2f} -> {expected[1]:.2f} dB, SSIM 0.")
    alone = call_node("VideoDeblur_MeasureRestoration", restored=sharp, sharp=sharp)
    assert alone[0] == float("inf")
    assert alone[1] == pytest.approx(1)
    assert alone[2].splitlines()[0] == "mean: PSNR inf dB, SSIM 1.0000"


@pytest.mark.parametrize("counts", [(3, 1, 1), (1, 3, 1), (1, 1, 3), (3, 3, 1), (1, 3, 3)])
def test_single_images_are_measured_with_every_frame_of_the_longest_clip(
    comfy, call_node, clips, monkeypatch, counts
):
    shown = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar,
        "update_absolute",
        lambda bar, value, total=None, preview=None: shown.append(value / total),
    )
    names, whole = ("restored", "sharp", "blurry"), (*clips, 0.5 * clips[1])
    given = {name: clip[:n] for name, clip, n in zip(names, whole, counts, strict=True)}
    repeated = {name: clip.expand(3, -1, -1, -1) for name, clip in given.items()}
    found = call_node("VideoDeblur_MeasureRestoration", **given)
    assert 0 <= shown[0] <= shown[-1] == max(shown) == 1
    assert found == call_node("VideoDeblur_MeasureRestoration", **repeated)
    assert len(found[2].splitlines()) == 4


def test_the_clip_that_does_not_fit_is_named(call_node, clips):
    restored, sharp = clips
    with pytest.raises(ValueError, match="restored is 3 frames but blurry is 2"):
        call_node(
            "VideoDeblur_MeasureRestoration", restored=restored, sharp=sharp, blurry=sharp[:2]
        )


def synthesize(call_node, sharp, **inputs):
    return call_node("VideoDeblur_SynthesizeBlur", sharp=sharp, seed=4, **inputs)


def test_synthetic_blur_grows_with_the_amount(call_node):
    picture = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(0))
    losses = []
    for amount in (0.0, 4.0, 24.0):
        blurry, sharp = synthesize(call_node, picture, amount=amount)
        assert blurry.shape == sharp.shape == picture.shape
        losses.append(float((blurry - sharp).square().mean()))
    assert losses[0] < 1e-6 < losses[1] < losses[2]
    blurry, sharp = synthesize(call_node, picture, amount=0.0)
    # Rounded to 8 bits, to light and back.
    assert (blurry - picture).abs().max() < 0.004


def test_an_image_becomes_a_clip_and_a_clip_keeps_its_length(call_node):
    frames = torch.rand(4, 64, 80, 4, generator=torch.Generator().manual_seed(0))
    blurry, sharp = synthesize(call_node, frames[:1], length=5)
    assert blurry.shape == sharp.shape == (5, 64, 80, 3)
    assert not torch.equal(sharp[0], sharp[4])
    blurry, sharp = synthesize(call_node, frames, length=9)
    assert len(blurry) == 4
    again, _ = synthesize(call_node, frames)
    assert torch.equal(blurry, again)


def test_frames_are_those_of_the_library(call_node):
    from video_deblur.synthesis.camera_shake import ShakeConfig
    from video_deblur.synthesis.motion_blur import shake_clips

    clip = torch.randint(0, 256, (1, 3, 3, 64, 80), dtype=torch.uint8)
    config = ShakeConfig(
        exposure=(1.0, 1.0),
        motion=(10.0, 10.0),
        pause_probability=1.0,
        source_scale=(1.0, 1.0),
        sharp_probability=0.0,
    )
    expected = shake_clips(clip, 3, (64, 80), config, [torch.Generator().manual_seed(4)])
    frames = clip[0].movedim(1, -1).float() / 255
    found = synthesize(call_node, frames, amount=10.0, pauses=True)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.movedim(-1, 1), theirs[0])
