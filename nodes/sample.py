"""Sample: what KSampler does, with this model's window, overlap and tile as inputs."""

from __future__ import annotations

import math
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor

from ..models.config import SamplingConfig
from ..restoration.denoising.noise import FrameNoise
from ..restoration.denoising.sampler import sampling_timesteps
from ..restoration.settings import MAX_SEED, RestorationSettings
from .backend import CATEGORY, advanced, make_schema
from .denoiser import OPTIONS_KEY, DeblurModel
from .progress import Cancellable, Progress, ProgressFn

_DEFAULTS = SamplingConfig()

CHECKPOINT_SCHEDULER = "checkpoint"
"""Our own choice of scheduler: the timesteps that the library visits."""

_LEAVES_NOISE = "stops before the last noise level and leaves noise in the result"
_NEEDS_TWO = "needs 2 steps or more"
_REFUSED = {
    "uni_pc": (1, f"{_NEEDS_TWO}: with 1 it leaves noise in the result"),
    "uni_pc_bh2": (1, f"{_NEEDS_TWO}: with 1 it leaves noise in the result"),
    "dpm_fast": (math.inf, _LEAVES_NOISE),
    "dpm_adaptive": (math.inf, _LEAVES_NOISE),
    "kl_optimal": (1, f"{_NEEDS_TWO}: with 1 it divides by zero"),
}
"""Samplers and schedulers: up to how many steps one is refused, and why. PSNR in dB against
`euler` with `simple` at 1 step on a crop of the bundled clip `street`, all samplers and
schedulers of ComfyUI 0.3.64 at 1, 2 and 4 steps, 2026-11-29, by
`benchmarks/comfyui_samplers.py`: uni_pc and uni_pc_bh2 have 16.7 at 1 step and 63.2 at 2;
dpm_adaptive 5.9, 16.6 and 24.0, dpm_fast 5.9, 16.8 and 24.1; kl_optimal fails at 1 and has 52.4
at 2. The least of the others is heun's 34.2 at 2; ddim_uniform has 36.6 at 1, the rest 42.9 or
more."""


