"""Restoring a few clips during training: a score, a picture, the best weights kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from ..images.check import check_image
from ..images.datasets import PairedSequence, load_dataset
from ..images.folders import read_image
from ..models.checkpoint import save_checkpoint
from ..video.pixels import to_float
from .config import DataConfig
from .report.pictures import picture_grid, write_picture
from .states import whole_weights, with_prefix

if TYPE_CHECKING:
    from accelerate import Accelerator

_MAX_CLIPS = 10
_MAX_SIZE = 256
"""Pixels of a clip's sides: the centre of larger frames."""
_PICTURE_ROWS = 4


class RestoresClips(Protocol):
    """A training module that can restore."""

    @property
    def model(self) -> Any:
        """The network that is exported, with its `config`."""
        ...

    def restored_clip(self, blurry: Tensor, index: int) -> Tensor:
        """Restore a clip through the module's own `forward`.

        Args:
            blurry: `[3, T, H, W]` in -1..1, on the device.
            index: Of the clip, which seeds what is random.

        Returns:
            The same shape, in -1..1.
        """
        ...


class ValidationClips:
    """The start of each sequence of a data set, cut at the centre.

    Args:
        spec: `KIND:PATH` as `images.datasets.load_dataset` reads it.
        config: Frames per clip.
        folder: Of the run.

    Raises:
        FileNotFoundError: If the data set does not exist.
        ValueError: If it cannot be used.
    """

    def __init__(self, spec: str, config: DataConfig, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []
        self.clips: list[tuple[Tensor, Tensor]] = []
        for sequence in load_dataset(spec, "test")[:_MAX_CLIPS]:
            self.names.append(sequence.name)
            self.clips.append(_read(sequence, config.num_frames))

    def bound(
        self,
        stage: str,
        module: RestoresClips,
        accelerator: Accelerator,
        provenance: dict[str, object],
        licence: str,
    ) -> StageValidation:
        """Return what a stage's loop calls."""
        return StageValidation(self, stage, module, accelerator, provenance, licence)


@dataclass(frozen=True, eq=False)
class StageValidation:
    """Validation of one stage; see `loop.Validation`."""

    clips: ValidationClips
    stage: str
    module: RestoresClips
    accelerator: Accelerator
    provenance: dict[str, object]
    licence: str

    def measure(self, step: int) -> dict[str, float]:
        """Restore every clip; log a picture, return mean PSNR and gain in dB.

        A diffusion model takes one step. Every process restores all of them: with FSDP they
        have to compute together.
        """
        scores, gains, middles = [], [], []
        for index, (blurry, sharp) in enumerate(self.clips.clips):
            restored = self._restore(blurry, index)
            scores.append(psnr(restored, sharp))
            gains.append(scores[-1] - psnr(blurry, sharp))
            middle = blurry.shape[1] // 2
            middles.append([_frame(clip, middle) for clip in (blurry, restored, sharp)])
        if self.accelerator.is_main_process:
            self._picture(step, middles[:_PICTURE_ROWS])
        return {
            "validation_psnr": float(np.mean(scores)),
            "validation_gain_db": float(np.mean(gains)),
        }

    def keep(self) -> None:
        """Write the weights to `best.safetensors`, over those of an earlier stage."""
        assert isinstance(self.module, nn.Module)
        weights = whole_weights(self.module, {})
        if self.accelerator.is_main_process:
            save_checkpoint(
                self.clips.folder / "best.safetensors",
                with_prefix(weights, "model."),
                self.module.model.config,
                provenance=self.provenance,
                licence=self.licence,
            )

    def _restore(self, blurry: Tensor, index: int) -> Tensor:
        with torch.no_grad(), self.accelerator.autocast():
            restored = self.module.restored_clip(blurry.to(self.accelerator.device), index)
        return restored.float().cpu()

    def _picture(self, step: int, rows: list[list[np.ndarray]]) -> None:
        blurry, restored, sharp = (list(column) for column in zip(*rows, strict=True))
        pixels = picture_grid(blurry, restored, sharp, labels=self.clips.names[: len(rows)])
        write_picture(self.clips.folder / "pictures" / f"{self.stage}_{step:06d}.png", pixels)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.writer.add_image(f"{self.stage}/clips", pixels, step, dataformats="HWC")


def _read(sequence: PairedSequence, num_frames: int) -> tuple[Tensor, Tensor]:
    """Read `[3, T, H, W]` in -1..1, blurry and sharp."""
    if len(sequence.sharp) < num_frames:
        raise ValueError(
            f"validation sequence {sequence.name}: has {len(sequence.sharp)} frames, validation"
            f" needs {num_frames}; remove it or train on shorter clips"
        )
    first = sequence.blurry[0]
    size = check_image(first)
    clips = []
    for paths in (sequence.blurry, sequence.sharp):
        for path in paths[:num_frames]:
            if check_image(path) != size:
                raise ValueError(f"{path}: is of another size than {first}; they must be alike")
        # Each by itself: frames of 8 and of 16 bits may come together.
        frames = np.stack([to_float(read_image(path)[..., :3]) for path in paths[:num_frames]])
        clip = rearrange(torch.from_numpy(frames) * 2 - 1, "t h w c -> c t h w")
        height, width = (min(side // 32 * 32, _MAX_SIZE) for side in clip.shape[2:])
        if not height or not width:
            raise ValueError(f"{paths[0]}: smaller than 32x32 pixels")
        top, left = (clip.shape[2] - height) // 2, (clip.shape[3] - width) // 2
        clips.append(clip[..., top : top + height, left : left + width])
    return clips[0], clips[1]


def psnr(pred: Tensor, target: Tensor) -> float:
    """Return the PSNR in dB, mean over frames of `[3, T, H, W]` in -1..1."""
    error = (pred - target).square().mean(dim=(0, 2, 3)).clamp_min(1e-9)
    return float((10 * torch.log10(4 / error)).mean())


def _frame(clip: Tensor, index: int) -> np.ndarray:
    return rearrange(clip[:, index], "c h w -> h w c").numpy() * 0.5 + 0.5
