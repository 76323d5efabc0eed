"""Orientations are told apart on latents whose structure is known."""

from __future__ import annotations

import pytest
import torch
from video_deblur.benchmarks.latent_orientation import likenesses


def test_latents_are_like_themselves_and_unlike_themselves_turned():
    latents = torch.zeros(1, 2, 8, 8)
    latents[:, :, 0, :] = 1  # Bright at the top: like itself mirrored left to right alone.
    latents[:, :, 0, 0] = 9
    upright, turned = likenesses(latents, latents)
    assert upright == pytest.approx(1, abs=1e-5)
    assert turned < 0.5
    assert likenesses(latents.flip(-1), latents)[0] < 0.5
    assert likenesses(latents.flip(-1), latents)[1] == pytest.approx(1, abs=1e-5)
