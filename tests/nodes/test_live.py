"""A run that shows what it does, and ends soon after Cancel."""

from __future__ import annotations

import importlib
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import torch

from .checkpoints import NAME, blurry_clip
from .test_deblur_video import write_clip


@pytest.fixture
def package(extension_nodes):
    return extension_nodes["VideoDeblur_DeblurVideo"].__module__.rpartition(".nodes.")[0]


@pytest.fixture
def live(package):
    return importlib.import_module(f"{package}.nodes.live")


@pytest.fixture
def updates(comfy, monkeypatch):
    """What nodes tell their bars: (value, total, preview)."""
    seen = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar,
        "update_absolute",
        lambda bar, value, total=None, preview=None: seen.append((value, total, preview)),
    )
    return seen


@pytest.mark.parametrize("source", ["file", "frames"])
def test_preview_shows_a_frame_before_and_after(
    comfy, call_node, random_checkpoint, updates, tmp_path, source
):
    frames = blurry_clip(4, 48, 64)
    if source == "file":
        path = write_clip(tmp_path / "clip.mp4", frames, Fraction(25))
        video = comfy.api.InputImpl.VideoFromFile(str(path))
    else:
        (video,) = call_node("CreateVideo", images=frames, fps=25.0)
    call_node("VideoDeblur_DeblurVideo", video=video, checkpoint=NAME)
    assert updates[0][0] == 0
    kind, image, _ = next(preview for _, _, preview in updates if preview is not None)
    assert (kind, image.size) == ("JPEG", (128, 48))
    pixels = np.asarray(image, dtype=float) / 255
    blurry, restored = pixels[:, :64], pixels[:, 64:]
    # 4:2:0 and rounding aside it is the input's first frame.
    assert np.abs(blurry - frames[0].numpy()).mean() < 0.05
    assert 0.001 < np.abs(restored - blurry).mean() < 0.3


def test_large_frames_are_shown_small(live):
    shown = []
    view = live.LiveView(lambda *args: shown.append(args), None)
    view.on_frame(np.zeros((3000, 5000, 4), np.uint16), np.zeros((3000, 5000, 3), np.uint16))
    (_, image, _) = shown[-1][2]
    assert image.size == (1024, 307)


def test_text_tells_frames_speed_and_time_left(live):
    now = [0.0]
    view = live.LiveView(lambda *args: None, None, now=lambda: now[0])
    view.on_progress(10, 100)
    assert view.text() == "10 of 100 frames"
    now[0] = 20.0
    view.on_progress(20, 100)
    # The first ten were done by a run before.
    assert view.text() == "20 of 100 frames, 0.50/s, 2 min 40 s left"
    view.on_progress(21, None)
    assert view.text() == "21 frames, 0.55/s"


def test_reading_moves_the_bar_a_little(live):
    told = []
    view = live.LiveView(lambda *args: told.append(args[:2]), None)
    for read in range(1, 25):
        view.on_read(read, 500)
    shares = [done / total for done, total in told]
    assert shares == sorted(shares)
    assert 0 < shares[-1] < 0.05
    view.on_progress(10, 500)
    view.on_read(34, 500)
    done, total = told[-1]
    assert total == 500
    # Restored frames count whole, those read beyond them a little.
    assert 10 < done < 11


def test_text_reaches_the_page(comfy_server):
    graph = {
        "clip": {"class_type": "VideoDeblur_ExampleClip", "inputs": {"clip": "shake"}},
        "video": {
            "class_type": "VideoDeblur_DeblurVideo",
            "inputs": {"video": ["clip", 0], "checkpoint": "divd-tiny (bundled)"}
            | {"preset": "fast", "strength": 1.0, "seed": 77, "codec": "h264", "crf": 14},
        },
        "saved": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["video", 0], "filename_prefix": "live", "format": "auto"}
            | {"format.codec": "auto", "codec": "auto"},
        },
    }
    seen = len(comfy_server.events())
    comfy_server.run(graph, timeout=240)
    events = comfy_server.events()[seen:]
    texts = [event.data for event in events if event.kind == "text"]
    assert "video reading" in texts[0]
    assert "of 17 frames" in texts[-1]
    assert [event for event in events if event.kind == "preview"]


@pytest.mark.parametrize("node", ["VideoDeblur_Deblur", "VideoDeblur_Borrow"])
def test_cancel_ends_a_run_between_two_callbacks(
    comfy, call_node, random_checkpoint, monkeypatch, node, package
):
    progress = importlib.import_module(f"{package}.nodes.progress")
    # Nobody looks between pieces of work: only within them.
    monkeypatch.setattr(
        progress.Progress, "stage", lambda *_: lambda done, total, preview=None: None
    )
    frames = torch.rand(24, 192, 256, 3)
    inputs = {} if node == "VideoDeblur_Borrow" else {"checkpoint": NAME}
    start = time.monotonic()
    call_node(node, frames=frames, **inputs)
    whole = time.monotonic() - start
    timer = threading.Timer(whole / 4, comfy.model_management.interrupt_current_processing)
    start = time.monotonic()
    timer.start()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        call_node(node, frames=frames, **inputs)
    assert time.monotonic() - start < 0.75 * whole + 1


def test_a_network_stops_at_its_next_layer(comfy, call_node, random_checkpoint):
    model, _, _ = call_node("VideoDeblur_LoadCheckpoint", checkpoint=NAME)
    layers = [m for m in model.model.diffusion_model.modules() if not list(m.children())]
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        layers[0](torch.zeros(1))
    comfy.model_management.interrupt_current_processing(False)


def test_loading_is_not_cut_in_half(comfy, package):
    progress = importlib.import_module(f"{package}.nodes.progress")
    comfy.model_management.interrupt_current_processing(True)
    with progress.Cancellable(), progress.uninterrupted():
        torch.zeros(1).add(1)
    with (
        pytest.raises(comfy.model_management.InterruptProcessingException),
        progress.Cancellable(),
    ):
        torch.zeros(1).add(1)


def test_the_bar_moves_as_soon_as_anything_is_done(comfy, package, monkeypatch):
    """Newer versions leave out small and early steps, but never the first of a bar."""
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **_: seen.append(args))
    progress = importlib.import_module(f"{package}.nodes.progress")
    advance = progress.Progress(1).stage(0)
    for done in (0, 1):
        advance(done, 1000)
    assert [args[:2] for args in seen] == [(0, 1000), (10, 1000)]
