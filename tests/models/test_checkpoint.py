from __future__ import annotations

import dataclasses
import os
import pickle
import stat
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from video_deblur.models.bundled import BUNDLED, label_of
from video_deblur.models.checkpoint import (
    find_checkpoint,
    load_model,
    load_state_dict,
    read_info,
    save_checkpoint,
)
from video_deblur.models.divd import Divd

from .checkpoint_files import assert_refused, peak_memory_bytes, rewrite, rewrite_envelope


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_written_is_read(make_checkpoint, small_model, small_config, dtype):
    path = make_checkpoint(dtype=dtype)
    info = read_info(path)
    assert (info.config, info.architecture.name, info.licence) == (
        small_config,
        "divd",
        "Apache-2.0",
    )
    assert info.provenance == {"steps": 3, "data": "none"}
    assert info.dtype == dtype
    assert info.num_parameters == sum(p.numel() for p in small_model.parameters())
    loaded = load_model(path)
    assert not loaded.training
    for name, value in small_model.state_dict().items():
        stored = loaded.state_dict()[name]
        assert stored.dtype == torch.float32
        assert torch.equal(stored, value.to(dtype).float())
    assert not any(p.requires_grad for p in loaded.parameters())
    assert load_state_dict(info)["unet.conv_in.weight"].dtype == dtype


