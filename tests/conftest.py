"""Seeds, tolerances and very small models for every test."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from video_deblur.models.checkpoint import save_checkpoint
from video_deblur.models.config import (
    AutoencoderConfig,
    DivdConfig,
    ImageEncoderConfig,
    SamplingConfig,
    UNet3DConfig,
)
from video_deblur.models.cpgd_config import CpfpConfig, CpgdConfig
from video_deblur.models.dblrnet import DblrNet, DblrNetConfig
from video_deblur.models.divd import Divd
from video_deblur.models.maxim import MaximConfig

TOLERANCES = {
    torch.float64: 1e-11,
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 8e-2,
}
"""Largest difference between two ways to compute the same, in the standard deviation of
the reference. The one table: tests take it through `assert_same`."""

SMALL_CONFIG = DivdConfig(
    unet=UNet3DConfig(
        in_channels=8,
        out_channels=4,
        block_channels=(16, 32),
        layers_per_block=1,
        head_dim=8,
        context_dim=16,
        attention_levels=(False, True),
        temporal_attention="window",
        temporal_levels=(False, True),
        windows=((4, 4, 4), (4, 4, 4)),
        norm="channel",
        transformer_in=False,
        latent_skip=True,
    ),
    autoencoder=AutoencoderConfig(latent_channels=4, channels=(8, 16), blocks=(1, 1)),
    image_encoder=ImageEncoderConfig(
        image_size=16,
        patch_size=8,
        width=16,
        layers=1,
        heads=2,
        embedding_dim=16,
        num_tokens=2,
        context_dim=16,
    ),
)

SMALL_DBLRNET_CONFIG = DblrNetConfig(channels=8, num_units=2, head_channels=16, input_skip=True)

SMALL_MAXIM_CONFIG = MaximConfig(
    num_stages=2,
    channels=(8, 16),
    sides=(4, 2),
    bottleneck_side=2,
    num_blocks=1,
    num_bottlenecks=1,
)

SMALL_CPGD_CONFIG = CpgdConfig(
    cpfp=CpfpConfig(
        channels=(4, 4, 8),
        encoder_blocks=(0, 1, 1),
        decoder_blocks=(0, 1, 1),
        pass_blocks=1,
        offset_groups=2,
    ),
    sampling=SamplingConfig(window=8, overlap=2, tile=64, tile_overlap=16),
)

KL_CONFIG = dataclasses.replace(
    SMALL_CONFIG,
    autoencoder=AutoencoderConfig(
        kind="kl",
        latent_channels=4,
        channels=(8, 8, 16, 16),
        blocks=(1, 1, 1, 1),
        norm_groups=4,
        latent_std=(1 / 0.18215,) * 4,
    ),
)
"""The small model around the structure of Stable Diffusion's autoencoder."""


NO_COMFYUI = "COMFYUI_PATH does not name a ComfyUI checkout: node tests skipped"

_MOST_WORKERS = 8
"""Processes of `-n auto`: each holds a PyTorch of its own."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the processes of `-n auto`: tests compute with one thread each."""
    return min(os.cpu_count() or 1, _MOST_WORKERS)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say once why node tests were skipped; here, since `-n` loads no other conftest."""
    skipped = terminalreporter.stats.get("skipped", [])
    if any(NO_COMFYUI in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(NO_COMFYUI)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what builds the full-size network, unless `-m full_size` asks for it."""
    if "full_size" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("full_size")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    torch.set_num_threads(1)
    # The first backward pass starts a thread for each device there is. The one that some tests
    # pretend to have would get one too, after which no process that is forked can train.
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Clock:
    """Stands for the module `time`; moved by hand, and by sleeping."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    perf_counter = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """For the code under test: a busy machine does not disturb its times."""
    return Clock()


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """Compare to a reference within the tolerance of a dtype (the reference's, if none)."""

    def check(value: Tensor, reference: Tensor, dtype: torch.dtype | None = None) -> None:
        assert value.shape == reference.shape
        tolerance = TOLERANCES[dtype or reference.dtype]
        spread = float(reference.double().std()) if reference.numel() > 1 else 1.0
        assert spread > 0, "a constant reference shows nothing"
        error = float((value.double() - reference.double()).abs().max())
        assert error <= tolerance * spread, f"{error / spread:.2e} of the standard deviation"

    return check


@pytest.fixture
def randomise() -> Callable[..., nn.Module]:
    """Fill every parameter with N(0, std): zero-initialised ones would hide mistakes."""

    def fill(module: nn.Module, std: float = 0.02, *, add: bool = False) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator) * std
                parameter.copy_(noise.to(parameter) + (parameter if add else 0))
        return module

    return fill


