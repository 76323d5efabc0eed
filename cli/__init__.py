"""The `video-deblur` command: one file for each group of sub-commands."""

from .main import main

__all__ = ["main"]