def seed_input(
    tooltip: str = "Seed of the noise that sampling starts from, a whole number. The same seed "
    "gives the same frames.",
) -> io.Int.Input:
    """Return the input for a seed, by default of the start noise."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=MAX_SEED,
        control_after_generate=True,
        tooltip=tooltip,
    )


def deblur_model(model: Any) -> DeblurModel:
    """Return the network of a MODEL.

    Raises:
        ValueError: If it is not one of ours.
    """
    network = getattr(model, "model", None)
    if not isinstance(network, DeblurModel):
        raise ValueError(
            "model must come from Load Deblur Checkpoint: this one makes other latents"
        )
    return network


def with_layout(
    model: Any, window: int, overlap: int, tile: int, callback: ProgressFn | None = None
) -> Any:
    """Return a clone of MODEL that cuts clips as told and reports each piece.

    Raises:
        ValueError: If window and overlap do not fit together.
    """
    RestorationSettings(window=window, overlap=overlap, tile=tile)
    clone = model.clone()
    settings: dict[str, Any] = {"window": window, "overlap": overlap, "tile": tile}
    if callback is not None:
        settings["on_piece"] = callback
    clone.model_options["transformer_options"][OPTIONS_KEY] = settings
    return clone


class _StepReport:
    """Turn pieces and steps of a sampling run into progress with previews."""

    def __init__(self, model: Any, steps: int, callback: ProgressFn) -> None:
        self._previewer = latent_preview.get_previewer(
            model.load_device, model.get_model_object("latent_format")
        )
        self._steps = steps
        self._callback = callback
        self._step = 0

    def on_piece(self, done: int, total: int) -> None:
        """Report a piece of the current step."""
        self._callback(self._step + done / total, self._steps)

    def on_step(self, step: int, denoised: Tensor, x: Tensor, num_steps: int) -> None:
        """Report a step, with a picture of its clean estimate."""
        self._step, self._steps = step + 1, num_steps
        preview = None
        if self._previewer is not None:
            preview = self._previewer.decode_latent_to_preview_image("JPEG", denoised)
        self._callback(self._step, num_steps, preview)


def checkpoint_sigmas(model: Any, steps: int, denoise: float = 1.0) -> Tensor:
    """Return ComfyUI's noise levels of the timesteps that the library visits, then 0.

    Args:
        model: MODEL of ours.
        steps: Denoising steps.
        denoise: Share of the noise to start with; the last `steps` of `steps / denoise`.

    Returns:
        float32 `[steps + 1]`; empty where nothing is to be done.

    Raises:
        ValueError: If the checkpoint has fewer timesteps than that.
    """
    if denoise <= 0:
        return torch.zeros(0)
    schedule = deblur_model(model).deblur_config.schedule
    total, wanted = schedule.num_timesteps, int(steps / denoise)
    if steps <= total < wanted:
        # As finely as the widget goes.
        least = math.ceil(100 * steps / total) / 100
        raise ValueError(
            f"denoise must be at least {least:g} for {steps} steps of the scheduler "
            f"{CHECKPOINT_SCHEDULER}, got {denoise:g}: the checkpoint has {total} noise "
            f"levels. Take fewer steps, or the scheduler simple."
        )
    timesteps = sampling_timesteps(schedule, wanted)[-steps:]
    # On the CPU, wherever the first run has moved the table to.
    sigmas = model.get_model_object("model_sampling").sigmas.cpu()[torch.tensor(timesteps)]
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def pure_noise(model: Any, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return what ComfyUI's `noise_scaling` makes unit variance of at any first level.

    It does so by itself at the highest level, where trailing spacing starts. Leading spacing
    starts a little lower, from the same noise (as TF-T2V's weights were sampled).
    """
    # As numbers: noise stays on the CPU, ComfyUI moves its levels to the device.
    level = float(sigma)
    if level >= float(model.get_model_object("model_sampling").sigma_max):
        return noise
    return noise * (math.sqrt(1 + level**2) / level)


def sample_preset(
    model: Any,
    positive: list[Any],
    negative: list[Any],
    latent: dict[str, Any],
    settings: RestorationSettings,
    callback: ProgressFn,
) -> dict[str, Any]:
    """Sample from pure noise exactly as the library's `Deblurrer` with `ddim` does."""
    samples = latent["samples"]
    deblur_model(model)
    report = _StepReport(model, settings.steps, callback)
    model = with_layout(
        model, settings.window, settings.overlap, settings.tile, report.on_piece
    )
    sigmas = checkpoint_sigmas(model, settings.steps)
    with Cancellable():
        drawn = FrameNoise(settings.seed).draw(samples.shape[0], *samples.shape[1:])
        noise = pure_noise(model, drawn[0].movedim(1, 0), sigmas[0])
    restored = comfy.sample.sample(
        model,
        noise,
        settings.steps,
        settings.guidance_scale,
        "euler",
        "simple",
        positive,
        negative,
        # The first level is finite, so it would leave a trace of these in the noise.
        torch.zeros_like(samples),
        sigmas=sigmas,
        callback=report.on_step,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=settings.seed,
    )
    return {**latent, "samples": restored}


def refuse_noise(sampler_name: str, scheduler: str, steps: int) -> None:
    """Raise ValueError if a sampler or a scheduler of ComfyUI does not get rid of the noise."""
    choices = (("sampler_name", sampler_name, "euler"), ("scheduler", scheduler, "simple"))
    for widget, name, other in choices:
        most, reason = _REFUSED.get(name, (0, ""))
        if steps <= most:
            raise ValueError(f"{widget} {name} {reason}. Choose another, such as {other}.")


