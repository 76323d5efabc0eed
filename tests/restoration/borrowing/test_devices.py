"""Borrowing on a device that is not there; see `benchmarks.pretended_device`."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from video_deblur.benchmarks.activations import Alive
from video_deblur.benchmarks.device_traffic import count_borrowing, count_stream
from video_deblur.benchmarks.pretended_device import PretendedDevice
from video_deblur.restoration.borrowing import passes
from video_deblur.restoration.borrowing.candidates import Frame, Panel
from video_deblur.restoration.borrowing.passes import (
    borrow,
    borrow_stream,
    borrowing_bytes,
    flow_bytes,
)

from .test_passes import OFFSETS, panned, smeared, texture

DEVICE = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def blurry():
    sharp = panned(texture(), OFFSETS)
    frames = [f if i % 3 == 1 else smeared(f, 9) for i, f in enumerate(sharp)]
    return torch.stack([torch.from_numpy(frame) for frame in frames])


@pytest.fixture(scope="module")
def borrowed(blurry):
    return borrow(blurry)


def test_frames_stay_on_the_device_and_come_out_as_on_the_cpu(blurry, borrowed):
    with PretendedDevice("cuda"):
        frames = [f.to(DEVICE) for f in blurry]
        results = list(borrow_stream(frames, DEVICE))
        assert all(pixels.device == DEVICE for pixels in results)
        assert torch.equal(torch.stack(results).cpu(), borrowed)


def test_few_things_pass_between_host_and_device(blurry):
    counts = count_borrowing(blurry)
    per_frame = {name: count / len(blurry) for name, count in counts.items()}
    assert counts["waits"] == 0
    # Luma of three passes, who may help in two, and in which patches they do in three.
    assert per_frame["downloads"] <= 8
    # Each flow once; the patches of each pass; the rest is made once.
    assert per_frame["uploads"] <= per_frame["optical flows"] + 3 + 40 / len(blurry)
    # No frames: these are 0.25 MB each.
    assert per_frame["MB down"] < 0.07


def test_frames_of_files_go_up_once_and_come_back_once(blurry, small_model):
    pixels = [(frame * 255).round().byte().numpy() for frame in blurry]
    short = count_stream(pixels, copy.deepcopy(small_model))
    long = count_stream([*pixels, *pixels[::-1]], small_model)
    # What more frames bring, less what goes up once.
    each = {name: (long[name] - short[name]) / len(pixels) for name in long}
    megabytes = pixels[0].nbytes / 1e6
    # The frame and its noise; the rest are flows, and patches of borrowing.
    assert each["uploads"] <= each["optical flows"] + 6
    # The frame, and luma, a third of it, for the flows of three passes.
    assert megabytes < each["MB down"] < 2.1 * megabytes
    # One for each group that is decoded and for each window.
    assert each["waits"] <= 0.5


class Full:
    """A device whose memory runs out at a call, and stays full."""

    def __init__(self, monkeypatch, owner, name, after):
        self.calls = 0
        original = getattr(owner, name)

        def limited(*args, **kwargs):
            self.calls += 1
            result = original(*args, **kwargs)
            tensors = [result] if isinstance(result, torch.Tensor) else vars(result).values()
            on_device = any(getattr(x, "device", None) == DEVICE for x in tensors)
            if on_device and self.calls > after:
                raise torch.OutOfMemoryError("out of memory")
            return result

        monkeypatch.setattr(owner, name, limited)


@pytest.mark.parametrize("after", [0, 7])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Frame, "of"),
        (passes, "register"),
        (passes, "aggregate"),
        (Frame, "luma_rows"),
    ],
)
def test_out_of_memory_anywhere_goes_on_on_the_cpu(
    blurry, borrowed, monkeypatch, caplog, owner, name, after
):
    full = Full(monkeypatch, owner, name, after)
    with PretendedDevice("cuda"):
        results = list(borrow_stream([f.to(DEVICE) for f in blurry], DEVICE))
        assert full.calls > after
        assert results[-1].device.type == "cpu"
        # What is handed out after the failure is on the CPU; it never goes back.
        kinds = [pixels.device.type for pixels in results]
        assert kinds == sorted(kinds, reverse=True)
        torch.testing.assert_close(
            torch.stack([f.cpu() for f in results]), borrowed, atol=1e-5, rtol=0
        )
    assert sum("out of memory" in record.message for record in caplog.records) == 1


def test_another_stream_starts_on_the_device_again(blurry, monkeypatch):
    with PretendedDevice("cuda"):
        frames = [f.to(DEVICE) for f in blurry[:3]]
        with monkeypatch.context() as patch:
            Full(patch, passes, "aggregate", 0)
            assert list(borrow_stream(frames, DEVICE))[-1].device.type == "cpu"
        assert list(borrow_stream(frames, DEVICE))[-1].device == DEVICE


def test_other_errors_are_not_taken_for_memory(blurry, monkeypatch):
    def broken(*args):
        raise RuntimeError("broken")

    monkeypatch.setattr(passes, "aggregate", broken)
    with PretendedDevice("cuda"), pytest.raises(RuntimeError, match="broken"):
        list(borrow_stream([f.to(DEVICE) for f in blurry], DEVICE))


def test_apple_gpus_leave_borrowing_to_the_cpu(blurry, borrowed):
    assert torch.equal(borrow(blurry, "mps"), borrowed)


@pytest.mark.parametrize("size", [(128, 160), (256, 320), (360, 640)])
def test_memory_is_what_the_formula_says(size):
    height, width = size
    sharp = panned(texture(size=(height + 60, width + 60)), OFFSETS, size)
    frames = [torch.from_numpy(f if i % 3 == 1 else smeared(f, 9)) for i, f in enumerate(sharp)]
    # Flows are not counted on the CPU, where they stay what OpenCV made.
    with torch.no_grad(), Alive() as alive:
        firsts = map(torch.from_numpy, sharp)
        panels = (Panel(each, each + 0, next(firsts)) for each in frames)
        for pixels in borrow_stream(panels):
            del pixels
    counted = borrowing_bytes(*size) - flow_bytes(*size)
    assert counted / 2 < alive.peak <= counted


def test_threads_end_with_the_stream(blurry):
    def threads():
        return {t for t in threading.enumerate() if t.name.startswith("optical_flow")}

    before = threads()
    stream = borrow_stream(blurry)
    next(stream)
    assert threads() - before
    stream.close()
    assert not threads() - before
    list(borrow_stream(blurry[:2]))
    assert not threads() - before
