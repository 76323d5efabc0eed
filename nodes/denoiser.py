"""The denoising network as a native MODEL of ComfyUI: any sampler, any clip length."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.supported_models_base
import torch
from einops import rearrange
from torch import Tensor

from ..models.autoencoder import denormalise_latents, normalise_latents
from ..models.config import AutoencoderConfig, DivdConfig
from ..models.hardware import comfyui_factor, unet_bytes
from ..models.unet3d import UNet3D
from ..restoration.denoising.layout import in_smaller_pieces, make_layout
from ..restoration.denoising.windows import Layout, Piece, fuse

logger = logging.getLogger(__name__)

CUTS_KEY = "video_deblur_cuts"
"""Our entry in CONDITIONING: the frames that start a new shot, for the windows."""

OPTIONS_KEY = "video_deblur"
"""Our entry in `transformer_options` (run-time settings) and in LATENT (see `encode`)."""

_LAYOUT = ("window", "overlap", "tile")
"""Names of the run-time settings that say how a clip is cut."""

_WRONG_CONDITIONING = (
    "positive and negative must come from Encode Blurry Frames: the conditioning has no blur "
    "latents or image tokens of this checkpoint"
)


class DeblurUNet(UNet3D):
    """The UNet as `BaseModel` calls it."""

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        control: Any = None,
        transformer_options: Any = None,
    ) -> Tensor:
        return super().forward(x, timesteps, context)


class DeblurLatentFormat(comfy.latent_formats.LatentFormat):
    """Per-channel normalisation and preview colours of a checkpoint."""

    def __init__(self, config: AutoencoderConfig) -> None:
        self.config = config
        self.latent_channels = config.latent_channels
        if config.latent_rgb_factors:
            self.latent_rgb_factors = [list(row) for row in config.latent_rgb_factors]
        if config.latent_rgb_bias:
            self.latent_rgb_factors_bias = list(config.latent_rgb_bias)

    def process_in(self, latent: Tensor) -> Tensor:
        """Normalise latents as the VAE gives them."""
        return normalise_latents(self.config, latent)

    def process_out(self, latent: Tensor) -> Tensor:
        """Undo `process_in`."""
        return denormalise_latents(self.config, latent)


class DeblurModelConfig(comfy.supported_models_base.BASE):
    """What `BaseModel` reads about our network."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012 (BASE would add attention heads)
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]  # noqa: RUF012

    def __init__(self, config: DivdConfig) -> None:
        super().__init__({"config": config.unet, "schedule": config.schedule})
        self.deblur_config = config
        self.latent_format = DeblurLatentFormat(config.autoencoder)
        self.memory_usage_factor = comfyui_factor(config.unet)
        self.sampling_settings = {
            "beta_schedule": "linear",  # linear in the square roots: our "scaled linear"
            "linear_start": config.schedule.beta_start,
            "linear_end": config.schedule.beta_end,
            "timesteps": config.schedule.num_timesteps,
            "zsnr": config.schedule.zero_terminal_snr,
        }

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> DeblurModel:
        """Build the network; weights come after."""
        return DeblurModel(self, device=device)


