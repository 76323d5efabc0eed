from __future__ import annotations

import pytest
import torch
from video_deblur.models.cpgd_priors import (
    ClipPriors,
    check_priors,
    make_links,
    pool_priors,
    residual_attention,
)


def moving(num_frames=4, x=-2.0, height=6, width=8):
    """Priors of a clip in which all moves; the first frame has none before it."""
    motion = torch.zeros(1, 2, num_frames, height, width)
    motion[:, 0, 1:] = x
    valid = torch.ones(1, 1, num_frames, height, width)
    valid[:, :, 0] = 0
    return ClipPriors(motion, torch.rand(1, 1, num_frames, height, width), valid)


def test_motion_in_pixels_becomes_motion_in_positions():
    motion = torch.zeros(2, 2, 8, 12)
    motion[1, 0], motion[1, 1] = 6, -8
    valid = torch.ones(2, 1, 8, 12, dtype=torch.bool)
    # Half of the pixels of one position know nothing: the others speak for it.
    valid[1, :, :4, 2:4] = False
    motion[1, :, :4, 2:4] = 0
    pooled = pool_priors(motion, torch.zeros(2, 1, 8, 12), valid)
    assert pooled.motion.shape == (2, 2, 2, 3)
    torch.testing.assert_close(pooled.motion[1, 0], torch.full((2, 3), 1.5))
    torch.testing.assert_close(pooled.motion[1, 1], torch.full((2, 3), -2.0))
    assert pooled.valid[1].flatten().tolist() == [0.5, 1, 1, 1, 1, 1]


def test_sides_that_are_no_multiple_of_four_are_rounded_up():
    pooled = pool_priors(*(torch.ones(3, channels, 9, 5) for channels in (2, 1, 1)))
    assert [tuple(part.shape) for part in pooled] == [(3, c, 3, 2) for c in (2, 1, 1)]
    torch.testing.assert_close(pooled.motion, torch.full((3, 2, 3, 2), 0.25))


def test_attention_is_the_residual_s_size_within_its_frame():
    residual = torch.tensor([[-0.5, 0.0, 0.25]]).expand(2, 1, 4, 3).clone()
    residual[1] *= 0.1
    attention = residual_attention(residual)
    torch.testing.assert_close(attention[0, 0, 0], torch.tensor([1, 0, 0.5]), atol=0.01, rtol=0)
    # Less where there is little of it, nothing where there is none.
    assert 0.9 < attention[1, 0, 0, 0] < attention[0, 0, 0, 0]
    assert not residual_attention(torch.zeros(1, 1, 4, 3)).any()
    assert not residual_attention(torch.full((1, 1, 4, 3), 0.2)).any()


def test_links_run_in_both_directions():
    priors = moving()
    forward, backward = make_links(priors, "motion_residual")
    assert all(torch.equal(m, priors.motion[:, :, t]) for t, m in enumerate(forward.motion))
    # From the last frame on: what moves left going forward moves right.
    assert len(backward.motion) == 4
    for motion in backward.motion[1:]:
        torch.testing.assert_close(motion[:, 0], torch.full((1, 6, 8), 2.0))
    assert [bool(each) for each in forward.linked] == [False, True, True, True]
    assert [bool(each) for each in backward.linked] == [False, True, True, True]
    assert torch.equal(backward.attention[0], priors.attention[:, :, 3])
    assert torch.equal(forward.attention[3], priors.attention[:, :, 3])


def test_a_frame_without_motion_is_linked_in_neither_direction():
    priors = moving()
    priors.valid[:, :, 2] = 0
    forward, backward = make_links(priors, "motion_residual")
    assert [bool(each) for each in forward.linked] == [False, True, False, True]
    # Frames 3, 2, 1, 0: 2 follows on 3, 1 not on 2.
    assert [bool(each) for each in backward.linked] == [False, True, False, True]
    assert not forward.motion[2].any()
    assert not forward.attention[2].any()


@pytest.mark.parametrize("kind", ["none", "motion"])
def test_priors_that_are_not_used_are_not_there(kind):
    forward, backward = make_links(moving(), kind)
    for links in (forward, backward):
        assert not any(each.any() for each in links.attention)
        assert any(each.any() for each in links.motion) == (kind == "motion")
        assert all(each.all() for each in links.linked[1:])


def test_without_priors_frames_hang_together_across_cuts():
    priors = moving()
    priors.valid.zero_()
    forward, _ = make_links(priors, "none")
    assert all(each.all() for each in forward.valid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motion": torch.zeros(1, 2, 3, 6, 8)}, r"motion is \[1, 2, 3, 6, 8\], expected"),
        ({"valid": torch.zeros(1, 1, 4, 5, 8)}, r"expected \[1, 1, 4, 6, 8\] for 4 frames of"),
        ({"attention": torch.zeros(2, 1, 4, 6, 8)}, "30x22 pixels: they are of another clip"),
    ],
)
def test_priors_of_another_clip_are_refused_in_one_line(change, message):
    video = torch.zeros(1, 3, 4, 22, 30)
    check_priors(video, moving())
    with pytest.raises(ValueError, match=message) as caught:
        check_priors(video, moving()._replace(**change))
    assert "\n" not in str(caught.value)
