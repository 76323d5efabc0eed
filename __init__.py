"""Video Deblur: removes motion blur, with small trained networks and a latent diffusion model.

This folder is both a ComfyUI extension (a clone under `custom_nodes/`) and the Python
package `video_deblur`. Nothing heavy is imported here, so that ComfyUI starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

__version__ = "0.2.0"

WEB_DIRECTORY = "./web"
"""Folder whose `docs/` holds the help page of each node."""


async def comfy_entrypoint() -> ComfyExtension:
    """Return the extension's nodes; ComfyUI calls this once at start-up."""
    try:
        from .nodes import VideoDeblurExtension
    except Exception:
        # ComfyUI prints only str(error); the traceback is what a bug report needs.
        import logging

        logging.getLogger(__name__).exception("Video Deblur could not be loaded")
        raise
    return VideoDeblurExtension()