def test_weights_may_be_kept_in_low_precision(make_checkpoint):
    model = load_model(make_checkpoint(), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_writing_replaces_the_file_and_leaves_nothing_else(make_checkpoint):
    path = make_checkpoint()
    first = path.read_bytes()
    make_checkpoint(residual_decoding=False)
    assert path.read_bytes() != first
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_keeps_the_old_file(make_checkpoint, monkeypatch, small_model):
    path = make_checkpoint()
    before = path.read_bytes()

    def full_disk(tensor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("video_deblur.models.tensor_file._as_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, small_model.state_dict(), small_model.config, provenance={})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_checkpoint_may_be_read_by_whom_the_system_lets(make_checkpoint):
    path = make_checkpoint()
    plain = path.with_name("plain")
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_the_bundled_diffusion_model_is_of_the_kind_it_was_before_there_were_two():
    info = read_info("divd-tiny")
    assert info.config.autoencoder.kind == "local"
    weights = load_model("divd-tiny").state_dict()
    stored = load_file(BUNDLED["divd-tiny"])
    assert weights.keys() == stored.keys()
    assert all(torch.equal(value, stored[name].float()) for name, value in weights.items())


def test_a_checkpoint_may_hold_the_autoencoder_of_stable_diffusion(make_checkpoint, kl_model):
    path = make_checkpoint(model=kl_model)
    loaded = load_model(path)
    assert loaded.config == kl_model.config
    video = torch.rand(1, 3, 2, 16, 24) * 2 - 1
    assert torch.equal(loaded.encode_sharp(video), kl_model.encode_sharp(video))


def test_names_lead_to_files(make_checkpoint, tmp_path):
    path = make_checkpoint()
    assert find_checkpoint(str(path)) == path
    for name, file in BUNDLED.items():
        assert find_checkpoint(name) == file == find_checkpoint(label_of(name))
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such checkpoint file") as caught:
            load_model(missing)
        assert str(missing) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"abc", "not a valid safetensors file"),
        (b"This is a text and not a checkpoint, whatever its name says.\n", "not a valid"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        ((2**63).to_bytes(8, "little") + b"{}", "header claims 9223372036854775808 bytes"),
        ((10**9).to_bytes(8, "little") + b"{}" * 10, "header claims 1000000000 bytes"),
        ((2).to_bytes(8, "little") + b"{}", "not a video deblurring checkpoint"),
        ((2).to_bytes(8, "little") + b"[]", "not a valid safetensors file"),
        ((4).to_bytes(8, "little") + b"\xff\xfe\xff\xfe", "its header is not JSON"),
        ((3).to_bytes(8, "little") + b"{,}", "its header is not JSON"),
        ((20000).to_bytes(8, "little") + b"[" * 20000, "not a valid safetensors file"),
        ((5002).to_bytes(8, "little") + b"[" + b"9" * 5000 + b"]", "not a valid"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    assert_refused(path, message)
    assert_refused(path, message, read_info)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("name", ["a.pth", "a.ckpt", "a.pt", "a.bin", "a.safetensors", "a"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickled_payloads_are_never_run(tmp_path, name, zipped):
    path, marker = tmp_path / name, tmp_path / "was_run"
    if zipped:
        torch.save({"state_dict": Payload(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Payload(marker)))
    assert_refused(path, "not a .*safetensors file")
    assert not marker.exists()


@pytest.mark.parametrize("cut", [1, 1000, 5000])
def test_truncated_files_are_refused(make_checkpoint, cut):
    path = make_checkpoint()
    path.write_bytes(path.read_bytes()[:-cut])
    assert_refused(path, "truncated or damaged: the header describes .* bytes", read_info)


def test_files_cut_inside_the_header_are_refused(make_checkpoint):
    path = make_checkpoint()
    path.write_bytes(path.read_bytes()[:500])
    assert_refused(path, "header claims .* truncated", read_info)


def test_files_with_bytes_behind_the_end_are_refused(make_checkpoint):
    path = make_checkpoint()
    path.write_bytes(path.read_bytes() + b"more")
    assert_refused(path, "truncated or damaged", read_info)


NAME = "unet.conv_in.weight"


def set_entry(**values):
    return lambda header: header[NAME].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_entry(shape=[10**15]), "has shape"),
        (set_entry(shape=[10**15], data_offsets=[0, 4 * 10**15]), "truncated or damaged"),
        (set_entry(shape=[-1, 8, 3, 3]), "does not describe"),
        (set_entry(shape="16"), "does not describe"),
        (set_entry(shape=None), "does not describe"),
        (set_entry(shape=[1.5]), "does not describe"),
        (set_entry(data_offsets=5), "does not describe"),
        (set_entry(data_offsets=None), "does not describe"),
        (set_entry(data_offsets=[0]), "does not describe"),
        (set_entry(data_offsets=["0", "4"]), "does not describe"),
        (set_entry(data_offsets=[-8, 0]), "does not describe"),
        (set_entry(data_offsets=[4, 0]), "cannot be read"),
        (set_entry(data_offsets=[0, 4]), "cannot be read"),
        (set_entry(dtype="I64"), "stored as I64, which is not supported"),
        (set_entry(dtype="F16"), "cannot be read"),
        (set_entry(dtype=["F32"]), "not supported"),
        (set_entry(extra=1), "does not describe"),
        (lambda header: header.update({NAME: 5}), "does not describe"),
        (lambda header: header.update(__metadata__=5), "not a video deblurring checkpoint"),
        (lambda header: header["__metadata__"].update(video_deblur="{"), "not valid JSON"),
        (lambda header: header["__metadata__"].update(video_deblur=5), "not valid JSON"),
        (lambda header: header["__metadata__"].update(video_deblur="7"), "format version 7"),
    ],
)
def test_lying_headers_are_refused(make_checkpoint, change, message):
    assert_refused(rewrite(make_checkpoint(), change), message)


def test_weights_that_share_their_bytes_are_refused(make_checkpoint):
    def overlap(header):
        first, second = (f"unet.down_blocks.1.resnets.0.norm{i}.weight" for i in (1, 2))
        first = first.replace("norm1", "conv1").replace("weight", "bias")
        header[second] = dict(header[first])

    assert_refused(rewrite(make_checkpoint(), overlap), "cannot be read")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(format=2), r"format version 2 is not supported \(expected 1\)"),
        (lambda e: e.pop("format") and None, "format version None"),
        (lambda e: e.update(architecture="dblrnet"), "unknown field 'autoencoder'"),
        (
            lambda e: e.update(architecture="dblrnet", config={}),
            "has no 'conv1.' weights, which DBLRNet needs",
        ),
        (lambda e: e.pop("config") and None, "config: expected an object"),
        (lambda e: e["config"].update(unett={}), "unknown field 'unett'"),
        (lambda e: e["config"]["unet"].update(head_dimm=8), "unknown field 'head_dimm'"),
        (lambda e: e["config"]["unet"].update(head_dim="x\ny"), "expected int"),
        (lambda e: e["config"]["unet"].update(block_channels=[16, 48]), "has shape|missing"),
        (
            lambda e: e["config"]["unet"].update(block_channels=[2**40, 2**40]),
            "between|at most|large|built",
        ),
        (
            lambda e: e["config"]["unet"].update(windows=[[2**20] * 3] * 2),
            "between|at most|large|built",
        ),
        (lambda e: e["config"]["image_encoder"].update(layers=10**7), "must be between"),
        (lambda e: e["config"]["unet"].update(layers_per_block=10**7), "must be between"),
        (lambda e: e["config"]["autoencoder"].update(blocks=[10**7, 1]), "must be between"),
        (lambda e: e["config"]["schedule"].update(num_timesteps=10**13), "num_timesteps"),
        (
            lambda e: e["config"]["image_encoder"].update(mlp_ratio=1e300),
            "between|at most|large|built",
        ),
        (lambda e: e["config"]["image_encoder"].update(mlp_ratio=float("nan")), "mlp_ratio"),
    ],
)
def test_envelopes_that_describe_something_else_are_refused_at_once(
    make_checkpoint, change, message
):
    path = rewrite_envelope(make_checkpoint(), change)
    started, memory = time.process_time(), peak_memory_bytes()
    assert_refused(path, message, read_info)
    assert time.process_time() - started < 5
    assert peak_memory_bytes() - memory < 200e6


def test_huge_claims_are_refused_before_anything_is_allocated(make_checkpoint):
    path = rewrite(make_checkpoint(), set_entry(shape=[2**50, 2**50]))
    memory, started = peak_memory_bytes(), time.process_time()
    assert_refused(path, "has shape")
    assert peak_memory_bytes() - memory < 100e6
    assert time.process_time() - started < 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_not_finite_are_refused(make_checkpoint, small_model, value, dtype):
    weights = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    weights["autoencoder.decoder.conv_in.bias"][1] = value
    path = make_checkpoint(state_dict=weights, dtype=dtype)
    assert_refused(path, "'autoencoder.decoder.conv_in.bias' has values that are not finite")


def test_weights_of_the_wrong_shape_are_refused(make_checkpoint, small_model):
    weights = {**small_model.state_dict(), NAME: torch.zeros(16, 7, 3, 3)}
    path = make_checkpoint(state_dict=weights)
    assert_refused(path, r"has shape \[16, 7, 3, 3\], expected \[16, 8, 3, 3\]", read_info)


def test_missing_and_unknown_weights_are_refused(make_checkpoint, small_model):
    weights = dict(small_model.state_dict())
    weights.pop(NAME)
    assert_refused(make_checkpoint(state_dict=weights), f"missing weight '{NAME}'", read_info)
    weights = {**small_model.state_dict(), "unet.more\nlines": torch.zeros(1)}
    assert_refused(make_checkpoint(state_dict=weights), "unknown weight 'unet.more", read_info)


def test_checkpoints_of_other_programs_are_recognised(tmp_path):
    path = tmp_path / "sd.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4)}, path)
    assert_refused(path, "it looks like a Stable Diffusion checkpoint", read_info)
    prefixes = ("unet.", "blur_encoder.", "autoencoder.", "image_encoder.")
    save_file({f"{prefix}weight": torch.zeros(4) for prefix in prefixes}, path)
    assert_refused(path, "like those of DIVD, no video_deblur metadata", read_info)
    save_file({"weight": torch.zeros(4)}, path, metadata={"format": "pt"})
    assert_refused(path, "of no network known here: DIVD, DBLRNet", read_info)


def test_the_config_in_the_file_builds_the_network(make_checkpoint, small_config):
    sampling = dataclasses.replace(small_config.sampling, steps=7)
    info = read_info(make_checkpoint(sampling=sampling))
    assert info.config.sampling.steps == 7


def test_loading_takes_the_memory_of_the_model(
    make_checkpoint, small_config, grown_memory_bytes
):
    unet = dataclasses.replace(small_config.unet, block_channels=(384, 512))
    config = dataclasses.replace(small_config, unet=unet)
    weights = {
        name: torch.ones(value.shape, dtype=torch.float16)
        for name, value in Divd(config, device="meta").state_dict().items()
    }
    path = make_checkpoint(state_dict=weights, dtype=torch.float16, unet=unet)
    as_stored, converted = grown_memory_bytes(
        "deblurrer = load_deblurrer(sys.argv[1], 'cpu', 'float16')",
        "other = load_deblurrer(sys.argv[1], 'cpu', 'float32')",
        arguments=[path],
        setup="from video_deblur.restoration.load import load_deblurrer\n"
        "load_deblurrer('divd-tiny', 'cpu')",
    )
    size = path.stat().st_size
    assert size > 60e6
    assert as_stored <= 1.15 * size
    assert converted <= 1.15 * 2 * size


def test_weights_that_need_no_conversion_are_mapped(make_checkpoint):
    path = make_checkpoint(dtype=torch.float32)
    model = load_model(path)
    before = path.read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before
    model = load_model(path, dtype=torch.float16, pixel_dtype=torch.float32)
    dtypes = {
        part: {p.dtype for p in getattr(model, part).parameters()}
        for part in ("unet", "image_encoder", "autoencoder", "blur_encoder")
    }
    assert dtypes["unet"] == dtypes["image_encoder"] == {torch.float16}
    assert dtypes["autoencoder"] == dtypes["blur_encoder"] == {torch.float32}
