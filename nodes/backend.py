"""What ComfyUI's internals need to run our networks.

The UNet becomes a native MODEL (`denoiser`), the autoencoder a native VAE (`vae`), and the
encoders one object with a ModelPatcher (`memory`); ComfyUI decides where weights live. These
four files know its internals; differences between its versions are absorbed in them.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import av
import comfy.model_management
import comfy.ops
import comfy.patcher_extension
import latent_preview
import numpy as np
import torch
from comfy_api.latest import InputImpl, io
from torch import Tensor, nn

from ..models.autoencoder import make_encoder
from ..models.checkpoint import CheckpointError, CheckpointInfo, load_state_dict
from ..models.config import DivdConfig
from ..models.hardware import choose_dtype, decode_bytes
from ..models.image_encoder import ImageEncoder
from ..restoration.clip import ClipRestorer
from ..restoration.denoising.coding import pixels_at_once
from ..restoration.diffusion import Deblurrer
from ..restoration.engine import Engine
from ..restoration.feed_forward import FeedForward, network_pixels
from ..restoration.settings import RestorationSettings
from .denoiser import OPTIONS_KEY, DeblurModelConfig, begin_sampling
from .memory import make_patcher
from .vae import AssembledDivd, DeblurVae, build_vae, part_of

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


def make_schema(found_by: str = "", **fields: Any) -> io.Schema:
    """Build a node schema, leaving out fields that this ComfyUI does not have yet.

    Args:
        found_by: Words that stand behind the display name where the schema has no
            `search_aliases`. Such a version searches ids and display names alone, and of
            these the first 30 characters.
        **fields: Of `io.Schema`, of any version.
    """
    known = {field.name for field in dataclasses.fields(io.Schema)}
    if found_by and "search_aliases" not in known:
        fields["display_name"] += f" ({found_by})"
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


def advanced(input_class: Any) -> dict[str, Any]:
    """Return the argument that folds a less used widget away, where this ComfyUI has it."""
    known = inspect.signature(input_class.__init__).parameters
    return {"advanced": True} if "advanced" in known else {}


def trim_window(video: Any) -> tuple[float, float]:
    """Return what a VIDEO shows of its file: start and duration, in seconds; 0: to its end."""
    if hasattr(video, "get_active_trim_window"):
        start_s, duration_s = video.get_active_trim_window()
    else:
        # The first versions with Trim Video tell nobody. 0.3.64 has nothing to tell.
        start_s = getattr(video, "_VideoFromFile__start_time", 0.0)
        duration_s = getattr(video, "_VideoFromFile__duration", 0.0)
        if start_s < 0:
            length_s = InputImpl.VideoFromFile(video.get_stream_source()).get_duration()
            start_s = max(length_s + start_s, 0.0)
    return float(start_s), float(duration_s)


def has_other_frames(video: Any) -> bool:
    """Tell whether a VIDEO's frames are not those of its file, a trimmed one's aside."""
    if isinstance(video, InputImpl.VideoFromComponents):
        return True
    if hasattr(video, "has_pending_frame_edits"):
        edited = video.has_pending_frame_edits()
    else:
        # Some versions crop and do not say so.
        edited = hasattr(video, "as_cropped") and _differs_in_size(video)
    # Several files in a row, which only their encoded copy joins.
    pieces = getattr(video, "videos", ())
    return edited or any(any(trim_window(piece)) for piece in pieces)


def _differs_in_size(video: Any) -> bool:
    with av.open(video.get_stream_source()) as container:
        stream = container.streams.video[0]
        return video.get_dimensions() != (stream.width, stream.height)


def picture(frame: np.ndarray) -> Any:
    """Make a preview picture of a frame `[H, W, 3]`, float32 in 0..1."""
    # Newer versions can leave the range alone; older ones take -1..1 only.
    return latent_preview.preview_to_image(torch.from_numpy(frame) * 2 - 1)


def show_text(node_id: str, text: str) -> None:
    """Show a line of text on a node that runs, where the page has room for it."""
    # Loaded wherever there is a page; importing it here would start half a server.
    module: Any = sys.modules.get("server")
    instance: Any = getattr(getattr(module, "PromptServer", None), "instance", None)
    if hasattr(instance, "send_progress_text"):
        instance.send_progress_text(text, node_id)


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

    reads_priors: ClassVar[bool] = False
    """Whether its results depend on coding priors."""

    def patchers(self) -> list[Any]:
        """Return what must be loaded to restore frames."""
        return [self.model, self.vae.patcher, self.encoder]

    def memory_bytes(
        self,
        settings: RestorationSettings,
        height: int,
        width: int,
        num_frames: int | None = None,
    ) -> float:
        """Return the working memory of `engine()` on frames of this size, in bytes.

        Args:
            settings: What the user chose.
            height: Of the frames, in pixels.
            width: Of the frames, in pixels.
            num_frames: Of a clip that is restored at once; None: in segments.
        """
        config = self.config.autoencoder
        size = (-(-height // config.downscale), -(-width // config.downscale))
        window = min(settings.window, num_frames or settings.window)
        shape = [window, config.latent_channels, *size]
        pixels = pixels_at_once(config, window, height, width)
        layout = {name: getattr(settings, name) for name in ("window", "overlap", "tile")}
        return max(self.model.model.memory_bytes(shape, layout), decode_bytes(config, pixels))

    def check_devices(self) -> None:
        """Raise ValueError if ComfyUI keeps what `engine()` needs on different devices."""
        if self.vae.patcher.load_device != self.model.load_device:
            raise ValueError(
                "Deblur Video needs the VAE on the same device as the model. Start ComfyUI "
                "without --cpu-vae, or use Deblur Frames."
            )

    def engine(self) -> Engine:
        """Return the library's engine on these networks; load `patchers()` before use.

        Raises:
            ValueError: See `check_devices`.
        """
        self.check_devices()
        device = self.model.load_device
        divd = AssembledDivd(
            self.config,
            unet=self.model.model.diffusion_model,
            autoencoder=self.vae.first_stage_model,
            blur_encoder=self.encoder.model.blur_encoder,
            image_encoder=self.encoder.model.image_encoder,
        )
        model = self.model.model
        return Deblurrer(divd, device, model.manual_cast_dtype or model.get_dtype())


@dataclass(frozen=True, eq=False)
class LoadedFeedForward:
    """A network without a sampler, for the nodes that restore frames by themselves."""

    config: Any
    """Of the checkpoint."""
    network: Any
    """A ModelPatcher around it."""

    @property
    def reads_priors(self) -> bool:
        """Whether its results depend on coding priors."""
        return False

    def patchers(self) -> list[Any]:
        """Return what must be loaded to restore frames."""
        return [self.network]

    def memory_bytes(
        self,
        settings: RestorationSettings,
        height: int,
        width: int,
        num_frames: int | None = None,
    ) -> float:
        """See `LoadedCheckpoint`."""
        model = self.network.model
        return model.bytes_per_pixel * network_pixels(model, settings, height, width)

    def check_devices(self) -> None:
        """See `LoadedCheckpoint`: one network is on one device."""

    def engine(self) -> Engine:
        """Return the library's engine on this network; load `patchers()` before use."""
        device = self.network.load_device
        return FeedForward(self.network.model, device, choose_dtype("auto", device))


