from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from video_deblur.restoration.denoising.windows import (
    Layout,
    crossfade_weights,
    fuse,
    split,
    split_evenly,
)

CUTS = [
    (n, s, o)
    for n in (1, 2, 7, 15, 16, 17, 33, 50)
    for s, o in ((16, 8), (5, 2), (2, 1), (4, 0))
]


@pytest.mark.parametrize(("length", "size", "overlap"), CUTS)
def test_spans_cover_everything_in_order_with_equal_size(length, size, overlap):
    spans = split(length, size, overlap)
    covered = {place for start, end in spans for place in range(start, end)}
    assert covered == set(range(length))
    assert {end - start for start, end in spans} == {min(size, length)}
    assert spans == sorted(set(spans))
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    for (_, end), (start, _) in pairwise(spans):
        assert end - start >= overlap


@pytest.mark.parametrize(("length", "size", "overlap"), [*CUTS, (180, 128, 16), (320, 128, 16)])
def test_even_spans_are_as_few_and_no_larger_than_needed(length, size, overlap):
    spans, plain = split_evenly(length, size, overlap), split(length, size, overlap)
    assert len(spans) == len(plain)
    assert (spans[0][0], spans[-1][1]) == (0, length)
    sides = {stop - start for start, stop in spans}
    assert len(sides) == 1
    side = sides.pop()
    shared = [one[1] - two[0] for one, two in pairwise(spans)]
    assert all(overlap <= each for each in shared)
    assert side <= min(size, length)
    assert set(shared[:-1]) <= {overlap}
    # Of the sizes that networks are aligned with, the next smaller one would leave a gap.
    assert side % 8 == 0 or side in (size, length)
    smaller = -(-side // 8) * 8 - 8
    assert len(spans) * smaller - (len(spans) - 1) * overlap < length


@pytest.mark.parametrize(("size", "overlap"), [(16, 8), (16, 4), (5, 2), (8, 1)])
def test_neighbouring_windows_sum_to_one(size, overlap):
    hop = size - overlap
    length = 3 * hop + size
    total = torch.zeros(length)
    for span in split(length, size, overlap):
        weights = crossfade_weights(span, (0, length), overlap)
        assert weights.shape == (size,)
        assert (weights > 0).all()
        total[slice(*span)] += weights
    torch.testing.assert_close(total, torch.ones(length))


def test_the_ends_of_the_clip_do_not_fade():
    whole = (0, 24)
    first, last = (crossfade_weights(span, whole, 8) for span in ((0, 16), (8, 24)))
    assert (first[:8] == 1).all()
    assert (last[8:] == 1).all()
    assert (first[8:].diff() < 0).all()
    assert (crossfade_weights((0, 5), (0, 5), 2) == 1).all()


@pytest.mark.parametrize("size", [(1, 3, 5), (2, 17, 11), (17, 9, 9), (33, 8, 20)])
@pytest.mark.parametrize(
    ("window", "overlap", "tile", "tile_overlap"),
    [(16, 8, 0, 0), (5, 2, 7, 3), (2, 1, 4, 2), (4, 0, 5, 0), (16, 3, 64, 16)],
)
def test_fusing_what_was_cut_changes_nothing(size, window, overlap, tile, tile_overlap):
    layout = Layout(window=window, overlap=overlap, tile=tile, tile_overlap=tile_overlap)
    latents = torch.randn(2, 3, *size)
    calls, seen = [], []

    def predict(piece):
        seen.append(piece)
        return piece.cut(latents)

    fused = fuse(predict, layout, latents, lambda: calls.append(len(seen)))
    torch.testing.assert_close(fused, latents, atol=1e-6, rtol=1e-6)
    assert calls == list(range(layout.count(*size)))
    for piece in seen:
        assert piece.frames[0] <= piece.centre_frame < piece.frames[1]


@pytest.mark.parametrize("cuts", [(1,), (6, 7), (3, 20, 32), (33, 40), (16,)])
def test_no_window_reaches_over_a_cut(cuts):
    layout = Layout(window=8, overlap=4, tile=0, tile_overlap=0, cuts=cuts)
    latents = torch.randn(1, 2, 33, 3, 3)
    pieces = list(layout.pieces(*latents.shape[2:]))
    for cut in cuts:
        assert not [piece for piece in pieces if piece.frames[0] < cut < piece.frames[1]]
    fused = fuse(lambda piece: piece.cut(latents), layout, latents)
    torch.testing.assert_close(fused, latents, atol=1e-6, rtol=1e-6)


def test_shots_are_fused_as_clips_of_their_own():
    layout = Layout(window=8, overlap=4, tile=0, tile_overlap=0)

    def predict(piece):
        frames = torch.arange(*piece.frames) - piece.shot[0]
        own = torch.full_like(frames, piece.frames[0] - piece.shot[0])
        return (frames + 0.1 * own)[None, None, :, None, None]

    def fused(num_frames, cuts=()):
        like = torch.zeros(1, 1, num_frames, 1, 1)
        return fuse(predict, dataclasses.replace(layout, cuts=cuts), like).flatten()

    apart = torch.cat([fused(count) for count in (13, 1, 19)])
    assert torch.equal(fused(33, (13, 14)), apart)


def test_pieces_fade_into_each_other():
    layout = Layout(window=4, overlap=2, tile=0, tile_overlap=0)
    like = torch.zeros(1, 1, 6, 1, 1)

    def predict(piece):
        return torch.full_like(piece.cut(like), float(piece.frames[0] > 0))

    assert fuse(predict, layout, like).flatten().tolist() == [0, 0, 0.25, 0.75, 1, 1]


def test_a_callback_that_raises_ends_the_work():
    layout = Layout(window=2, overlap=0, tile=0, tile_overlap=0)
    done = []

    def cancel():
        if len(done) == 2:
            raise KeyboardInterrupt

    def predict(piece):
        done.append(piece)
        return torch.zeros(1, 1, 2, 1, 1)

    with pytest.raises(KeyboardInterrupt):
        fuse(predict, layout, torch.zeros(1, 1, 10, 1, 1), cancel)
    assert len(done) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": 1, "overlap": 0}, "window must be at least 2 frames, got 1"),
        ({"overlap": 9}, "overlap must be between 0 and 8 for a window of 16 frames, got 9"),
        ({"overlap": -1}, "overlap must be between 0 and 8"),
        ({"tile": 8, "tile_overlap": 5}, "tile overlap must be between 0 and 4"),
    ],
)
def test_layouts_that_cannot_be_fused_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Layout(**{"window": 16, "overlap": 8, "tile": 0, "tile_overlap": 0, **values})
