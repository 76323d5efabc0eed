"""Small networks of diffusers and open_clip, and files of their weights."""

from __future__ import annotations

import pytest
import torch

from . import published


@pytest.fixture(scope="session")
def reference_unet():
    return published.small_unet()


@pytest.fixture(scope="session")
def reference_autoencoder():
    return published.small_autoencoder()


@pytest.fixture(scope="session")
def reference_clip():
    return published.small_clip()


@pytest.fixture(scope="session")
def files(tmp_path_factory, reference_unet, reference_autoencoder, reference_clip):
    """Files that fit together: `modelscope`, `tf_t2v`, `vae`, `clip`."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    return published.write_files(folder, reference_unet, reference_autoencoder, reference_clip)
