from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from video_deblur.models.import_weights.weight_file import looks_like, open_weights

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
WEIGHTS = {"a.weight": torch.randn(3, 2), "b.bias": torch.randn(4)}


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def assert_refused(path, message, error=ValueError):
    with pytest.raises(error, match=message) as caught, open_weights(path, "unet"):
        pass
    text = str(caught.value)
    assert text.startswith(f"{path}")
    assert "\n" not in text
    assert len(text) < 600


def assert_read(path):
    with open_weights(path, "unet") as file:
        assert file.shapes == {"a.weight": (3, 2), "b.bias": (4,)}
        assert all(torch.equal(file.read(name), value) for name, value in WEIGHTS.items())
        return file


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.ckpt"])
@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w, "step": 3}])
def test_pickled_weights_are_mapped(tmp_path, name, wrap):
    torch.save(wrap(WEIGHTS), tmp_path / name)
    assert_read(tmp_path / name)


def test_safetensors_are_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert assert_read(tmp_path / "a.safetensors").config == {}


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "unet/model.fp16.safetensors"]
)
def test_folders_lead_to_their_file_and_config(tmp_path, name):
    (tmp_path / "unet").mkdir()
    save_file(WEIGHTS, tmp_path / name)
    (tmp_path / "unet" / "config.json").write_text('{"attention_head_dim": 64}')
    for folder in (tmp_path, tmp_path / "unet"):
        file = assert_read(folder)
        assert file.path == tmp_path / name
        assert file.config == {"attention_head_dim": 64}
    (tmp_path / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        assert_read(tmp_path)


def test_safetensors_win_over_pickles(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert assert_read(tmp_path).path.name == "model.safetensors"


def test_paths_that_lead_nowhere_are_refused(tmp_path):
    assert_refused(tmp_path / "none.pth", "no such file or folder", FileNotFoundError)
    assert_refused(tmp_path, "a folder without a file of weights .* Give the file itself")
    (tmp_path / "notes.txt").write_text("text")
    assert_refused(tmp_path / "notes.txt", "not a file of weights; expected .safetensors, .pth")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", ["a.pth", "a.bin", "a.ckpt"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, name, wrapped):
    path, marker = tmp_path / name, tmp_path / "was_run"
    content = {**WEIGHTS, "extra": Payload(marker)}
    torch.save({"state_dict": content} if wrapped else content, path)
    assert_refused(path, "other objects than weights, .* could run code. Take the .safetensors")
    assert not marker.exists()


def test_pickles_that_cannot_be_mapped_are_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "old.pth", tmp_path / "was_run"
    path.write_bytes(pickle.dumps(Payload(marker)))
    assert_refused(path, "PyTorch's old format, which is not read")
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    assert_refused(path, "PyTorch's old format, which is not read")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.01])
def test_half_a_download_is_refused(tmp_path, name, kept):
    path = tmp_path / name
    weights = {"a": torch.randn(1000, 50)}
    if name == "a.pth":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    os.truncate(path, int(kept * path.stat().st_size))
    assert_refused(path, "truncated .*Download it again")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.pth",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git lfs pull",
        ),
        (
            "a.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "git lfs pull",
        ),
        ("a.pth", b"", "it is empty"),
        ("a.safetensors", b"", "it is empty"),
        ("a.pth", b"weights", "not a file that PyTorch saved"),
        ("a.bin", b"<html>404</html>", "a web page, not the weights"),
        ("a.safetensors", b"\n<!DOCTYPE html>404", "a web page, not the weights"),
        ("a.safetensors", b"<\0\0\0\0\0\0\0{", "not a valid safetensors file"),
    ],
)
def test_files_that_hold_no_weights_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, message)


@pytest.mark.parametrize("content", [{}, {"step": 3}, [torch.zeros(1)], {"state_dict": {}}])
def test_pickles_without_names_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", "holds no weights by name; expected a state_dict")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (
            ["unet.conv_in.weight", "blur_encoder.conv_in.weight"],
            "a checkpoint of this program",
        ),
        (["unet.down.lora_A.weight"], "a LoRA"),
        (["model.diffusion_model.out.0", "first_stage_model.a"], "a Stable Diffusion"),
        (["first_stage_model.encoder.conv_in.weight"], "an autoencoder"),
        (["encoder.down_blocks.0.resnets"], "an autoencoder"),
        (["input_blocks.0.0.weight"], "a UNet"),
        (["down_blocks.0.resnets"], "a UNet"),
        (["visual.proj", "transformer.resblocks"], "a CLIP model"),
        (["vision_model.embeddings"], "a CLIP model"),
        (["text_model.encoder"], "a text encoder"),
        (["layers.0.weight"], "something else"),
    ],
)
def test_a_guess_at_the_kind_of_file_goes_by_names(names, kind):
    assert looks_like(names).startswith(kind)
