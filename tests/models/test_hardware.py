from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from video_deblur.models import hardware
from video_deblur.models.config import AutoencoderConfig, UNet3DConfig

CPU = torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    for cuda, mps, expected in (
        (True, True, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=cuda: answer)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda answer=mps: answer)
        assert hardware.choose_device("auto").type == expected


@pytest.mark.parametrize("name", ["toaster", "cpu:x", "xpu:77"])
def test_a_device_that_is_not_here_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here"):
        hardware.choose_device(name)


def test_auto_takes_bfloat16_only_where_it_is_multiplied_natively(monkeypatch):
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda answer=native: {"avx512_bf16": answer}
        )
        assert hardware.choose_dtype("auto", CPU) == expected
    assert hardware.choose_dtype("auto", torch.device("mps")) == torch.float32
    assert hardware.choose_dtype("float16", CPU) == torch.float16


def test_an_unknown_dtype_names_those_there_are():
    with pytest.raises(
        ValueError, match="dtype must be auto or one of float32, bfloat16, float16, got 'half'"
    ):
        hardware.choose_dtype("half", CPU)
    with pytest.raises(ValueError, match="dtype must be one of float32"):
        hardware.named_dtype("auto")


def test_memory_goes_by_values_and_bytes_per_value():
    config = AutoencoderConfig(channels=(32, 64))  # 32 channels at half the resolution
    assert hardware.encode_bytes(config, 1000) == 20 * 8 * 1000
    assert hardware.decode_bytes(config, 1000) == 24 * 8 * 1000
    assert hardware.decode_bytes(config, 1000, torch.float16) == 12 * 8 * 1000
    assert hardware.memory_bytes(130, 320, 10, torch.float8_e4m3fn) == 130 * 320 * 10 / 4


def test_the_first_transformer_counts_where_the_finest_level_is_narrow():
    assert hardware.unet_width(UNet3DConfig()) == 320
    assert hardware.unet_width(UNet3DConfig(head_dim=80)) == 400
    assert hardware.unet_width(UNet3DConfig(head_dim=80, transformer_in=False)) == 320


def test_nothing_but_torch_is_needed():
    tree = ast.parse(Path(hardware.__file__).read_text(encoding="utf-8"))
    imported = {node.names[0].name for node in tree.body if isinstance(node, ast.Import)}
    imported |= {
        str(node.module)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
    }
    assert imported == {"torch", "typing"}


def test_comfyuis_own_estimate_is_that_of_the_unets_working_memory():
    config = UNet3DConfig()
    frames, height, width, bytes_per_value = 16, 32, 48, 2
    ours = hardware.unet_bytes(config, frames * height * width, torch.float16)
    # What ComfyUI makes of a factor, in MiB.
    theirs = frames * height * width * bytes_per_value * 0.01 * hardware.comfyui_factor(config)
    assert ours == pytest.approx(theirs * 2**20)
    assert ours == pytest.approx(130 * 320 * frames * height * width / 2)
