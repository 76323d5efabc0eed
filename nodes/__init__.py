"""The nodes of the extension."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .borrow import Borrow
from .checkpoint import LoadCheckpoint
from .clip import Deblur, DeblurVideo
from .compare import Compare, MeasureRestoration
from .decode import DecodeLatents
from .encode import EncodeFrames
from .example import ExampleClip
from .measure import MeasureBlur
from .priors import ShowCodingPriors
from .sample import Sample
from .synthesize import SynthesizeBlur
from .temporary import remove_leftovers


class VideoDeblurExtension(ComfyExtension):
    """What `comfy_entrypoint` hands to ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes; ComfyUI asks once, when it starts."""
        remove_leftovers()
        return [
            LoadCheckpoint,
            EncodeFrames,
            Sample,
            DecodeLatents,
            Deblur,
            DeblurVideo,
            MeasureBlur,
            Borrow,
            ExampleClip,
            Compare,
            MeasureRestoration,
            SynthesizeBlur,
            ShowCodingPriors,
        ]