@pytest.fixture
def small_config() -> DivdConfig:
    return SMALL_CONFIG


@pytest.fixture
def kl_config() -> DivdConfig:
    return KL_CONFIG


@pytest.fixture
def kl_model(randomise) -> Divd:
    """As `small_model`, with the other kind of autoencoder."""
    return randomise(Divd(KL_CONFIG), 0.05, add=True).eval().requires_grad_(False)


@pytest.fixture
def small_unet_config() -> UNet3DConfig:
    return SMALL_CONFIG.unet


@pytest.fixture
def untrained_model() -> Divd:
    """A model as training starts with it."""
    return Divd(SMALL_CONFIG).eval().requires_grad_(False)


@pytest.fixture
def small_model(randomise) -> Divd:
    """A model in which every branch does something."""
    return randomise(Divd(SMALL_CONFIG), 0.05, add=True).eval().requires_grad_(False)


@pytest.fixture
def make_checkpoint(tmp_path: Path, small_model: Divd) -> Callable[..., Path]:
    """Write a small checkpoint to the test's folder and return its path."""

    def make(
        name: str = "small.safetensors",
        *,
        model: Divd | None = None,
        dtype: torch.dtype = torch.float32,
        state_dict: dict[str, Tensor] | None = None,
        **config_changes: object,
    ) -> Path:
        model = model or small_model
        path = tmp_path / name
        save_checkpoint(
            path,
            model.state_dict() if state_dict is None else state_dict,
            dataclasses.replace(model.config, **config_changes),
            provenance={"steps": 3, "data": "none"},
            dtype=dtype,
        )
        return path

    return make


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path]) -> str:
    """Return the path of a small checkpoint, as the command takes it."""
    return str(make_checkpoint())


@pytest.fixture
def dblrnet_checkpoint(tmp_path: Path, randomise: Callable[..., nn.Module]) -> Path:
    """Write a small checkpoint of a feed-forward network and return its path."""
    network = randomise(DblrNet(SMALL_DBLRNET_CONFIG), 0.05, add=True)
    path = tmp_path / "dblrnet.safetensors"
    save_checkpoint(path, network.state_dict(), network.config, provenance={"steps": 3})
    return path


@pytest.fixture
def any_first_stage(monkeypatch):
    """Use networks of random weights as first stages, which fail on test pictures."""
    monkeypatch.setattr(
        "video_deblur.restoration.first_stage.stage.fault_of", lambda engine: None
    )


@pytest.fixture
def make_frames() -> Callable[..., Tensor]:
    """Smooth moving frames `[T, H, W, C]` in 0..1 with a little texture."""

    def make(
        num_frames: int = 4, height: int = 32, width: int = 32, channels: int = 3
    ) -> Tensor:
        y = torch.linspace(0, 1, height)[None, :, None, None]
        x = torch.linspace(0, 1, width)[None, None, :, None]
        step = torch.arange(num_frames)[:, None, None, None] / 8
        phase = torch.arange(channels) * 0.7
        wave = 0.5 + 0.3 * torch.sin(9 * (x + step) + phase) * torch.cos(7 * y - phase)
        generator = torch.Generator().manual_seed(5)
        texture = torch.rand(num_frames, height, width, channels, generator=generator)
        return (wave + 0.1 * (texture - 0.5)).clamp(0, 1)

    return make


@pytest.fixture
def grown_memory_bytes() -> Callable[..., list[int]]:
    """Run pieces of code in a process; return how far memory grew at most during each."""

    def measure(*pieces: str, arguments: Iterable[object] = (), setup: str = "") -> list[int]:
        script = "\n".join([_MEASURE, setup, *(f"measure({piece!r})" for piece in pieces)])
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [int(line) for line in done.stdout.splitlines()[-len(pieces) :]]

    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is read from Linux's /proc")
    return measure


_MEASURE = """
import sys

def kilobytes(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))

def measure(code):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts here
    before = kilobytes("VmRSS:")
    exec(code, globals())
    print(1024 * (kilobytes("VmHWM:") - before))
"""
