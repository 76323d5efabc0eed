from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.models.config_fields import ConfigError, config_from_dict, config_to_dict
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.cpgd_config import CpfpConfig, CpgdConfig
from video_deblur.models.cpgd_priors import ClipPriors

from ..conftest import SMALL_CPGD_CONFIG


def small(**changes):
    torch.manual_seed(0)
    cpfp = dataclasses.replace(SMALL_CPGD_CONFIG.cpfp, **changes)
    return Cpgd(dataclasses.replace(SMALL_CPGD_CONFIG, cpfp=cpfp)).eval()


def clip(num_frames=4, height=16, width=20, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sides = -(-height // 4), -(-width // 4)

    def random(channels):
        return torch.rand(batch, channels, num_frames, *sides, generator=generator)

    valid = torch.ones(batch, 1, num_frames, *sides)
    valid[:, :, 0] = 0
    motion = (4 * random(2) - 2) * valid
    video = torch.rand(batch, 3, num_frames, height, width, generator=generator) * 2 - 1
    return video, ClipPriors(motion, random(1), valid)


def joined(*clips):
    videos, priors = zip(*clips, strict=True)
    parts = zip(*priors, strict=True)
    return torch.cat(videos, dim=2), ClipPriors(*(torch.cat(part, dim=2) for part in parts))


@pytest.mark.parametrize(
    ("num_frames", "height", "width", "batch"),
    [(1, 1, 1, 1), (1, 13, 10, 2), (2, 4, 33, 1), (5, 17, 6, 2)],
)
def test_a_fresh_network_returns_clips_of_any_size(num_frames, height, width, batch):
    video, priors = clip(num_frames, height, width, batch)
    with torch.no_grad():
        assert torch.equal(small()(video, priors), video)


def test_every_clip_of_a_batch_is_restored_by_itself(randomise, assert_same):
    network = randomise(small(), 0.1, add=True)
    video, priors = clip(batch=3)
    with torch.no_grad():
        together = network(video, priors)
        for index in range(3):
            alone = [part[index : index + 1] for part in (video, *priors)]
            assert_same(
                together[index : index + 1] - video[index : index + 1],
                network(alone[0], ClipPriors(*alone[1:])) - alone[0],
            )


def test_every_frame_depends_on_all_others(randomise):
    network = randomise(small(), 0.1, add=True)
    video, priors = clip()
    with torch.no_grad():
        whole = network(video, priors)
        for index in range(4):
            changed = video.clone()
            changed[:, :, index] += 0.3
            differs = (network(changed, priors) - whole).abs().amax((0, 1, 3, 4)) > 1e-6
            assert differs.all()


def test_propagation_starts_anew_at_a_cut(randomise, assert_same):
    network = randomise(small(), 0.1, add=True)
    first, second = clip(3, seed=1), clip(4, seed=2)
    with torch.no_grad():
        video, priors = joined(first, second)
        together = network(video, priors) - video
        apart = torch.cat([network(*each) - each[0] for each in (first, second)], dim=2)
        assert_same(together, apart)
        linked = priors._replace(valid=torch.ones_like(priors.valid))
        assert not torch.allclose(network(video, linked) - video, apart, atol=1e-3)


@pytest.mark.parametrize("kind", ["none", "motion", "motion_residual"])
def test_priors_count_as_far_as_the_config_uses_them(randomise, kind):
    network = randomise(small(priors=kind), 0.1, add=True)
    video, priors = clip()
    with torch.no_grad():
        whole = network(video, priors)
        moved = network(video, priors._replace(motion=priors.motion.flip(3)))
        other = network(video, priors._replace(attention=priors.attention.flip(3)))
    assert torch.equal(moved, whole) == (kind == "none")
    assert torch.equal(other, whole) == (kind != "motion_residual")


def test_gradients_reach_every_parameter_once_what_starts_at_zero_has_moved():
    network = small().train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    video, priors = clip(4)
    reached = []
    for _ in range(3):
        optimizer.zero_grad()
        network(video, priors).sub(0.1).square().mean().backward()
        reached.append({n for n, p in network.named_parameters() if p.grad.any()})
        optimizer.step()
    # The last convolution first; then all but what lies behind the offsets; then all.
    assert reached[0] == {"cpfp.decoder.leave.weight", "cpfp.decoder.leave.bias"}
    names = {name for name, _ in network.named_parameters()}
    behind = {n for n in names if "alignment.enter" in n or "alignment.middle" in n}
    assert reached[1] == names - behind
    assert reached[2] == names


def test_it_learns_two_clips_by_heart():
    network = small().train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    video, priors = clip(3, 16, 16, batch=2)
    target = torch.nn.functional.avg_pool3d(video, (1, 3, 3), stride=1, padding=(0, 1, 1))
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = (network(video, priors) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_priors_of_another_clip_are_refused():
    video, priors = clip(4)
    with pytest.raises(ValueError, match="they are of another clip"):
        small()(video[:, :, :3], priors)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": (0, 8, 8)}, "channels must be between 1 and 65536, got 0"),
        ({"encoder_blocks": (0, 0, 65)}, "encoder_blocks must be between 0 and 64, got 65"),
        ({"decoder_blocks": (0, -1, 0)}, "decoder_blocks must be between"),
        ({"pass_blocks": 10**6}, "pass_blocks must be between"),
        ({"offset_groups": 3}, "offset_groups must be even"),
        ({"offset_groups": 10}, "half of them divide the 192 channels"),
        ({"max_offset": float("inf")}, "max_offset must be above 0, at most 1024, got inf"),
        ({"max_offset": 0.0}, "max_offset must be above 0"),
        ({"priors": "residual"}, "priors must be one of none, motion, motion_residual"),
    ],
)
def test_a_config_is_checked_when_made(values, message):
    with pytest.raises(ConfigError, match=message):
        CpfpConfig(**values)


def test_configs_are_read_as_they_were_written():
    config = SMALL_CPGD_CONFIG
    assert config_from_dict(CpgdConfig, config_to_dict(config)) == config


def test_the_full_network_has_the_paper_s_widths():
    full = Cpgd(CpgdConfig(), device="meta").cpfp
    assert [layer.out_channels for layer in full.encoder.enter] == [64, 64, 192]
    # Offsets and weights of nine samples in 16 groups.
    assert full.passes[0].alignment.leave.out_channels == 27 * 16
