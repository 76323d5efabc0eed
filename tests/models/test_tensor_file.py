from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from video_deblur.models.tensor_file import (
    CheckpointError,
    check_finite,
    described_tensors,
    read_header,
    read_tensors,
    write_tensors,
)

VALUES = {"b": torch.randn(3, 4), "a": torch.randn(()), "c": torch.zeros(0, 2)}


def write(path, values, dtype=torch.float32, metadata=None):
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    write_tensors(path, shapes, values.items(), dtype, metadata or {})
    return path


def read(path):
    header = read_header(path)
    header.pop("__metadata__", None)
    return dict(read_tensors(path, described_tensors(path, header)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_written_is_a_safetensors_file(tmp_path, dtype):
    path = write(tmp_path / "a.safetensors", VALUES, dtype, {"note": "naïve"})
    stored = load_file(path)
    assert read_header(path)["__metadata__"] == {"note": "naïve"}
    for values in (stored, read(path)):
        assert values.keys() == VALUES.keys()
        for name, value in VALUES.items():
            assert torch.equal(values[name], value.to(dtype))


def test_files_of_the_library_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(VALUES, path)
    assert all(torch.equal(value, VALUES[name]) for name, value in read(path).items())


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path):
    path = write(tmp_path / "a.safetensors", VALUES)
    before = path.read_bytes()

    def values():
        yield "b", VALUES["b"]
        raise OSError(28, "No space left on device")

    shapes = {name: tuple(value.shape) for name, value in VALUES.items()}
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, shapes, values(), torch.float32, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_changing_what_was_read_leaves_the_file_alone(tmp_path):
    path = write(tmp_path / "a.safetensors", VALUES)
    tensor = read(path)["b"]
    tensor += 1
    assert torch.equal(tensor, VALUES["b"] + 1)
    assert torch.equal(read(path)["b"], VALUES["b"])


def test_a_file_that_is_replaced_stays_readable_to_those_who_read_it(tmp_path):
    path = write(tmp_path / "a.safetensors", VALUES)
    tensor = read(path)["b"]
    write(path, {name: value + 1 for name, value in VALUES.items()})
    assert torch.equal(tensor, VALUES["b"])


@pytest.mark.parametrize("position", [0, 2**15 - 1, 2**15, 3 * 2**15 - 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_no_value_escapes_the_check(tmp_path, position, dtype):
    tensor = torch.ones(3, 2**15)
    tensor.view(-1)[position] = torch.nan
    check_finite(tmp_path / "a", "w", torch.ones_like(tensor).to(dtype))
    with pytest.raises(CheckpointError, match=r"a: weight 'w' has values that are not finite"):
        check_finite(tmp_path / "a", "w", tensor.to(dtype))


def test_reading_and_writing_take_little_memory(tmp_path, grown_memory_bytes):
    values = {f"{index}": torch.randn(1024, 2048) for index in range(12)}  # 8 MiB each
    path = write(tmp_path / "a.safetensors", values)
    setup = (
        "from pathlib import Path; import torch\n"
        "from video_deblur.models.tensor_file import *\n"
        "path = Path(sys.argv[1])\n"
        "header = read_header(path); header.pop('__metadata__')\n"
        "tensors = described_tensors(path, header)\n"
    )
    code = (
        "shapes = {name: shape for name, (_, shape) in tensors.items()}\n"
        "write_tensors(path, shapes, read_tensors(path, tensors), torch.float16, {})\n"
    )
    (grown,) = grown_memory_bytes(code, arguments=[path], setup=setup)
    assert grown < 48 * 2**20
    assert torch.equal(read(path)["7"], values["7"].half())
