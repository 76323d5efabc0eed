"""How like restored latents are to those of their blurry frames, upright and turned.

    python -m video_deblur.benchmarks.latent_orientation

What Decode Deblurred Latents decides by (`restoration/orientation.py`): the lowest likeness of
any frame as it lies, and the highest of any in another orientation. The bundled clips are cut
to a square in their middle, which has all orientations.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from ..evaluation.demo import CLIPS, DemoClip
from ..restoration import phases
from ..restoration.denoising.estimates import Estimates
from ..restoration.diffusion import Deblurrer
from ..restoration.frames import TensorFrames
from ..restoration.load import load_deblurrer
from ..restoration.orientation import TURNS, likeness
from ..restoration.progress import Work
from ..restoration.settings import preset_settings
from ..video.pixels import to_float


def main() -> None:
    """Measure both clips and noise, and print."""
    parser = argparse.ArgumentParser(description="Likeness of restored and blurry latents.")
    parser.add_argument("--checkpoint", default="divd-tiny")
    args = parser.parse_args()
    engine = load_deblurrer(args.checkpoint)
    assert isinstance(engine, Deblurrer)
    print(f"{'':16}{'upright, lowest':>18}{'turned, highest':>18}")
    for clip in CLIPS:
        restored, blurry = _latents(engine, _square(clip))
        print(f"{clip.name:16}{_row(restored, blurry)}")
        noise = torch.randn(restored.shape, generator=torch.Generator().manual_seed(0))
        print(f"{clip.name + ', noise':16}{_row(noise, blurry)}")


def _row(latents: Tensor, blurry: Tensor) -> str:
    upright, turned = likenesses(latents, blurry)
    return f"{upright:18.3f}{turned:18.3f}"


def likenesses(latents: Tensor, blurry: Tensor) -> tuple[float, float]:
    """Return the lowest likeness of frames as they lie, and the highest of them turned.

    Args:
        latents: `[C, T, h, w]`, normalised.
        blurry: The same shape.
    """
    pairs = list(zip(latents.unbind(1), blurry.unbind(1), strict=True))
    upright = [likeness(one, other) for one, other in pairs]
    turned = [likeness(turn(one), other) for one, other in pairs for turn in TURNS.values()]
    return min(upright), max(turned)


def _square(clip: DemoClip) -> Tensor:
    """Return the frames of a blurry clip, `[T, S, S, 3]`."""
    with clip.read("blurry") as reader:
        frames = torch.stack([torch.from_numpy(to_float(frame.pixels)) for frame in reader])
    height, width = frames.shape[1:3]
    side = min(height, width) // 8 * 8
    top, left = (height - side) // 2, (width - side) // 2
    return frames[:, top : top + side, left : left + side, :3]


@torch.no_grad()
def _latents(engine: Deblurrer, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return the restored latents of a clip, and those of its blurry frames."""
    model, config = engine.model, engine.config.autoencoder
    settings = preset_settings(engine.config, "fast")
    clip = TensorFrames(frames, engine.device)
    height, width = clip.size
    groups = phases.frame_groups(config, (0, len(clip)), clip.size)
    parts = phases.encode(model.encode_blur, config, clip, groups, lambda: None)
    layout = engine.layout(settings, height, width)
    estimates = Estimates(
        engine.predict,
        torch.cat(parts, dim=2),
        lambda index: phases.encode_tokens(model, clip, index),
        settings,
        needed=None,
        cache=None,
    )
    shape = engine.noise_shape(engine.config, height, width)
    noise = torch.randn(
        (1, shape[0], len(clip), *shape[1:]), generator=torch.Generator().manual_seed(0)
    )
    restored = phases.denoise(
        estimates,
        noise,
        engine.config.schedule,
        settings,
        layout,
        config.downscale,
        Work(None, 1),
        set(),
    )
    blurry = phases.encode(model.encode_sharp, config, clip, groups, lambda: None)
    return restored[0], torch.cat(blurry, dim=2)[0]


if __name__ == "__main__":
    main()
