from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.models.divd import Divd
from video_deblur.restoration.color import match_color
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.settings import RestorationSettings, preset_settings
from video_deblur.restoration.streaming import footage


@pytest.fixture
def deblurrer(small_model):
    return Deblurrer(small_model)


def settings(**values):
    return RestorationSettings(**values)


@pytest.mark.parametrize(
    ("num_frames", "height", "width"),
    [
        *[(count, 12, 8) for count in (1, 2, 15, 16, 17, 33)],
        (2, 64, 64),
        (3, 25, 19),
        (1, 1, 1),
        (2, 5, 70),
    ],
)
def test_clips_keep_their_frames_and_size(deblurrer, make_frames, num_frames, height, width):
    frames = make_frames(num_frames, height, width)
    restored = deblurrer.restore(frames, settings(steps=2))
    assert restored.shape == frames.shape
    assert restored.dtype == torch.float32
    assert restored.isfinite().all()
    assert restored.min() >= 0
    assert restored.max() <= 1
    assert (restored - frames).abs().max() > 1e-4


def test_an_untrained_model_restores_about_what_it_was_given(untrained_model, make_frames):
    frames = make_frames(3, 18, 14)
    # Both encoders must agree for that, as at the start of training.
    untrained_model.blur_encoder.load_state_dict(
        untrained_model.autoencoder.encoder.state_dict()
    )
    restored = Deblurrer(untrained_model).restore(frames, settings())
    torch.testing.assert_close(restored, frames, atol=1e-5, rtol=0)


def test_alpha_passes_through(deblurrer, make_frames):
    frames = make_frames(3, 20, 18, 4)
    restored = deblurrer.restore(frames, settings())
    assert torch.equal(restored[..., 3], frames[..., 3])
    color = deblurrer.restore(frames[..., :3], settings())
    assert torch.equal(restored[..., :3], color)


def test_the_input_is_not_changed(deblurrer, make_frames):
    frames = make_frames(2, 18, 18)
    before = frames.clone()
    restored = deblurrer.restore(frames, settings(strength=0))
    restored.zero_()
    deblurrer.restore(frames, settings(color_match=True))
    assert torch.equal(frames, before)


def test_strength_mixes_in_pixels(deblurrer, make_frames):
    frames = make_frames(3, 16, 20) * 0.4 + 0.3
    none, half, full = (
        deblurrer.restore(frames, settings(strength=strength)) for strength in (0, 0.5, 1)
    )
    assert torch.equal(none, frames)
    free = (full > 0) & (full < 1)
    assert free.float().mean() > 0.5
    torch.testing.assert_close(half[free], ((frames + full) / 2)[free], atol=1e-6, rtol=0)


def test_the_same_seed_gives_the_same_frames(deblurrer, make_frames):
    frames = make_frames(5, 16, 16)
    first = deblurrer.restore(frames, settings(steps=3, seed=4))
    torch.manual_seed(123)
    assert torch.equal(deblurrer.restore(frames, settings(steps=3, seed=4)), first)
    assert not torch.equal(deblurrer.restore(frames, settings(steps=3, seed=5)), first)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@pytest.mark.parametrize("num_frames", [3, 20])
def test_progress_rises_to_its_total(deblurrer, make_frames, guidance_scale, num_frames):
    calls = []
    chosen = settings(steps=3, guidance_scale=guidance_scale)
    deblurrer.restore(make_frames(num_frames, 8, 8), chosen, lambda *call: calls.append(call))
    totals = {total for _, total in calls}
    assert len(totals) == 1
    assert [done for done, _ in calls] == list(range(totals.pop() + 1))


@pytest.mark.parametrize("at", [0, 2, 5, 8])
def test_a_callback_may_cancel_anywhere(deblurrer, make_frames, at):
    class CancelledError(Exception):
        pass

    calls = []

    def callback(done, total):
        calls.append(done)
        if done == at:
            raise CancelledError

    with pytest.raises(CancelledError):
        deblurrer.restore(make_frames(20, 8, 8), settings(steps=3), callback)
    assert calls == list(range(at + 1))


