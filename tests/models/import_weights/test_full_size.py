"""The real size, with random weights; `--log-cli-level=INFO` shows the memory of each step."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from video_deblur.models.checkpoint import read_info
from video_deblur.models.config import (
    AutoencoderConfig,
    DivdConfig,
    ImageEncoderConfig,
    SamplingConfig,
    ScheduleConfig,
    UNet3DConfig,
)

logger = logging.getLogger(__name__)

PUBLISHED = DivdConfig(
    unet=UNet3DConfig(in_channels=8),
    autoencoder=AutoencoderConfig(
        kind="kl",
        latent_channels=4,
        channels=(128, 256, 512, 512),
        blocks=(2, 2, 2, 2),
        latent_std=(1 / 0.18215,) * 4,
    ),
    image_encoder=ImageEncoderConfig(),
    schedule=ScheduleConfig(timestep_spacing="leading"),
    sampling=SamplingConfig(steps=50),
)


@pytest.mark.full_size
def test_public_weights_of_full_size_are_converted_loaded_run_and_saved(
    tmp_path, grown_memory_bytes, assert_same
):
    setup = (
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import full_size\n"
        "folder = Path(sys.argv[1])"
    )

    def grown(*steps: str) -> list[int]:
        calls = (f"full_size.{step}(folder)" for step in steps)
        sizes = grown_memory_bytes(*calls, arguments=[tmp_path], setup=setup)
        for step, size in zip(steps, sizes, strict=True):
            logger.info("%s: %.2f GB", step, size / 1e9)
        return sizes

    grown("write_unet", "write_others")
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    logger.info("files: %s", {name: f"{size / 1e9:.2f} GB" for name, size in files.items()})
    assert grown("convert")[0] <= 1.3 * max(files.values())
    init = tmp_path / "deblur-init.safetensors"
    assert read_info(init).config == PUBLISHED
    assert grown("load_as_stored")[0] <= 1.15 * init.stat().st_size

    (peak,) = grown("step")
    assert peak <= 12e9
    results = torch.load(tmp_path / "step.pt", weights_only=True)
    assert results["tokens"].shape == (1, 4, 1024)
    assert results["latents"].shape == (1, 4, 16, 32, 32)
    assert results["decoded"].shape == (1, 3, 1, 256, 256)
    assert all(value.isfinite().all() and value.std() > 0 for value in results.values())
    assert_same_file(init, tmp_path / "saved.safetensors")

    assert grown("compare")[0] <= 12e9
    parity = torch.load(tmp_path / "parity.pt", weights_only=True)
    assert_same(parity["ours"], parity["theirs"])


def assert_same_file(first, second):
    assert read_info(first).config == read_info(second).config
    with safe_open(first, "pt") as ours, safe_open(second, "pt") as theirs:
        assert set(ours.keys()) == set(theirs.keys())
        for name in ours.keys():  # noqa: SIM118 (no mapping)
            assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name)), name
