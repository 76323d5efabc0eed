"""A network of Load Upscale Model as first stage: nodes, command line and batch give the same.

Here fusion hands out what the first stage made, so that it shows in every frame.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from video_deblur.benchmarks.pretended_device import PretendedDevice
from video_deblur.cli import main
from video_deblur.jobs import local_pool
from video_deblur.jobs.batch import BatchSettings, plan_batch, restore_batch
from video_deblur.restoration.first_stage import stage
from video_deblur.restoration.load import load_deblurrer
from video_deblur.restoration.settings import preset_settings
from video_deblur.restoration.streaming import stream
from video_deblur.video.reader import VideoReader
from video_deblur.video.writer import VideoWriter

from .checkpoints import NAME, blurry_clip
from .other_models import write_first_stage

FILE = "nafnet.pth"


@pytest.fixture
def network_file(comfy, random_checkpoint):
    """A NAFNet of random weights among ComfyUI's upscale models."""
    return write_first_stage(comfy.base / "models" / "upscale_models" / FILE)


@pytest.fixture
def upscale_model(network_file, call_node):
    """The same as ComfyUI loads it."""
    return call_node("UpscaleModelLoader", model_name=FILE)[0]


@pytest.fixture
def _only_first(our_module, monkeypatch):
    def only_first(panels, device, before, wanted=None, *, borrow=True, refused=None):
        chosen = (each.restored if each.first is None else each.first for each in panels)
        return islice(chosen, *(wanted or (0, None)))

    for module in (
        our_module("nodes.decode"),
        our_module("restoration.streaming.stream"),
        stream,
    ):
        monkeypatch.setattr(module, "fuse", only_first)
    for module in (our_module("restoration.first_stage.stage"), stage):
        monkeypatch.setattr(module, "fault_of", lambda engine: None)


def expected_frames(network_file, frames):
    """Return what the network makes of frames, by itself."""
    from spandrel import ModelLoader

    network = ModelLoader().load_from_file(network_file).eval()
    made = [network(frame.permute(2, 0, 1)[None])[0].permute(1, 2, 0) for frame in frames]
    return torch.stack(made).clamp(0, 1)


def write_clip(path, frames):
    rate = Fraction(25)
    height, width = frames.shape[1:3]
    with VideoWriter(
        path, width=width, height=height, time_base=1 / rate, average_rate=rate, codec="ffv1"
    ) as writer:
        for index, frame in enumerate((frames * 255).round().byte().numpy()):
            writer.write(frame, index)
    return path


def decoded(path):
    with VideoReader(path) as reader:
        return np.stack([frame.pixels for frame in reader])


@pytest.mark.usefixtures("_only_first")
def test_frames_get_what_the_network_made(call_node, upscale_model, network_file):
    frames = blurry_clip(3, 45, 70)
    (restored,) = call_node(
        "VideoDeblur_Deblur", frames=frames, checkpoint=NAME, first_stage=upscale_model
    )
    expected = expected_frames(network_file, frames)
    torch.testing.assert_close(restored, expected, atol=1e-4, rtol=0)
    assert (restored - frames).abs().mean() > 0.02
    assert upscale_model.device == torch.device("cpu")


@pytest.mark.usefixtures("_only_first")
def test_a_video_a_file_and_a_batch_get_the_same_frames(
    comfy, call_node, upscale_model, network_file, random_checkpoint, tmp_path
):
    clip = write_clip(tmp_path / "clip.mkv", blurry_clip(6, 48, 64))
    (video,) = call_node(
        "VideoDeblur_DeblurVideo",
        video=comfy.api.InputImpl.VideoFromFile(str(clip)),
        checkpoint=NAME,
        crf=0,
        first_stage=upscale_model,
    )
    output = tmp_path / "run.mp4"
    options = ["--checkpoint", str(random_checkpoint), "--dtype", "float32", "--crf", "0"]
    options += ["--device", "cpu", "--first-stage", str(network_file)]
    assert main(["run", str(clip), "-o", str(output), *options]) == 0
    engine = load_deblurrer(random_checkpoint, "cpu", "float32", network_file)
    settings = preset_settings(engine.config, "fast")
    clips = plan_batch([clip], tmp_path / "batch", "h264")
    batch = BatchSettings(
        config=engine.config, restoration=settings, identity={"checkpoint": ""}, crf=0
    )
    restore_batch(clips, local_pool.LocalPool(engine, settings), batch)
    made = [decoded(path) for path in (video.get_stream_source(), output, clips[0].output)]
    assert np.array_equal(made[0], made[1])
    assert np.array_equal(made[0], made[2])
    expected = expected_frames(network_file, blurry_clip(6, 48, 64)).numpy() * 255
    luma = [frames @ [0.2126, 0.7152, 0.0722] for frames in (made[0], expected)]
    assert np.abs(luma[0] - luma[1]).mean() < 2, "4:2:0 keeps brightness"


