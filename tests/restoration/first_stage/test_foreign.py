"""Networks of other projects: files that are read, and files that are refused."""

from __future__ import annotations

import pickle
import re
import sys
import zipfile
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from video_deblur.models.tensor_file import CheckpointError
from video_deblur.restoration.feed_forward import FeedForward
from video_deblur.restoration.first_stage.foreign import ForeignNetwork, load_foreign
from video_deblur.restoration.load import load_deblurrer, load_first_stage
from video_deblur.restoration.settings import RestorationSettings

CPU = torch.device("cpu")


@pytest.fixture
def architectures():
    return pytest.importorskip("spandrel").architectures


@pytest.fixture
def nafnet(architectures, randomise, tmp_path):
    """Return a small NAFNet of random weights, and where its published form is stored."""
    from spandrel.architectures.NAFNet import NAFNet

    network = NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])
    randomise(network, 0.05, add=True).eval().requires_grad_(False)
    path = tmp_path / "nafnet.pth"
    torch.save({"params": network.state_dict()}, path)
    return network, path


def compact(tmp_path, **values):
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    path = tmp_path / "compact.pth"
    network = SRVGGNetCompact(num_feat=8, num_conv=2, **values)
    torch.save({"params": network.state_dict()}, path)
    return path


def described(**values):
    fields = {
        "architecture": SimpleNamespace(name="Net"),
        "purpose": "Restoration",
        "scale": 1,
        "input_channels": 3,
        "output_channels": 3,
    }
    return SimpleNamespace(**{**fields, **values})


def test_a_network_of_another_project_restores_as_it_does_there(nafnet, make_frames, tmp_path):
    network, path = nafnet
    frames = make_frames(2, 45, 70)
    expected = network(frames.permute(0, 3, 1, 2)).clamp(0, 1).permute(0, 2, 3, 1)
    safe = tmp_path / "nafnet.safetensors"
    save_file(network.state_dict(), safe)
    for file in (path, safe):
        stage = load_first_stage(file, "cpu")
        restored = stage.engine.restore(frames, RestorationSettings(borrow=False))
        torch.testing.assert_close(restored, expected)
        assert (restored - frames).abs().mean() > 0.01
        assert stage.name == file.name
    assert load_first_stage(path, "cpu").identity == load_first_stage(path, "cpu").identity
    assert load_first_stage(path, "cpu").identity != load_first_stage(safe, "cpu").identity


def test_large_frames_are_restored_in_blended_tiles(nafnet, make_frames):
    network = load_foreign(nafnet[1], CPU)
    frames, sizes = make_frames(1, 40, 400), []
    forward = network.restore_frame

    def watched(around):
        sizes.append(tuple(around.shape[2:]))
        return forward(around)

    network.restore_frame = watched
    settings = RestorationSettings(borrow=False, tile=128)
    restored = FeedForward(network).restore(frames, settings)
    assert set(sizes) == {(40, 128)}
    assert len(sizes) >= 4
    assert restored.isfinite().all()


def test_a_checkpoint_of_ours_may_be_the_first_stage(dblrnet_checkpoint, checkpoint):
    engine = load_deblurrer(checkpoint, "cpu", "float32", dblrnet_checkpoint)
    assert engine.first_stage.name == "dblrnet.safetensors"
    assert engine.first_stage.planned_config.num_frames == 5
    assert load_deblurrer(checkpoint, "cpu", "float32").first_stage is None
    stage = load_first_stage(checkpoint, "cpu", "float32")
    assert type(stage.engine) is type(engine)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_network_that_enlarges_is_refused(architectures, tmp_path, scale):
    path = compact(tmp_path, upscale=scale)
    with pytest.raises(ValueError, match=f"enlarges by {scale}: use it after deblurring"):
        load_first_stage(path, "cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_channels": 1, "output_channels": 1}, "takes 1 channels and gives 1"),
        ({"input_channels": 4}, "takes 4 channels and gives 3"),
        ({"purpose": "Inpainting"}, "fills in what a mask covers"),
    ],
)
def test_networks_that_do_not_restore_colour_images_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ForeignNetwork(described(**values), "x.pth")


@pytest.mark.parametrize(
    "change",
    [lambda x: x[:, :1], lambda x: torch.cat([x, x], 3), lambda x: x[0]],
    ids=["gray", "wide", "no batch"],
)
def test_an_answer_of_another_shape_is_refused(change):
    class Descriptor(SimpleNamespace):
        def __call__(self, image):
            return change(image)

    network = ForeignNetwork(Descriptor(**vars(described())), "x.pth")
    with pytest.raises(ValueError, match=r"x.pth: this network .* must keep size and channels"):
        network.restore_frame(torch.zeros(1, 3, 8, 8))


class Hostile:
    """Runs code where it is unpickled."""

    def __init__(self, mark) -> None:
        self._mark = mark

    def __reduce__(self):
        return open, (str(self._mark), "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused(architectures, tmp_path, legacy):
    mark, path = tmp_path / "ran", tmp_path / "hostile.pth"
    torch.save({"params": Hostile(mark)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"could run code, so it was not opened"):
        load_foreign(path, CPU)
    path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_foreign(path, CPU)
    assert not mark.exists()


def test_a_torchscript_program_is_refused(architectures, tmp_path):
    path = tmp_path / "program.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript program"):
        load_foreign(path, CPU)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(nafnet, tmp_path, keep):
    network, path = nafnet
    safe = tmp_path / "nafnet.safetensors"
    save_file(network.state_dict(), safe)
    for file in (path, safe):
        data = file.read_bytes()
        file.write_bytes(data[: int(keep * len(data))])
        with pytest.raises(CheckpointError, match=r"truncated.*Download it again"):
            load_first_stage(file, "cpu")


def test_weights_of_no_known_network_are_refused(architectures, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="spandrel knows no network with these weights"):
        load_foreign(path, CPU)


@pytest.mark.parametrize("name", ["net.pt", "net.ckpt", "net.onnx", "clip.mp4"])
def test_other_kinds_of_files_are_not_opened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"must be a file of .pth or .safetensors"):
        load_first_stage(path, "cpu")


def test_a_pointer_of_git_lfs_is_named(architectures, tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load_foreign(path, CPU)


def test_without_spandrel_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    path = tmp_path / "net.pth"
    path.write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"net.pth: .*pip install spandrel"):
        load_first_stage(path, "cpu")


def test_more_networks_are_known_where_they_are_installed(nafnet, monkeypatch):
    calls = []
    extra = SimpleNamespace(install=lambda **options: calls.append(options))
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", extra)
    load_foreign(nafnet[1], CPU)
    assert calls == [{"ignore_duplicates": True}]


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"none.pth: no such"):
        load_first_stage("none.pth", "cpu")
