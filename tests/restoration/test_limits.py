"""Clips at the limits of memory and of numbers."""

from __future__ import annotations

import logging

import pytest
import torch
from video_deblur.restoration.diffusion import Deblurrer
from video_deblur.restoration.settings import RestorationSettings


@pytest.fixture
def deblurrer(small_model):
    return Deblurrer(small_model)


def settings(**values):
    return RestorationSettings(**values)


def limit_memory(monkeypatch, model, most, error):
    """Let the UNet fail on pieces of more latent positions than `most`."""
    forward, sizes = model.unet.forward, []

    def limited(x, timesteps, context):
        sizes.append(tuple(x.shape[2:]))
        if x[0, 0].numel() > most:
            raise error
        return forward(x, timesteps, context)

    monkeypatch.setattr(model.unet, "forward", limited)
    return sizes


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory")]
)
def test_running_out_of_memory_halves_the_pieces(
    deblurrer, make_frames, monkeypatch, caplog, error
):
    frames = make_frames(12, 256, 64)
    # 12 x 64 x 16 at first; tiles of 32, then windows of 6, then 3.
    sizes = limit_memory(monkeypatch, deblurrer.model, 12 * 16 * 32 // 4, error)
    with caplog.at_level(logging.WARNING):
        restored = deblurrer.restore(frames, settings())
    assert restored.shape == frames.shape
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert all("out of memory: going on with" in r.getMessage() for r in caplog.records)
    assert "windows of 3 frames and tiles of 128 pixels" in caplog.records[-1].getMessage()
    assert sizes[:3] == [(12, 64, 16), (12, 32, 16), (6, 32, 16)]


def test_what_had_to_shrink_belongs_to_that_run(deblurrer, make_frames, monkeypatch, caplog):
    frames = make_frames(8, 16, 16)
    before = deblurrer.restore(frames, settings())
    error = torch.OutOfMemoryError("out of memory")
    with monkeypatch.context() as patch:
        sizes = limit_memory(patch, deblurrer.model, 4 * 4 * 4, error)
        shrunk = deblurrer.restore(frames, settings())
    assert [size[0] for size in sizes] == [8, 4, 4, 4]
    assert caplog.messages == [
        "out of memory: going on with windows of 4 frames and whole frames"
    ]
    assert not torch.equal(shrunk, before)
    assert torch.equal(deblurrer.restore(frames, settings()), before)


def test_values_that_are_no_numbers_are_refused_by_frame(deblurrer, make_frames):
    frames = make_frames(9, 16, 16)
    frames[3, 2, 5, 1] = float("nan")
    frames[7, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"NaN\) in frame 3, 7 \(counted from 0\)"):
        deblurrer.restore(frames, settings())


def test_values_out_of_range_are_limited_with_one_warning(deblurrer, make_frames, caplog):
    frames = make_frames(4, 16, 16)
    wild = frames.clone()
    wild[0, 0, 0], wild[1, 1, 1], wild[2, 2, 2] = 7.0, -3.0, float("inf")
    limited = wild.clamp(0, 1)
    assert torch.equal(
        deblurrer.restore(wild, settings()), deblurrer.restore(limited, settings())
    )
    (message,) = caplog.messages
    assert message.startswith("frames hold values from -3 to inf: limited to 0 and 1")
    assert wild.max() == float("inf"), "the input is the caller's"
    caplog.clear()
    # What resizing overshoots by is no news.
    deblurrer.restore(frames * 1.01 - 0.005, settings())
    assert not caplog.messages


class Overflowing:
    """A UNet whose activations leave the range of float16 in that dtype alone."""

    def __init__(self, forward):
        self.forward, self.dtypes = forward, []

    def __call__(self, x, timesteps, context):
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        self.dtypes.append(dtype)
        result = self.forward(x, timesteps, context)
        return result * float("inf") if dtype == torch.float16 else result


def test_what_overflows_in_float16_is_computed_in_float32(
    small_model, make_frames, monkeypatch, caplog
):
    frames = make_frames(3, 20, 20)
    reference = Deblurrer(small_model).restore(frames, settings())
    unet = Overflowing(small_model.unet.forward)
    monkeypatch.setattr(small_model.unet, "forward", unet)
    restored = Deblurrer(small_model, dtype=torch.float16).restore(frames, settings())
    assert unet.dtypes == [torch.float16, torch.float32]
    torch.testing.assert_close(restored, reference, atol=1e-4, rtol=0)
    assert caplog.messages == [
        "the network gave values that are not finite in float16: this window is computed in "
        "float32"
    ]


@pytest.mark.parametrize("part", ["unet", "autoencoder.decoder"])
def test_values_that_are_not_finite_end_the_run_with_one_line(
    small_model, make_frames, monkeypatch, part
):
    network = small_model.get_submodule(part)
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *a: forward(*a) * float("nan"))
    with pytest.raises(FloatingPointError, match=r"not finite.*may be damaged"):
        Deblurrer(small_model).restore(make_frames(3, 20, 20), settings())


def test_encoding_and_decoding_that_run_out_of_memory_take_fewer_frames(
    deblurrer, make_frames, monkeypatch
):
    frames = make_frames(8, 16, 16)
    whole = deblurrer.restore(frames, settings())
    sizes = []
    for part in (deblurrer.model.blur_encoder, deblurrer.model.autoencoder.decoder):
        forward = part.forward

        def limited(x, *args, forward=forward):
            sizes.append(x.shape[0])
            if x.shape[0] > 2:
                raise torch.OutOfMemoryError("out of memory")
            return forward(x, *args)

        monkeypatch.setattr(part, "forward", limited)
    # Borrowing rounds to 16 bits.
    torch.testing.assert_close(deblurrer.restore(frames, settings()), whole, atol=2e-5, rtol=0)
    assert set(sizes) == {8, 4, 2}


def test_memory_that_never_suffices_ends_with_the_error(deblurrer, make_frames, monkeypatch):
    limit_memory(monkeypatch, deblurrer.model, 0, torch.OutOfMemoryError("out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        deblurrer.restore(make_frames(4, 16, 16), settings())


def test_other_errors_are_not_taken_for_lack_of_memory(deblurrer, make_frames, monkeypatch):
    sizes = limit_memory(monkeypatch, deblurrer.model, 0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        deblurrer.restore(make_frames(4, 16, 16), settings())
    assert len(sizes) == 1