class Gain(torch.nn.Module):
    """What a network of Load Upscale Model is wrapped in, without spandrel's inference mode.

    In inference mode copies do not reach a pretended device.
    """

    config = SimpleNamespace(num_frames=1)
    reach, bytes_per_pixel = 0, 1

    def __init__(self, device):
        super().__init__()
        self.gain = torch.tensor([0.9, 0.95, 1.0], device=device)[:, None, None]

    def restore_frame(self, around):
        return around[0] * self.gain


@pytest.mark.parametrize("borrow", [True, False])
def test_it_may_be_on_another_device_than_the_vae(
    extension_nodes, our_module, network_file, monkeypatch, borrow
):
    from spandrel import ModelLoader

    module = our_module("nodes.first_stage")
    # Not by the loader's node, for the same reason.
    upscale_model = ModelLoader().load_from_file(network_file)
    monkeypatch.setattr(
        our_module("restoration.first_stage.stage"), "fault_of", lambda engine: None
    )
    monkeypatch.setattr(our_module("nodes.decode"), "load_to_device", lambda *_: None)
    foreign = our_module("restoration.first_stage.foreign")
    explained = our_module("restoration.borrowing.first_candidate")
    trust, seen = explained._trust, []
    monkeypatch.setattr(explained, "_trust", lambda *pair: seen.append(pair) or trust(*pair))

    def deblurred(device):
        monkeypatch.setattr(module, "upscale_device", lambda model: device)
        monkeypatch.setattr(foreign, "ForeignNetwork", lambda *_: Gain(device))
        inputs = {"frames": blurry_clip(3, 70, 66), "checkpoint": NAME, "preset": "fast"}
        inputs |= {"strength": 1.0, "seed": 0, "borrow": borrow, "first_stage": upscale_model}
        with torch.no_grad():
            return extension_nodes["VideoDeblur_Deblur"].execute(**inputs).args[0]

    expected = deblurred(torch.device("cpu"))
    # As with --cpu-vae.
    with PretendedDevice("cuda") as pretended:
        restored = deblurred(pretended.device)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)
    assert len(seen) == 2 * 3
    assert {pixels.device.type for pair in seen for pixels in pair} == {"cpu"}


def test_a_network_that_is_not_trusted_is_left_out(call_node, upscale_model, caplog):
    frames = blurry_clip(3, 80, 70)
    plain, given = (
        call_node("VideoDeblur_Deblur", frames=frames, checkpoint=NAME, **inputs)[0]
        for inputs in ({}, {"first_stage": upscale_model})
    )
    assert torch.equal(plain, given)
    said = [r.getMessage() for r in caplog.records if "was not trusted" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("first stage NAFNet was not trusted: ")


def test_without_it_frames_stay_as_they_were(call_node, upscale_model, random_checkpoint):
    frames = blurry_clip(3, 48, 64)
    plain, given = (
        call_node("VideoDeblur_Deblur", frames=frames, checkpoint=NAME, **inputs)[0]
        for inputs in ({}, {"first_stage": None})
    )
    assert torch.equal(plain, given)


@pytest.mark.parametrize("node", ["VideoDeblur_Deblur", "VideoDeblur_DeblurVideo"])
@pytest.mark.parametrize("scale", [2, 4])
def test_networks_that_enlarge_are_refused(comfy, call_node, random_checkpoint, node, scale):
    from spandrel import ModelLoader
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    network = SRVGGNetCompact(num_feat=8, num_conv=2, upscale=scale)
    model = ModelLoader().load_from_state_dict(network.state_dict())
    frames = blurry_clip(2, 48, 64)
    parts = comfy.api.Types.VideoComponents(images=frames, frame_rate=Fraction(25))
    inputs = {
        "VideoDeblur_Deblur": {"frames": frames},
        "VideoDeblur_DeblurVideo": {"video": comfy.api.InputImpl.VideoFromComponents(parts)},
    }
    with pytest.raises(ValueError, match=f"enlarges by {scale}: use it after deblurring"):
        call_node(node, checkpoint=NAME, first_stage=model, **inputs[node])


def test_what_another_loader_made_is_refused(call_node, random_checkpoint):
    model = SimpleNamespace(model=torch.nn.Identity(), scale=1)
    with pytest.raises(ValueError, match="connect Load Upscale Model"):
        call_node(
            "VideoDeblur_Deblur",
            frames=blurry_clip(1, 48, 64),
            checkpoint=NAME,
            first_stage=model,
        )


def test_resumed_work_depends_on_the_weights(our_module, upscale_model):
    make = our_module("nodes.first_stage").UpscaleStage
    before = make(upscale_model).stage.identity
    assert make(upscale_model).stage.identity == before
    from spandrel import ModelLoader

    weights = {name: value + 1e-3 for name, value in upscale_model.model.state_dict().items()}
    other = ModelLoader().load_from_state_dict(weights)
    assert make(other).stage.identity != before


@pytest.mark.parametrize("node", ["VideoDeblur_Deblur", "VideoDeblur_DeblurVideo"])
def test_what_came_later_comes_after_it(extension_nodes, node):
    inputs = [each.id for each in extension_nodes[node].define_schema().inputs]
    later = ["first_stage", "coding_priors", "adapt"]
    assert inputs[inputs.index("first_stage") :] == later
