"""The node Coding Priors: from files, parts of files and frames, and what it refuses."""

from __future__ import annotations

import importlib
import io
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from .test_deblur_video import write_clip
from .test_edited_videos import trimmed

NODE = "VideoDeblur_CodingPriors"
NUM_FRAMES, HEIGHT, WIDTH = 9, 96, 128
STEP = 3


@pytest.fixture(scope="module")
def frames():
    """A window that moves to the right over noise: what it shows was further right before."""
    noise = torch.randn(1, 3, 24, 60, generator=torch.Generator().manual_seed(0))
    canvas = torch.nn.functional.interpolate(noise, (HEIGHT, 240), mode="bicubic")
    canvas = (0.5 + 0.2 * canvas[0]).clamp(0, 1).movedim(0, -1)
    return torch.stack([canvas[:, STEP * i : STEP * i + WIDTH] for i in range(NUM_FRAMES)])


@pytest.fixture
def clip(frames, tmp_path):
    return write_clip(tmp_path / "clip.mp4", frames, Fraction(25))


@pytest.fixture
def priors_module(extension_nodes):
    package = extension_nodes[NODE].__module__.rpartition(".")[0].rpartition(".")[0]
    return importlib.import_module(f"{package}.video.coding_priors")


def moves_right(priors, index: int) -> None:
    """Assert that the vectors of a frame are those of the clip."""
    valid = priors.valid[index, 0]
    assert valid.mean() > 0.5
    assert np.median(priors.motion[index][:, valid], axis=1).tolist() == [STEP, 0]


@pytest.mark.parametrize("kind", ["file", "memory", "frames", "components"])
def test_every_kind_of_clip_has_priors(comfy, call_node, frames, clip, kind, priors_module):
    api = comfy.api
    if kind == "frames":
        given = {"frames": frames}
    elif kind == "components":
        parts = api.Types.VideoComponents(images=frames, audio=None, frame_rate=Fraction(25))
        given = {"video": api.InputImpl.VideoFromComponents(parts)}
    else:
        source = str(clip) if kind == "file" else io.BytesIO(clip.read_bytes())
        given = {"video": api.InputImpl.VideoFromFile(source)}
    flow, residual, priors = call_node(NODE, **given)
    assert flow.shape == residual.shape == frames.shape
    assert flow.dtype == residual.dtype == torch.float32
    assert not flow[0].any()
    assert torch.equal(residual[0], torch.full_like(residual[0], 128 / 255))
    assert not priors.valid[0].any()
    for index in range(1, NUM_FRAMES):
        moves_right(priors, index)
    # To the right: red of the wheel.
    red, green, blue = flow[4].flatten(0, 1).median(0).values.tolist()
    assert red > max(green, blue) + 0.3
    arrays = frames.numpy()
    priors_module.check_number(priors, NUM_FRAMES)
    priors_module.check_frames(priors, arrays)
    with pytest.raises(ValueError, match=r"are of 9 frames .* the clip has 8 frames"):
        priors_module.check_number(priors, 8)
    with pytest.raises(ValueError, match="are of another clip"):
        priors_module.check_frames(priors, arrays[:, ::-1, ::-1] * 0.5)


def test_a_video_gives_the_same_as_its_frames_if_encoded(comfy, call_node, clip):
    video = comfy.api.InputImpl.VideoFromFile(str(clip))
    images = video.get_components().images
    by_frames = call_node(NODE, frames=images)[2]
    by_file = call_node(NODE, video=video, source="encoded")[2]
    stream = call_node(NODE, video=video, source="stream")[2]
    assert np.abs(by_file.motion - by_frames.motion).mean() < 0.05
    assert np.abs(stream.motion[1:] - by_frames.motion[1:]).mean() < 0.5


@pytest.mark.parametrize(("start", "duration"), [(0.0, 0.12), (0.16, 0.12), (0.2, 0.0)])
def test_a_trimmed_video_has_the_priors_of_its_part(comfy, call_node, clip, start, duration):
    video = trimmed(comfy, str(clip), start, duration)
    images = video.get_components().images
    flow, _, priors = call_node(NODE, video=video)
    assert len(flow) == len(priors.motion) == len(images)
    assert not priors.valid[0].any()
    for index in range(1, len(images)):
        moves_right(priors, index)


def test_the_scale_darkens_what_moves_further(call_node, frames):
    slow = call_node(NODE, frames=frames, scale=100.0)[0][3]
    fast = call_node(NODE, frames=frames, scale=1.0)[0][3]
    # Nearly white, and a full colour that is darkened.
    assert slow.median() > 0.95
    assert fast.amax(-1).median() == pytest.approx(0.75, abs=0.01)


def test_exactly_one_input_has_to_be_connected(comfy, call_node, frames, clip):
    video = comfy.api.InputImpl.VideoFromFile(str(clip))
    for given in ({}, {"frames": frames, "video": video}):
        with pytest.raises(ValueError, match=r"^connect either video or frames to Coding Pri"):
            call_node(NODE, **given)
    with pytest.raises(ValueError, match=r"^source stream needs a video"):
        call_node(NODE, frames=frames, source="stream")
    with pytest.raises(ValueError, match="must be"):
        call_node(NODE, frames=frames[..., :1])


def test_a_stream_without_vectors_is_told_in_one_line(comfy, call_node, frames, tmp_path):
    from video_deblur.video.writer import VideoWriter

    path = tmp_path / "clip.mov"
    rate = Fraction(25)
    with VideoWriter(
        path, width=WIDTH, height=HEIGHT, time_base=1 / rate, average_rate=rate, codec="prores"
    ) as writer:
        for index, frame in enumerate((frames * 255).byte().numpy()):
            writer.write(frame, index)
    video = comfy.api.InputImpl.VideoFromFile(str(path))
    with pytest.raises(ValueError, match="brings no motion vectors along") as caught:
        call_node(NODE, video=video, source="stream")
    assert "\n" not in str(caught.value)
    moves_right(call_node(NODE, video=video)[2], 3)


@pytest.mark.parametrize(
    ("source", "words"), [("auto", "from the stream"), ("encoded", "encoded in memory")]
)
def test_the_node_tells_where_motion_comes_from(comfy_server, source, words):
    graph = {
        "clip": {"class_type": "VideoDeblur_ExampleClip", "inputs": {"clip": "street"}},
        "priors": {
            "class_type": NODE,
            "inputs": {"video": ["clip", 0], "source": source, "scale": 0.0},
        },
        "shown": {"class_type": "PreviewImage", "inputs": {"images": ["priors", 0]}},
    }
    seen = len(comfy_server.events())
    comfy_server.run(graph, timeout=240)
    texts = [event.data for event in comfy_server.events()[seen:] if event.kind == "text"]
    assert len(texts) == 1
    found = re.search(rf"{words}: vectors for (\d+) % of the pixels", texts[0])
    assert found is not None
    assert 20 < int(found[1]) < 100


def test_cancel_is_heard_between_frames(comfy, call_node, frames, clip):
    import comfy.model_management as management

    video = comfy.api.InputImpl.VideoFromFile(str(clip))
    for given in ({"frames": frames}, {"video": video}):
        management.interrupt_current_processing(True)
        try:
            with pytest.raises(management.InterruptProcessingException):
                call_node(NODE, **given)
        finally:
            management.interrupt_current_processing(False)