class Sample(io.ComfyNode):
    """Denoise the latents of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="VideoDeblur_Sample",
            display_name="Sample Deblurred Latents",
            category=CATEGORY,
            description="Denoise a clip of any length in overlapping windows. The stock "
            "KSampler gives the same latents.",
            search_aliases=["deblur sampler", "ksampler"],
            inputs=[
                io.Model.Input("model", tooltip="From Load Deblur Checkpoint."),
                io.Conditioning.Input("positive", tooltip="From Encode Blurry Frames."),
                io.Conditioning.Input("negative", tooltip="From Encode Blurry Frames."),
                io.Latent.Input(
                    "latent", tooltip="From Encode Blurry Frames. A noise mask limits the work."
                ),
                seed_input(),
                io.Int.Input(
                    "steps",
                    default=_DEFAULTS.steps,
                    min=1,
                    max=1000,
                    tooltip="Denoising steps, a whole number. One is what divd-tiny "
                    "is made for: more take longer and bring no more detail. "
                    "Checkpoints of your own may gain.",
                ),
                io.Float.Input(
                    "cfg",
                    default=_DEFAULTS.guidance_scale,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Classifier-free guidance, a factor. Leave it at 1: any other "
                    "doubles the time and changes next to nothing with divd-tiny "
                    "(at most 1 level of 255).",
                    **advanced(io.Float.Input),
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=list(comfy.samplers.KSampler.SAMPLERS),
                    default="euler",
                    tooltip="Name of the sampler. euler is DDIM for this model. Those that "
                    "leave noise in the result (uni_pc at 1, dpm_fast, dpm_adaptive) are "
                    "refused.",
                    **advanced(io.Combo.Input),
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[*comfy.samplers.KSampler.SCHEDULERS, CHECKPOINT_SCHEDULER],
                    default="simple",
                    tooltip="Name of the noise schedule. checkpoint takes the levels that the "
                    "checkpoint is sampled with. simple is nearly the same where they "
                    "start at pure noise, ddim_uniform where they do not (converted TF-T2V).",
                    **advanced(io.Combo.Input),
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the noise to start with, 0 to 1. Less stays closer to "
                    "the blurry frames.",
                ),
                io.Int.Input(
                    "window",
                    default=_DEFAULTS.window,
                    min=2,
                    max=1024,
                    tooltip="Frames restored together. More need more memory.",
                    **advanced(io.Int.Input),
                ),
                io.Int.Input(
                    "overlap",
                    default=_DEFAULTS.overlap,
                    min=0,
                    max=512,
                    tooltip="Frames shared by neighbouring windows, at most half the window.",
                    **advanced(io.Int.Input),
                ),
                io.Int.Input(
                    "tile",
                    default=0,
                    min=0,
                    max=16384,
                    step=64,
                    tooltip="Side of a spatial tile, in pixels; at least 64. 0 chooses by the "
                    "size of the frames. Smaller tiles need less memory.",
                    **advanced(io.Int.Input),
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="Latents of the restored clip.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list[Any],
        negative: list[Any],
        latent: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        window: int,
        overlap: int,
        tile: int,
    ) -> io.NodeOutput:
        deblur_model(model)
        refuse_noise(sampler_name, scheduler, steps)
        report = _StepReport(model, steps, Progress(1).stage(0))
        model = with_layout(model, window, overlap, tile, report.on_piece)
        samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        with Cancellable():
            noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
        start, sigmas, mask = samples, None, latent.get("noise_mask")
        if scheduler == CHECKPOINT_SCHEDULER:
            scheduler, sigmas = "simple", checkpoint_sigmas(model, steps, denoise)
            if denoise == 1 and mask is None:
                start, noise = torch.zeros_like(samples), pure_noise(model, noise, sigmas[0])
        restored = comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            start,
            denoise=denoise,
            noise_mask=mask,
            sigmas=sigmas,
            callback=report.on_step,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        return io.NodeOutput({**latent, "samples": restored})
