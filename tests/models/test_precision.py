from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from video_deblur.models import precision
from video_deblur.models.precision import exact_float32


class RaisedError(Exception):
    pass


def current():
    return [getattr(owner, name) for owner, name, _ in precision._settings()]


def test_float32_is_exact_inside_and_as_it_was_after():
    before = current()
    # PyTorch's default: convolutions on CUDA are not.
    assert before[0] in ("tf32", True)
    with exact_float32():
        assert set(current()) in ({"ieee"}, {False})
        with exact_float32():
            pass
        assert set(current()) in ({"ieee"}, {False})
    assert current() == before
    with pytest.raises(RaisedError), exact_float32():
        raise RaisedError
    assert current() == before


@pytest.mark.parametrize(
    "settings",
    [
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
        lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    ],
)
def test_what_others_set_is_read_as_before(settings):
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    reset = (convolutions.allow_tf32, products.allow_tf32)
    try:
        settings()
        expected = (convolutions.allow_tf32, products.allow_tf32)
        with exact_float32():
            pass
        assert (convolutions.allow_tf32, products.allow_tf32) == expected
    finally:
        convolutions.allow_tf32, products.allow_tf32 = reset


def test_the_switches_of_older_versions_are_turned(monkeypatch):
    backends = SimpleNamespace(
        cudnn=SimpleNamespace(allow_tf32=True),
        cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)),
    )
    monkeypatch.setattr(precision.torch, "backends", backends)
    with exact_float32():
        assert current() == [False, False]
    assert current() == [True, False]


def test_the_model_encodes_and_decodes_exactly(small_model):
    seen = []
    for part in (small_model.autoencoder, small_model.blur_encoder):
        for module in part.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda *call: seen.append(current()))
    blurry = torch.rand(1, 3, 2, 16, 16)
    before = current()
    small_model.encode_blur(blurry)
    small_model.decode_restored(small_model.encode_sharp(blurry), blurry)
    assert len(seen) > 8
    with exact_float32():
        assert all(settings == current() for settings in seen)
    assert current() == before