class LoadedClipNetwork(LoadedFeedForward):
    """The same of a network that restores windows of a clip."""

    @property
    def reads_priors(self) -> bool:
        """See `LoadedFeedForward`."""
        return self.config.reads_priors

    def memory_bytes(
        self,
        settings: RestorationSettings,
        height: int,
        width: int,
        num_frames: int | None = None,
    ) -> float:
        """See `LoadedCheckpoint`."""
        return self.engine().memory_bytes(settings, height, width, num_frames)

    def engine(self) -> ClipRestorer:
        """See `LoadedFeedForward`."""
        device = self.network.load_device
        return ClipRestorer(self.network.model, device, choose_dtype("auto", device))


def refuse_without_sampler(info: CheckpointInfo) -> None:
    """Raise CheckpointError if a checkpoint holds a network that no sampler node runs."""
    if info.architecture.kind != "diffusion":
        raise CheckpointError(
            f"{info.path}: holds {info.architecture.described}: sampler nodes cannot run it. "
            f"Use it in Deblur Frames or Deblur Video, or with `video-deblur run --checkpoint`."
        )


def build_checkpoint(
    info: CheckpointInfo, dtype: str, weights: dict[str, Tensor] | None = None
) -> LoadedCheckpoint | LoadedFeedForward:
    """Build what a checkpoint holds and load its weights.

    Args:
        info: Header of the checkpoint, checked.
        dtype: One of `DTYPE_NAMES`, for the UNet.
        weights: Others of the same network; None: those of the file.

    Raises:
        CheckpointError: If a weight is not finite or the file cannot be read.
    """
    state_dict = load_state_dict(info) if weights is None else weights
    if info.architecture.kind == "feed_forward":
        network = _build_without_sampler(info, torch.float32, state_dict)
        return LoadedFeedForward(config=info.config, network=network)
    if info.architecture.kind == "clip":
        kept = choose_dtype("auto", comfy.model_management.get_torch_device())
        network = _build_without_sampler(info, kept, state_dict)
        return LoadedClipNetwork(config=info.config, network=network)
    return LoadedCheckpoint(
        config=info.config,
        model=_build_model(info, part_of(state_dict, "unet."), dtype),
        vae=build_vae(info.config, state_dict),
        encoder=_build_encoder(info.config, state_dict),
    )


def _build_without_sampler(
    info: CheckpointInfo, dtype: torch.dtype, state_dict: dict[str, Tensor]
) -> Any:
    """Build a network in a dtype, but the parts that read or make pixels in float32."""
    offload_device = comfy.model_management.unet_offload_device()
    network = info.architecture.build(
        info.config,
        device=offload_device,
        dtype=dtype,
        operations=comfy.ops.disable_weight_init,
    )
    for name, parameter in network.named_parameters():
        if name.startswith(info.architecture.pixel_prefixes):
            parameter.data = parameter.data.float()
    network.load_state_dict(state_dict, strict=True)
    network.eval().requires_grad_(False)
    return make_patcher(network, comfy.model_management.get_torch_device(), offload_device)


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
        begin_sampling,
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
