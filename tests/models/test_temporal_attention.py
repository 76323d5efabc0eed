from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from video_deblur.models.temporal_attention import (
    WindowAttention,
    merge,
    partition,
    relative_position_index,
    window_and_shift,
    window_mask,
)

SIZES = [(5, 7, 9), (4, 4, 4), (3, 2, 1), (8, 5, 4), (1, 1, 1), (9, 4, 6)]
WINDOWS = [(4, 4, 4), (2, 3, 5), (8, 8, 8)]


def make_attention(window, shifted, channels=8, head_dim=4, **options):
    module = WindowAttention(
        channels,
        head_dim,
        window,
        shifted,
        "channel",
        1,
        device=None,
        dtype=torch.float64,
        operations=nn,
        **options,
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return module.eval().requires_grad_(False)


def coordinates(size):
    return list(itertools.product(*(range(extent) for extent in size)))


def naive_attend(module, x, num_frames):
    """Attention as loops over positions: no padding, rolling, masks or index tables."""
    batch = x.shape[0] // num_frames
    volume = x.unflatten(0, (batch, num_frames)).movedim(2, -1)
    size = tuple(volume.shape[1:4])
    window, shift = window_and_shift(size, module.window, module.shifted)
    heads, dim = module.relative_position.weight.shape[1], module.head_dim
    spans = [2 * extent - 1 for extent in module.window]
    table = module.relative_position.weight.reshape(*spans, heads)
    qkv = module.to_qkv(volume)
    out = torch.zeros_like(volume)

    def cell(place):
        return [(p - s) // w for p, s, w in zip(place, shift, window, strict=True)]

    for b in range(batch):
        for query in coordinates(size):
            seen = [key for key in coordinates(size) if cell(key) == cell(query)]
            for head in range(heads):
                part = slice(head * dim, (head + 1) * dim)
                q, k, v = (x[..., part] for x in qkv[b].chunk(3, dim=-1))
                scores = []
                for key in seen:
                    offset = tuple(
                        a - c + w - 1 for a, c, w in zip(query, key, module.window, strict=True)
                    )
                    dot = (q[query] * k[key]).sum() / math.sqrt(dim)
                    scores.append(dot + table[offset][head])
                weights = torch.stack(scores).softmax(0)
                values = torch.stack([v[key] for key in seen])
                out[b][query][part] = (weights[:, None] * values).sum(0)
    return module.to_out(out).movedim(-1, 2).flatten(0, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("shifted", [False, True])
def test_merge_undoes_partition(size, window, shifted):
    window, shift = window_and_shift(size, window, shifted)
    volume = torch.randn(2, *size, 3)
    tokens, padded = partition(volume, window, shift)
    assert tokens.shape[1] == math.prod(window)
    assert tokens.shape[0] * tokens.shape[1] == 2 * math.prod(padded)
    torch.testing.assert_close(merge(tokens, window, shift, padded, size), volume)


def test_windows_shrink_to_the_volume_and_shift_only_where_there_are_several():
    assert window_and_shift((3, 20, 8), (8, 8, 8), True) == ((3, 8, 8), (0, 4, 0))
    assert window_and_shift((3, 20, 8), (8, 8, 8), False) == ((3, 8, 8), (0, 0, 0))


@pytest.mark.parametrize(
    ("window", "table"),
    [((2, 3, 4), (2, 3, 4)), ((1, 2, 3), (4, 2, 5)), ((1, 1, 1), (8, 8, 8))],
)
def test_the_bias_index_names_each_offset_once(window, table):
    index = relative_position_index(window, table, torch.device("cpu"))
    spans = [2 * extent - 1 for extent in table]
    places = coordinates(window)
    expected = []
    for query, key in itertools.product(places, places):
        dt, dy, dx = (a - b + w - 1 for a, b, w in zip(query, key, table, strict=True))
        expected.append((dt * spans[1] + dy) * spans[2] + dx)
    assert index.tolist() == expected
    assert int(index.min()) >= 0
    assert int(index.max()) < math.prod(spans)


@pytest.mark.parametrize(
    ("size", "window", "shifted"),
    [
        ((3, 5, 4), (2, 4, 4), False),
        ((3, 5, 4), (2, 2, 3), True),
        ((5, 5, 1), (4, 4, 4), True),
        ((2, 3, 3), (8, 8, 8), True),
    ],
)
def test_window_attention_equals_loops_over_positions(size, window, shifted, assert_same):
    module = make_attention(window, shifted)
    x = torch.randn(2 * size[0], 8, *size[1:], dtype=torch.float64)
    assert_same(module._attend(x, size[0]), naive_attend(module, x, size[0]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", WINDOWS)
def test_masks_leave_every_token_at_least_itself(size, window):
    window, shift = window_and_shift(size, window, True)
    mask = window_mask(size, window, shift, torch.device("cpu"))
    if mask is None:
        assert not any(shift)
        assert all(s % w == 0 for s, w in zip(size, window, strict=True))
        return
    assert (mask.diagonal(dim1=1, dim2=2) == 0).all()
    assert torch.equal(mask, mask.mT)


def test_tokens_never_see_what_a_shift_wrapped_around():
    # 8 wide, windows of 4 shifted by 2: the cells are 0-1, 2-5, 6-7.
    module = make_attention((1, 1, 4), True)
    x = torch.randn(1, 8, 1, 8, dtype=torch.float64)
    out = module(x, 1)
    for changed, cell in [(0, (0, 2)), (7, (6, 8)), (3, (2, 6))]:
        other = x.clone()
        # Not one number for all channels: the norm would take it out again.
        other[..., changed] += torch.randn(1, 8, 1, dtype=torch.float64)
        moved = (module(other, 1) - out).abs().amax(dim=(0, 1, 2)) > 1e-12
        assert moved.nonzero().flatten().tolist() == list(range(*cell))


@pytest.mark.parametrize("shifted", [False, True])
def test_padding_is_never_seen(shifted, monkeypatch, assert_same):
    from video_deblur.models import temporal_attention

    module = make_attention((4, 4, 4), shifted)
    x = torch.randn(5, 8, 6, 7, dtype=torch.float64)
    out = module(x, 5)
    pad = temporal_attention.F.pad

    def pad_with_junk(volume, pads):
        return pad(volume, pads, value=123.0)

    monkeypatch.setattr(temporal_attention.F, "pad", pad_with_junk)
    assert_same(module(x, 5), out)


def test_window_attention_starts_as_the_identity():
    module = WindowAttention(
        8, 4, (4, 4, 4), True, "group", 2, device=None, dtype=None, operations=nn
    )
    x = torch.randn(10, 8, 6, 7)
    torch.testing.assert_close(module(x, 5), x, atol=0, rtol=0)


def test_a_place_that_moved_inside_the_window_is_found():
    module = make_attention((4, 4, 4), False)
    x = torch.randn(4, 8, 4, 4, dtype=torch.float64)
    out = module(x, 4)
    # Another frame, another place: frame attention would not see it.
    moved = x.clone()
    moved[3, :, 3, 3], moved[3, :, 3, 0] = x[3, :, 3, 0], x[3, :, 3, 3]
    assert (module(moved, 4) - out)[0, :, 0, 0].abs().max() > 1e-6


def test_without_relative_positions_places_of_a_window_are_alike():
    def swapped(module):
        x = torch.randn(
            4, 8, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        moved = x.clone()
        moved[3, :, 3, 3], moved[3, :, 3, 0] = x[3, :, 3, 0], x[3, :, 3, 3]
        return (module(moved, 4) - module(x, 4))[0, :, 0, 0].abs().max()

    assert swapped(make_attention((4, 4, 4), False, relative_positions=False)) < 1e-12
    assert swapped(make_attention((4, 4, 4), False)) > 1e-6


def test_without_relative_positions_what_a_shift_wrapped_around_stays_hidden():
    # The window at the far end holds rows 5 and 6, and after the roll rows 0 and 1.
    module = make_attention((1, 4, 4), True, relative_positions=False)
    x = torch.randn(1, 8, 7, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, :, 0] += 1
    difference = (module(changed, 1) - module(x, 1)).abs().amax(dim=(0, 1, 3))
    assert difference[0] > 1e-6
    assert difference[5:].max() == 0


def test_clips_in_a_batch_stay_apart(assert_same):
    module = make_attention((2, 4, 4), True)
    x = torch.randn(6, 8, 5, 6, dtype=torch.float64)
    whole = module(x, 3)
    assert_same(module(x[3:], 3), whole[3:])


def test_training_goes_on_after_a_restoration_filled_the_caches():
    module = make_attention((3, 3, 3), True).requires_grad_(True)
    x = torch.randn(5, 8, 5, 5, dtype=torch.float64)
    relative_position_index.cache_clear()
    window_mask.cache_clear()
    with torch.inference_mode():
        module(x, 5)
    module(x, 5).square().mean().backward()
    assert module.relative_position.weight.grad.abs().max() > 0
