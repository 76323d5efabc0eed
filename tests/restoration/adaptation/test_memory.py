from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.divd import Divd
from video_deblur.restoration.adaptation.learners import make_learner
from video_deblur.restoration.adaptation.memory import adaptation_bytes
from video_deblur.restoration.adaptation.settings import AdaptationSettings

from ...conftest import SMALL_CONFIG, SMALL_CPGD_CONFIG

SETTINGS = AdaptationSettings(clips=1, frames=4, crop=64)


@pytest.mark.parametrize(
    "network", [Cpgd(SMALL_CPGD_CONFIG), Divd(SMALL_CONFIG)], ids=["CPGD-Net", "DIVD"]
)
def test_the_estimate_holds_what_is_kept_for_gradients(network):
    learner = make_learner(network)
    own = {each.untyped_storage().data_ptr() for each in learner.network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    video = torch.rand(1, 3, SETTINGS.frames, SETTINGS.crop, SETTINGS.crop) * 2 - 1
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learner.restored(video, torch.Generator())
    estimate = adaptation_bytes(network, SETTINGS)
    assert sum(kept.values()) < estimate < 5 * sum(kept.values())
    larger = adaptation_bytes(network, dataclasses.replace(SETTINGS, clips=2))
    assert larger - estimate > sum(kept.values())
