"""How FSDP splits what is trained: in units, whose weights are gathered while they compute.

The units and the precision are set here whatever the launcher was told: a unit must be entered
through its `forward` alone, and losses must not depend on how weights are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..models.attention import Transformer
from ..models.autoencoder_kl import KlLevel, KlMiddle
from ..models.image_encoder import ResidualAttentionBlock
from ..models.layers import Downsample, ResnetBlock, TemporalConvLayer, Upsample
from ..models.temporal_attention import WindowAttention

if TYPE_CHECKING:
    from accelerate import Accelerator

UNITS = (
    Downsample,
    KlLevel,
    KlMiddle,
    ResidualAttentionBlock,
    ResnetBlock,
    TemporalConvLayer,
    Transformer,
    Upsample,
    WindowAttention,
)
"""At full size 50 million weights at most, where a level of the UNet has up to 428 million; and
what is left over, which stays gathered from the way there to the way back, 10 million."""


def is_split(accelerator: Accelerator) -> bool:
    """Tell whether FSDP splits the weights."""
    return str(accelerator.distributed_type) == "DistributedType.FSDP"


def choose_units(accelerator: Accelerator, module: nn.Module) -> None:
    """Have `accelerator.prepare` split a module in units; called before it, for each module.

    Raises:
        ValueError: If the launcher asked for what cannot work.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    plugin = accelerator.state.fsdp_plugin
    assert plugin is not None
    if plugin.fsdp_version != 2:
        raise ValueError("FSDP 1 keeps no single weights: add --fsdp_version 2")
    if plugin.activation_checkpointing:
        raise ValueError(
            "--fsdp_activation_checkpointing renames weights: leave it out, and set "
            '"gradient_checkpointing" in the stages of the preset'
        )
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    # Of those, accelerate refuses names that the module does not have.
    plugin.transformer_cls_names_to_wrap = sorted(
        {type(part).__name__ for part in module.modules() if isinstance(part, UNITS)}
    )
    # accelerate's own choice rounds clips on the way in and losses on the way out to bfloat16.
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if accelerator.mixed_precision == "bf16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )


def let_go(module: nn.Module) -> None:
    """Drop gathered weights.

    What is left over from the units stays gathered after a forward pass, for the way back;
    without one the next update would compute with it, whatever its weights are by then.
    """
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