def test_guidance_moves_away_from_no_tokens(deblurrer, make_frames):
    frames = make_frames(2, 16, 16)
    plain, none, strong = (
        deblurrer.restore(frames, settings(guidance_scale=scale)) for scale in (1.0, 0.0, 3.0)
    )
    assert (plain - none).abs().max() > 1e-5
    assert (strong - plain).abs().max() > 1e-5


def test_shots_do_not_see_each_other(deblurrer, make_frames):
    first, second = make_frames(9, 16, 24) * 0.4, make_frames(7, 16, 24) * 0.4 + 0.6
    clip = torch.cat([first, second])
    changed = torch.cat([first, second.flip(2)])
    plain, other = (deblurrer.restore(frames, settings()) for frames in (clip, changed))
    assert torch.equal(plain[:9], other[:9])
    chosen = settings(scene_cuts=False)
    ghosts = [deblurrer.restore(frames, chosen)[:9] for frames in (clip, changed)]
    assert not torch.equal(*ghosts)


def test_sharp_frames_pass_through(deblurrer, make_frames, monkeypatch):
    frames = make_frames(12, 16, 24)
    blur = iter([1.0] * 2 + [0.0] * 10)
    monkeypatch.setattr(footage, "measure_blur", lambda frame: next(blur))
    restored = deblurrer.restore(frames, settings(skip_sharp=True, steps=2))
    changes = (restored - frames).abs().amax(dim=(1, 2, 3))
    assert (changes[:5] > 0).all()
    assert (changes[5:] == 0).all()
    monkeypatch.setattr(footage, "measure_blur", lambda frame: 0.0)
    assert torch.equal(deblurrer.restore(frames, settings(skip_sharp=True)), frames)


def test_tiles_agree_with_the_whole_frame(deblurrer, make_frames):
    # Attention with random weights spreads what a trained one would ignore.
    for name, parameter in deblurrer.model.unet.named_parameters():
        if "attentions." in name and (".proj_out." in name or ".to_out." in name):
            parameter.zero_()
    frames = make_frames(2, 16, 400)
    whole = deblurrer.restore(frames, settings())
    tiled = deblurrer.restore(frames, settings(tile=256))
    change = (whole - frames).abs().mean()
    difference = (tiled - whole).abs()
    # Two tiles, 0 to 256 and 144 to 400; far from the other's border they are as the whole.
    assert difference[:, :, :80].max() < 1e-4
    assert difference[:, :, 320:].max() < 1e-4
    assert 0 < difference.mean() < 0.5 * change


def test_large_frames_are_tiled_on_their_own(small_model, small_config):
    sampling = dataclasses.replace(small_config.sampling, tile=64, tile_overlap=16)
    small_model.config = dataclasses.replace(small_config, sampling=sampling)
    deblurrer = Deblurrer(small_model)
    assert deblurrer.layout(settings(), 64, 128).tile == 0
    layout = deblurrer.layout(settings(), 68, 128)
    assert (layout.tile, layout.tile_overlap) == (16, 4)


def test_image_tokens_are_made_for_the_centres_of_windows_alone(
    small_model, make_frames, monkeypatch
):
    tower, batches = small_model.image_encoder.forward, []
    monkeypatch.setattr(
        small_model.image_encoder, "forward", lambda x: batches.append(len(x)) or tower(x)
    )
    chosen = settings(window=8, overlap=4, steps=3)
    Deblurrer(small_model).restore(make_frames(20, 16, 16), chosen)
    assert batches == [1] * 4


def test_color_match_keeps_the_low_frequencies_of_the_input():
    blurry = torch.rand(2, 40, 50, 3)
    detail = torch.zeros(2, 40, 50, 3)
    detail[:, ::2] = 0.1
    detail[:, 1::2] = -0.1
    drift = torch.tensor([0.2, -0.1, 0.05])
    matched = match_color(blurry + detail + drift, blurry)
    torch.testing.assert_close(matched[:, 8:-8], (blurry + detail)[:, 8:-8], atol=0.01, rtol=0)
    torch.testing.assert_close(match_color(blurry, blurry), blurry)