class DeblurModel(comfy.model_base.BaseModel):
    """Run the UNet over windows and tiles, so that any sampler takes any clip.

    The sampler sees frames as a batch, `[num_conds * T, C, h, w]`, or `[num_conds, C, T, h,
    w]`; `denoised` is fused from the pieces at every step.
    """

    def __init__(self, model_config: DeblurModelConfig, device: Any = None) -> None:
        super().__init__(
            model_config,
            comfy.model_base.ModelType.V_PREDICTION,
            device=device,
            unet_model=DeblurUNet,
        )
        self.deblur_config = model_config.deblur_config
        self._fitting: dict[tuple[Layout, torch.Size], Layout] = {}
        self._told: set[Layout] = set()
        self._run: dict[str, int] = {}

    def begin_run(self, settings: dict[str, Any]) -> None:
        """Begin a sampling run.

        What had to shrink when memory ran out belongs to the run before.

        Args:
            settings: As for `layout`; `memory_required` counts by them, which ComfyUI asks
                without its options.
        """
        self._fitting.clear()
        self._told.clear()
        self._run = {name: settings[name] for name in _LAYOUT if name in settings}

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: Any = None,
        transformer_options: Any = None,
        cuts: tuple[int, ...] = (),
        **extra: Any,
    ) -> Tensor:
        """Return `denoised`, the shape of `x`, fused from windows and tiles."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        options = transformer_options or {}
        if c_concat is None or c_crossattn is None:
            raise ValueError(_WRONG_CONDITIONING)
        if x.ndim == 5:
            volume, condition, sigmas, tokens = x, c_concat, t, c_crossattn
        else:
            num_conds = len(options.get("cond_or_uncond", [0]))
            volume, condition = _fold(x, num_conds), _fold(c_concat, num_conds)
            num_frames = volume.shape[2]
            sigmas = t[::num_frames]
            tokens = rearrange(c_crossattn, "(b t) n d -> b t n d", b=num_conds)

        def predict(piece: Piece) -> Tensor:
            return self._finite(
                piece.cut(volume),
                sigmas,
                c_concat=piece.cut(condition),
                c_crossattn=tokens[:, piece.centre_frame],
                transformer_options=options,
                **extra,
            )

        fused = self._fuse(predict, volume, cuts, options.get(OPTIONS_KEY, {}))
        return fused if x.ndim == 5 else rearrange(fused, "b c t h w -> (b t) c h w")

    def _fuse(
        self,
        predict: Callable[[Piece], Tensor],
        volume: Tensor,
        cuts: tuple[int, ...],
        settings: dict[str, Any],
    ) -> Tensor:
        wanted = self.layout(volume.shape[3], volume.shape[4], settings)
        wanted = dataclasses.replace(wanted, cuts=cuts)
        key = (wanted, volume.shape)
        report = settings.get("on_piece")

        def attempt(layout: Layout) -> Tensor:
            total, done = layout.count(*volume.shape[2:]), 0

            def before_piece() -> None:
                nonlocal done
                comfy.model_management.throw_exception_if_processing_interrupted()
                if report is not None:
                    report(done, total)
                done += 1

            return fuse(predict, layout, volume, before_piece)

        fused, self._fitting[key] = in_smaller_pieces(
            attempt,
            self._fitting.get(key, wanted),
            tuple(volume.shape[2:]),
            self.deblur_config.autoencoder.downscale,
            self._told,
        )
        return fused

    def _finite(self, *inputs: Any, **options: Any) -> Tensor:
        """Return the clean estimate of a piece; where float16 overflows, from float32.

        Raises:
            FloatingPointError: If it is not finite in float32 either.
        """
        denoised = super().apply_model(*inputs, **options)
        if bool(denoised.isfinite().all()):
            return denoised
        message = "the network gave values that are not finite"
        computed_in = self.manual_cast_dtype or self.get_dtype()
        if computed_in != torch.float32:
            name = str(computed_in).removeprefix("torch.")
            logger.warning("%s in %s: this window is computed in float32", message, name)
            with self._computing_in_float32():
                denoised = super().apply_model(*inputs, **options)
            message += ", in float32 too"
        if not bool(denoised.isfinite().all()):
            raise FloatingPointError(f"{message}: the checkpoint or a LoRA may be damaged")
        return denoised

    @contextmanager
    def _computing_in_float32(self) -> Iterator[None]:
        """Have every layer cast its weights as it runs, as ComfyUI does to save memory."""
        layers = [m for m in self.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]
        before = [layer.comfy_cast_weights for layer in layers]
        cast_dtype, self.manual_cast_dtype = self.manual_cast_dtype, torch.float32
        try:
            for layer in layers:
                layer.comfy_cast_weights = True
            yield
        finally:
            self.manual_cast_dtype = cast_dtype
            for layer, casts in zip(layers, before, strict=True):
                layer.comfy_cast_weights = casts

    def layout(self, height: int, width: int, settings: dict[str, Any] | None = None) -> Layout:
        """Return how latents of `height` x `width` positions are cut.

        `settings` may hold `window`, `overlap` (frames) and `tile` (pixels, 0: automatic);
        what it lacks is the checkpoint's.
        """
        settings = settings or {}
        sampling = self.deblur_config.sampling
        downscale = self.deblur_config.autoencoder.downscale
        return make_layout(
            settings.get("window", sampling.window),
            settings.get("overlap", sampling.overlap),
            settings.get("tile", 0),
            height * downscale,
            width * downscale,
            sampling,
            downscale,
        )

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Hand blur latents and image tokens to the sampler, after comparing their sizes."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        noise = kwargs["noise"]
        condition = kwargs.get("concat_latent_image")
        tokens = kwargs.get("cross_attn")
        context_dim = self.deblur_config.unet.context_dim
        if condition is None or tokens is None or tokens.shape[-1] != context_dim:
            raise ValueError(_WRONG_CONDITIONING)
        if noise.ndim == 5:
            # Tokens of all frames in one row: the batch axis counts clips here.
            condition = rearrange(condition, "t c h w -> 1 c t h w")
            tokens = tokens[None]
        if condition.shape != noise.shape or tokens.shape[:-2] != _clip_axes(noise):
            raise ValueError(
                f"latent is {_describe(noise)} but the conditioning is {_describe(condition)}. "
                f"Take both from the same Encode Blurry Frames node."
            )
        return {
            "c_concat": comfy.conds.CONDNoiseShape(condition),
            "c_crossattn": comfy.conds.CONDRegular(tokens),
            "cuts": comfy.conds.CONDConstant(kwargs.get(CUTS_KEY, ())),
        }

    def memory_required(self, input_shape: Any, cond_shapes: Any = None) -> float:
        """Return `memory_bytes` by the settings of the run that began last."""
        return self.memory_bytes(input_shape, self._run)

    def memory_bytes(self, shape: Any, settings: dict[str, Any]) -> float:
        """Return the bytes of one window of one tile, for at most two conditions.

        Args:
            shape: Of the latents, as `apply_model` takes them, frames of all conditions in it.
            settings: As for `layout`.
        """
        frames = shape[0] if len(shape) == 4 else shape[0] * shape[2]
        height, width = shape[-2:]
        layout = self.layout(height, width, settings)
        positions = min(layout.tile or height, height) * min(layout.tile or width, width)
        dtype = self.manual_cast_dtype or self.get_dtype()
        positions *= min(frames, 2 * layout.window)
        return unet_bytes(self.deblur_config.unet, positions, dtype)


def begin_sampling(executor: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Begin a sampling run; stop where ComfyUI would cut the clip as well.

    Its windows slice neither our conditioning nor, before 0.12, frames in the batch axis.
    """
    options = kwargs.get("model_options") or model.model_options
    if options.get("context_handler") is not None:
        raise ValueError(
            "model already cuts clips into windows: take the Context Windows node out, and set "
            "window and overlap in Sample Deblurred Latents instead"
        )
    comfy.model_management.throw_exception_if_processing_interrupted()
    model.model.begin_run(options.get("transformer_options", {}).get(OPTIONS_KEY, {}))
    return executor(model, *args, **kwargs)


def _fold(batch: Tensor, num_conds: int) -> Tensor:
    return rearrange(batch, "(b t) c h w -> b c t h w", b=num_conds)


def _clip_axes(noise: Tensor) -> torch.Size:
    return noise.shape[:1] if noise.ndim == 4 else noise.shape[:1] + noise.shape[2:3]


def _describe(latents: Tensor) -> str:
    frames = latents.shape[0] if latents.ndim == 4 else latents.shape[2]
    height, width = latents.shape[-2:]
    return f"{frames} frames of {width}x{height} with {latents.shape[1]} channels"
