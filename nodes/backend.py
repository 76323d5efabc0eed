"""What ComfyUI's internals need to run our networks.

The UNet becomes a native MODEL, the autoencoder a native VAE (`vae`), and the encoders one
object with a ModelPatcher (`memory`); ComfyUI decides where weights live. These three files
know its internals. Differences between its versions are absorbed in `memory` and here: run
with 0.3.64, newer ones from their source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.sd
import comfy.supported_models_base
import comfy.taesd.taesd
import torch
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor, nn

from ..models.autoencoder import (
    denormalise_latents,
    make_encoder,
    normalise_latents,
)
from ..models.checkpoint import CheckpointError, CheckpointInfo, load_state_dict
from ..models.config import AutoencoderConfig, DivdConfig
from ..models.hardware import UNET_BYTES, memory_bytes, unet_width
from ..models.image_encoder import ImageEncoder
from ..models.unet3d import UNet3D
from ..restoration.denoising.layout import halve, is_out_of_memory, make_layout
from ..restoration.denoising.windows import Layout, Piece, fuse
from ..restoration.engine import Deblurrer
from .memory import make_patcher, memory_usage_factor
from .vae import AssembledDivd, DeblurVae, build_vae, part_of

CUTS_KEY = "video_deblur_cuts"
"""Our entry in CONDITIONING: the frames that start a new shot, for the windows."""

OPTIONS_KEY = "video_deblur"
"""Our entry in `transformer_options` (run-time settings) and in LATENT (see `encode`)."""

CATEGORY = "video/deblur"

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
DTYPE_NAMES = ("auto", *_DTYPES)
"""Choices of the dtype that the UNet is stored in, and computed in where the device can."""

DeblurEncoderType = io.Custom("DEBLUR_ENCODER")
"""Socket type of `DeblurEncoder`."""


def make_schema(**fields: Any) -> io.Schema:
    """Build a node schema, leaving out fields that this ComfyUI does not have yet."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


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
        self.memory_usage_factor = memory_usage_factor(config.unet)
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
            return super(DeblurModel, self).apply_model(
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
        layout = self._fitting.get(key, wanted)
        report = settings.get("on_piece")
        while True:
            total = layout.count(*volume.shape[2:])
            done = 0

            def before_piece(total: int = total) -> None:
                nonlocal done
                comfy.model_management.throw_exception_if_processing_interrupted()
                if report is not None:
                    report(done, total)
                done += 1

            try:
                return fuse(predict, layout, volume, before_piece)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                smaller = halve(
                    layout, tuple(volume.shape[2:]), self.deblur_config.autoencoder.downscale
                )
                if smaller is None:
                    raise
            # Outside the handler: the exception holds the failed attempt's tensors.
            layout = self._fitting[key] = smaller

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
        """Return the bytes of one window of one tile, for at most two conditions."""
        frames = input_shape[0] if len(input_shape) == 4 else input_shape[0] * input_shape[2]
        height, width = input_shape[-2:]
        layout = self.layout(height, width)
        positions = min(layout.tile or height, height) * min(layout.tile or width, width)
        dtype = self.manual_cast_dtype or self.get_dtype()
        channels = unet_width(self.deblur_config.unet)
        positions *= min(frames, 2 * layout.window)
        return memory_bytes(UNET_BYTES, channels, positions, dtype)


def _refuse_context_windows(executor: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Stop before sampling where ComfyUI would cut the clip as well.

    Its windows slice neither our conditioning nor, before 0.12, frames in the batch axis.
    """
    options = kwargs.get("model_options") or model.model_options
    if options.get("context_handler") is not None:
        raise ValueError(
            "model already cuts clips into windows: take the Context Windows node out, and set "
            "window and overlap in Sample Deblurred Latents instead"
        )
    return executor(model, *args, **kwargs)


_WRONG_CONDITIONING = (
    "positive and negative must come from Encode Blurry Frames: the conditioning has no blur "
    "latents or image tokens of this checkpoint"
)


class DeblurEncoder(nn.Module):
    """The image encoders behind DEBLUR_ENCODER, in float32, and the patcher around them."""

    def __init__(self, config: DivdConfig, *, device: Any, operations: Any) -> None:
        super().__init__()
        make = {"device": device, "dtype": torch.float32, "operations": operations}
        self.config = config
        self.blur_encoder = make_encoder(config.autoencoder, **make)
        self.sharp_encoder = make_encoder(config.autoencoder, **make)
        self.image_encoder = ImageEncoder(config.image_encoder, **make)


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """A checkpoint as ComfyUI's nodes pass it around."""

    config: DivdConfig
    """Of the checkpoint."""
    model: Any
    """MODEL: a ModelPatcher around `DeblurModel`."""
    vae: DeblurVae
    """VAE."""
    encoder: Any
    """DEBLUR_ENCODER: a ModelPatcher around `DeblurEncoder`."""

    def patchers(self) -> list[Any]:
        """Return what must be loaded to restore frames."""
        return [self.model, self.vae.patcher, self.encoder]

    def deblurrer(self) -> Deblurrer:
        """Return the library's engine on these networks; load `patchers()` before use.

        Raises:
            ValueError: If ComfyUI keeps the parts on different devices.
        """
        device = self.model.load_device
        if self.vae.patcher.load_device != device:
            raise ValueError(
                "Deblur Video needs the VAE on the same device as the model. Start ComfyUI "
                "without --cpu-vae, or use the Deblur node."
            )
        divd = AssembledDivd(
            self.config,
            unet=self.model.model.diffusion_model,
            autoencoder=self.vae.first_stage_model,
            blur_encoder=self.encoder.model.blur_encoder,
            image_encoder=self.encoder.model.image_encoder,
        )
        model = self.model.model
        return Deblurrer(divd, device, model.manual_cast_dtype or model.get_dtype())


def build_checkpoint(info: CheckpointInfo, dtype: str) -> LoadedCheckpoint:
    """Build MODEL, VAE and DEBLUR_ENCODER and load their weights.

    Args:
        info: Header of the checkpoint, checked.
        dtype: One of `DTYPE_NAMES`, for the UNet.

    Raises:
        CheckpointError: If it holds a network that no sampler runs, a weight is not finite or
            the file cannot be read.
    """
    if info.architecture.kind != "diffusion":
        raise CheckpointError(
            f"{info.path}: holds {info.architecture.described}: it has no sampler. Use it in "
            f"Deblur Frames or Deblur Video, or with `video-deblur run --checkpoint`."
        )
    state_dict = load_state_dict(info)
    return LoadedCheckpoint(
        config=info.config,
        model=_build_model(info, part_of(state_dict, "unet."), dtype),
        vae=build_vae(info.config, state_dict),
        encoder=_build_encoder(info.config, state_dict),
    )


def _build_model(info: CheckpointInfo, state_dict: dict[str, Tensor], dtype: str) -> Any:
    manage = comfy.model_management
    model_config = DeblurModelConfig(info.config)
    supported = model_config.supported_inference_dtypes
    count = sum(math.prod(tensor.shape) for tensor in state_dict.values())
    weight_dtype = _DTYPES.get(dtype) or manage.unet_dtype(
        model_params=count, supported_dtypes=supported, weight_dtype=info.dtype
    )
    device = manage.get_torch_device()
    cast_dtype = manage.unet_manual_cast(weight_dtype, device, supported)
    model_config.set_inference_dtype(weight_dtype, cast_dtype)
    model = model_config.get_model(state_dict, device=manage.unet_offload_device())
    model.eval().requires_grad_(False)
    patcher = make_patcher(model, device, manage.unet_offload_device())
    patcher.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING,
        OPTIONS_KEY,
        _refuse_context_windows,
    )
    # Newer versions map weights instead of copying them where the patcher is dynamic.
    is_dynamic = getattr(patcher, "is_dynamic", lambda: False)()
    model.load_model_weights(state_dict, "", **({"assign": True} if is_dynamic else {}))
    return patcher


def _build_encoder(config: DivdConfig, state_dict: dict[str, Tensor]) -> Any:
    offload_device = comfy.model_management.unet_offload_device()
    network = DeblurEncoder(
        config, device=offload_device, operations=comfy.ops.disable_weight_init
    )
    for module, prefix in (
        (network.blur_encoder, "blur_encoder."),
        (network.sharp_encoder, "autoencoder.encoder."),
        (network.image_encoder, "image_encoder."),
    ):
        module.load_state_dict(part_of(state_dict, prefix), strict=True)
    network.eval().requires_grad_(False)
    return make_patcher(network, comfy.model_management.get_torch_device(), offload_device)


def _fold(batch: Tensor, num_conds: int) -> Tensor:
    return rearrange(batch, "(b t) c h w -> b c t h w", b=num_conds)


def _clip_axes(noise: Tensor) -> torch.Size:
    return noise.shape[:1] if noise.ndim == 4 else noise.shape[:1] + noise.shape[2:3]


def _describe(latents: Tensor) -> str:
    frames = latents.shape[0] if latents.ndim == 4 else latents.shape[2]
    height, width = latents.shape[-2:]
    return f"{frames} frames of {width}x{height} with {latents.shape[1]} channels"