def test_color_match_removes_drift_of_the_model(deblurrer, make_frames):
    frames = make_frames(2, 40, 40) * 0.4 + 0.3
    plain = deblurrer.restore(frames, settings())
    matched = deblurrer.restore(frames, settings(color_match=True))
    before, after = ((out - frames).mean(dim=(1, 2)).abs().max() for out in (plain, matched))
    assert after < 0.3 * before


@pytest.mark.parametrize(
    "shape", [(2, 8, 8), (0, 8, 8, 3), (2, 8, 8, 1), (2, 0, 8, 3), (1, 2, 8, 8, 3)]
)
def test_what_is_no_clip_is_refused(deblurrer, shape):
    with pytest.raises(ValueError, match=r"frames must be \[T, H, W, C\]") as caught:
        deblurrer.restore(torch.zeros(shape), settings())
    assert str(list(shape)) in str(caught.value)


@pytest.mark.parametrize("size", [(3, 20, 33), (11, 8, 8), (1, 7, 5)])
def test_the_autoencoder_of_stable_diffusion_restores_any_size(kl_model, make_frames, size):
    frames = make_frames(*size)
    restored = Deblurrer(kl_model).restore(frames, settings(steps=2))
    assert restored.shape == frames.shape
    assert (restored - frames).abs().max() > 1e-3


def test_a_model_that_changes_nothing_returns_the_input_whatever_the_autoencoder_loses(
    kl_config, make_frames, randomise
):
    model = Divd(kl_config).eval().requires_grad_(False)
    randomise(model.autoencoder, 0.05, add=True)
    model.blur_encoder.load_state_dict(model.autoencoder.encoder.state_dict())
    frames = make_frames(3, 20, 33)
    restored = Deblurrer(model).restore(frames, settings())
    torch.testing.assert_close(restored, frames, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_low_precision_stays_close(small_model, make_frames, kept):
    frames = make_frames(3, 20, 20)
    reference = Deblurrer(small_model).restore(frames, settings())
    small_model.unet.to(kept)
    small_model.image_encoder.to(kept)
    low = Deblurrer(small_model, dtype=torch.bfloat16).restore(frames, settings())
    assert (low - reference).abs().mean() < 0.1 * (reference - frames).abs().mean()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be between 1 and 1000, got 0"),
        ({"solver": "euler"}, "solver must be one of ddim, dpmpp_2m, got 'euler'"),
        ({"strength": 1.5}, "strength must be between 0 and 1, got 1.5"),
        ({"strength": float("nan")}, "strength must be between 0 and 1"),
        ({"guidance_scale": -1}, "guidance scale must be between 0 and 100"),
        ({"seed": -1}, "seed must be between 0"),
        ({"seed": 2**64}, "seed must be between 0"),
        ({"window": 1, "overlap": 0}, "window must be at least 2 frames, got 1"),
        ({"overlap": 9}, "overlap must be between 0 and 8 for a window of 16 frames, got 9"),
        ({"tile": 32}, "tile must be 0"),
        ({"tile": -64}, "tile must be 0"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RestorationSettings(**values)


def test_presets_take_the_settings_of_the_checkpoint(small_config):
    sampling = dataclasses.replace(small_config.sampling, steps=4, window=8, overlap=3)
    config = dataclasses.replace(small_config, sampling=sampling)
    fast, paper = preset_settings(config, "fast"), preset_settings(config, "paper", seed=None)
    assert (fast.steps, fast.window, fast.overlap) == (4, 8, 3)
    assert (paper.steps, paper.solver, paper.seed) == (50, "ddim", 0)
    assert preset_settings(config, "detailed") == fast
    assert preset_settings(config, "fast", window=4).overlap == 2
    assert preset_settings(config, "fast", steps=9).steps == 9
    with pytest.raises(ValueError, match="preset must be one of fast, detailed, paper"):
        preset_settings(config, "best")
    with pytest.raises(ValueError, match="overlap must be between 0 and 2"):
        preset_settings(config, "fast", window=4, overlap=3)
