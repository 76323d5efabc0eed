"""Refine what a first stage made of a piece of a clip, by sampling: CPGD-Net's second stage.

Everything is `[1, C, T, H, W]`, pixels in -1..1, on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..models.cpgd_control import Cpc
from ..models.schedule import clean_from_velocity
from .color import match_color
from .denoising.sampler import SOLVERS
from .phases import computing_in
from .settings import RestorationSettings


@torch.no_grad()
def refine(
    cpc: Cpc,
    blurry: Tensor,
    first: Tensor,
    prior: Tensor,
    noise: Tensor,
    settings: RestorationSettings,
    dtype: torch.dtype,
    before: Callable[[], None],
) -> Tensor:
    """Sample the detail of a piece.

    Args:
        cpc: The networks of stage 2.
        blurry: As it came.
        first: What the first stage made of it, which keeps its low frequencies.
        prior: Of the piece (`query_prior`).
        noise: Of its latents, unit variance.
        settings: Solver, steps, guidance.
        dtype: What UNet and branch compute in.
        before: Called before they are run; may raise to cancel.

    Returns:
        The shape of `first`.

    Raises:
        FloatingPointError: If the networks give values that are not finite.
    """
    divd, (height, width) = cpc.divd, first.shape[3:]
    pad = [(-side) % divd.downscale for side in (width, height)]
    blurry, first = (
        F.pad(clip, (0, pad[0], 0, pad[1], 0, 0), mode="replicate") for clip in (blurry, first)
    )
    schedule, base = divd.config.schedule, first.clamp(-1, 1)
    given = cpc.encode(blurry, base, prior)
    # The tower computes in the dtype it is kept in, whatever the UNet does.
    kept = next(divd.image_encoder.parameters()).dtype
    with computing_in(kept, blurry.device):
        context = cpc.tokens(base).float()

    def estimate(x: Tensor, timestep: int, scale: float) -> Tensor:
        before()
        timesteps = torch.tensor([timestep], device=x.device)
        with computing_in(dtype, x.device):
            v = cpc.predict(x, given, timesteps, context * scale)
        return clean_from_velocity(schedule, x, v.float(), timesteps)

    def denoised_fn(x: Tensor, timestep: int) -> Tensor:
        cond = estimate(x, timestep, 1.0)
        if settings.guidance_scale == 1:
            return cond
        uncond = estimate(x, timestep, 0.0)
        return uncond + settings.guidance_scale * (cond - uncond)

    latents = SOLVERS[settings.solver](denoised_fn, noise, schedule, settings.steps)
    refined = first + (cpc.decode(latents, base, given.first) - base)
    refined = _with_low_frequencies(refined, first)[..., :height, :width]
    if not bool(refined.isfinite().all()):
        raise FloatingPointError(
            "the network gave values that are not finite: the checkpoint may be damaged, or "
            "not fit these settings"
        )
    return refined


def _with_low_frequencies(refined: Tensor, first: Tensor) -> Tensor:
    """Keep the low frequencies of the first stage."""
    frames = (rearrange(clip, "1 c t h w -> t h w c") for clip in (refined, first))
    return rearrange(match_color(*frames), "t h w c -> 1 c t h w")
