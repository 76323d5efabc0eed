"""Tuning on lessons: it learns, it can be stopped, and what does not gain is dropped."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.divd import Divd
from video_deblur.restoration.adaptation.crops import draw_batch
from video_deblur.restoration.adaptation.kernels import blurred
from video_deblur.restoration.adaptation.learners import check_adaptable, make_learner
from video_deblur.restoration.adaptation.material import Lesson, held_out_columns
from video_deblur.restoration.adaptation.settings import AdaptationSettings
from video_deblur.restoration.adaptation.tuning import Adapted, adapt, with_engine
from video_deblur.restoration.clip import ClipRestorer
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.settings import RestorationSettings

from ...conftest import SMALL_CONFIG, SMALL_CPGD_CONFIG, SMALL_DBLRNET_CONFIG
from .test_kernels import motion, texture

RESTORATION = RestorationSettings(window=8, overlap=2, seed=3)
SHORT = AdaptationSettings(
    updates=12, frames=3, crop=32, clips=1, learning_rate=3e-2, reblurred_share=0
)


def spoilt_engine(offset: float = 0.2) -> ClipRestorer:
    """A network that adds something to its input; without, it would return it."""
    network = Cpgd(SMALL_CPGD_CONFIG).eval().requires_grad_(False)
    assert network.cpfp.decoder.leave.bias is not None
    network.cpfp.decoder.leave.bias.fill_(offset)
    return ClipRestorer(network)


def lesson_of(blurry: Tensor, restored: Tensor, target: Tensor) -> Lesson:
    trust = torch.ones_like(blurry[..., :1])
    weights = trust.clone()
    weights[:, :, held_out_columns(weights.shape[2])] = 0
    parts = (blurry, restored, target, trust, weights)
    # Copies, which a test may change one by one.
    return Lesson(*(part.to(torch.float16, copy=True) for part in parts))


def lesson_that_the_frames_are_right(engine: ClipRestorer, num_frames: int = 8) -> Lesson:
    frames = texture(num_frames, side=48) * 0.5 + 0.2
    restored = engine.restore(frames, dataclasses.replace(RESTORATION, borrow=False))
    return lesson_of(frames, restored, frames)


def weights_of(engine: ClipRestorer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in engine.model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def adapted(engine: ClipRestorer, seed: int = 3, **values) -> Adapted:
    lesson = lesson_that_the_frames_are_right(engine)
    settings = dataclasses.replace(SHORT, **values)
    return adapt(engine, [lesson], dataclasses.replace(RESTORATION, seed=seed), settings)


def test_a_spoilt_network_recovers_and_the_engine_stays_as_it_was():
    engine = spoilt_engine()
    before = weights_of(engine)
    result = adapted(engine)
    assert result.weights is not None
    assert (result.gain_db or 0) > 10
    assert same(weights_of(engine), before)
    frames = texture(6, side=40) * 0.5 + 0.2
    alone = dataclasses.replace(RESTORATION, borrow=False)
    wrong, right = (
        float((each.restore(frames, alone) - frames).abs().mean())
        for each in (engine, with_engine(engine, result.weights))
    )
    assert wrong == pytest.approx(0.1, abs=0.02)
    assert right < 0.3 * wrong


def test_what_columns_held_out_lose_by_is_dropped():
    engine = spoilt_engine(0.0)
    frames = texture(8, side=48) * 0.5 + 0.2
    lesson = lesson_of(frames, frames, frames + 0.1)
    lesson.target[:, :, lesson.held_out] = frames[:, :, lesson.held_out].half()
    result = adapt(engine, [lesson], RESTORATION, SHORT)
    assert result.weights is None
    assert (result.gain_db or 0) < -1


def test_frames_that_took_nothing_do_not_judge():
    engine = spoilt_engine()
    lesson = lesson_that_the_frames_are_right(engine)
    # Of such a frame the target is what the network made, right or wrong.
    index = slice(0, 2)
    lesson.target[index] = lesson.restored[index]
    judged = adapt(engine, [lesson], RESTORATION, SHORT).gain_db
    lesson.trust[index] = 0
    fair = adapt(engine, [lesson], RESTORATION, SHORT).gain_db
    assert judged is not None
    assert fair is not None
    assert fair > judged + 3


def test_a_frame_that_nothing_can_mend_does_not_outweigh_the_others():
    engine = spoilt_engine()
    lesson = lesson_that_the_frames_are_right(engine)
    lesson.target[0] = 1 - lesson.blurry[0]
    lesson.weights[0] = 0
    assert (adapt(engine, [lesson], RESTORATION, SHORT).gain_db or 0) > 5


def test_a_gain_too_small_is_dropped():
    assert adapted(spoilt_engine(), least_gain_db=100.0).weights is None


def test_the_same_seed_gives_the_same_weights():
    engine = spoilt_engine()
    first, second, other = (adapted(engine, seed, updates=4).weights for seed in (3, 3, 4))
    assert first is not None
    assert second is not None
    assert other is not None
    assert same(first, second)
    assert not same(first, other)


def test_cancelling_ends_it_between_updates():
    engine = spoilt_engine()
    seen: list[int] = []

    def cancel(update: int, updates: int) -> None:
        seen.append(update)
        assert updates == SHORT.updates
        if update == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(engine, [lesson_that_the_frames_are_right(engine)], RESTORATION, SHORT, cancel)
    assert seen == [0, 1, 2]


def test_it_learns_in_inference_mode():
    with torch.inference_mode():
        engine = spoilt_engine()
        result = adapted(engine)
    assert result.weights is not None
    assert (result.gain_db or 0) > 10


def test_columns_held_out_have_no_weight_in_any_crop():
    columns = torch.arange(160).reshape(1, 1, 160, 1).expand(6, 32, 160, 3) / 160
    lesson = lesson_of(columns, columns, columns)
    assert lesson.held_out == slice(64, 96)
    settings = dataclasses.replace(SHORT, clips=64, frames=5)
    batch = draw_batch([lesson], settings, torch.Generator().manual_seed(0))
    column = ((batch.blurry[:, :1] + 1) * 80).round().int()
    held_out = (column >= 64) & (column < 96)
    assert 0 < held_out.float().mean() < 0.5
    assert torch.equal(batch.weights > 0, ~held_out)


@pytest.mark.parametrize("counts_on_the_left", [0, 1])
def test_crops_lie_where_something_was_taken_that_may_be_learned(counts_on_the_left):
    columns = torch.arange(160).reshape(1, 1, 160, 1).expand(6, 32, 160, 3) / 160
    lesson = lesson_of(columns, columns, columns)
    lesson.trust[:] = 0
    # Sharp frames count though they took nothing, and so would what is held out.
    lesson.weights[:, :, :80] = counts_on_the_left
    lesson.trust[:, :, :80] = 1 - counts_on_the_left
    lesson.weights[:, :, 80:] = lesson.trust[:, :, 80:] = 0.5
    settings = dataclasses.replace(SHORT, clips=64, frames=5)
    batch = draw_batch([lesson], settings, torch.Generator().manual_seed(0))
    assert float((batch.blurry > 0).float().mean()) > 0.6


def test_sharp_frames_are_blurred_again_and_keep_their_target():
    frames = texture(8, side=96)
    soft = (frames + frames.roll(3, 2)) / 2
    target = frames.clone()
    target[4:] = blurred(frames[4:], torch.stack([motion(0, 12)] * 4))
    lesson = lesson_of(soft, soft, target)
    settings = dataclasses.replace(SHORT, crop=96, frames=8)
    seeded = [torch.Generator().manual_seed(1) for _ in range(2)]
    plain = draw_batch([lesson], settings, seeded[0])
    again = draw_batch([lesson], dataclasses.replace(settings, reblurred_share=1), seeded[1])
    assert torch.equal(plain.target, again.target)
    # What is not sharp teaches nothing.
    weighed = again.weights.amax((0, 1, 3, 4)).tolist()
    learned = [place for place, weight in enumerate(weighed) if weight]
    assert learned in ([0, 1, 2, 3], [4, 5, 6, 7]), "the second where time is turned around"
    # Blurred as the clip is: two places three pixels apart.
    inner = (slice(None), slice(None), learned, slice(18, -18), slice(18, -18))
    difference = (plain.blurry - again.blurry)[inner].square().mean()
    assert float(difference) > 0
    assert float(difference) < 0.3 * float((plain.blurry - plain.target)[inner].square().mean())


def test_where_nothing_is_sharp_crops_stay_as_they_came():
    frames = blurred(texture(4, side=96), torch.stack([motion(0, 12)] * 4))
    lesson = lesson_of(frames, frames, frames)
    settings = dataclasses.replace(SHORT, crop=96, reblurred_share=1)
    batch = draw_batch([lesson], settings, torch.Generator().manual_seed(1))
    assert torch.equal(batch.blurry, batch.target)


def test_a_diffusion_model_learns_by_its_last_timestep():
    network = Divd(SMALL_CONFIG).eval().requires_grad_(False)
    engine = Deblurrer(network)
    frames = texture(6, side=48) * 0.5 + 0.2
    alone = RestorationSettings(window=4, overlap=2, borrow=False)
    lesson = lesson_of(frames, engine.restore(frames, alone), frames)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    settings = dataclasses.replace(SHORT, learning_rate=3e-3, least_gain_db=-100)
    result = adapt(engine, [lesson], alone, settings)
    assert result.weights is not None
    assert (result.gain_db or 0) > 0.1
    assert same(network.state_dict(), before)
    changed = {n for n, w in result.weights.items() if not torch.equal(w, before[n].half())}
    assert changed
    assert all(n.startswith(("unet.", "blur_encoder.", "image_encoder.")) for n in changed)


def test_networks_that_cannot_learn_are_named_in_one_line():
    with pytest.raises(ValueError, match="holds DBLRNet, a feed-forward network"):
        check_adaptable(SMALL_DBLRNET_CONFIG, RESTORATION)
    with pytest.raises(ValueError, match="take 4 passes: use steps 1"):
        check_adaptable(SMALL_CONFIG, dataclasses.replace(RESTORATION, steps=4))
    with pytest.raises(ValueError, match="set network input to blurry"):
        check_adaptable(
            SMALL_CPGD_CONFIG, dataclasses.replace(RESTORATION, network_input="first_stage")
        )
    check_adaptable(SMALL_CPGD_CONFIG, RESTORATION)
    check_adaptable(SMALL_CONFIG, RESTORATION)


def test_only_the_copy_takes_gradients():
    engine = spoilt_engine()
    learner = make_learner(engine.model)
    assert all(parameter.requires_grad for parameter in learner.tuned)
    assert not any(parameter.requires_grad for parameter in engine.model.parameters())
