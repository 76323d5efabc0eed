from __future__ import annotations

import dataclasses

import pytest
import torch
from video_deblur.models.config_fields import ConfigError, config_from_dict, config_to_dict
from video_deblur.models.cpgd import Cpgd
from video_deblur.models.cpgd_config import CpcConfig, CpgdConfig
from video_deblur.models.cpgd_control import Cpc, Given, query_prior
from video_deblur.models.cpgd_priors import ClipPriors
from video_deblur.models.divd import Divd

from ..conftest import SMALL_CONFIG, SMALL_CPGD_CONFIG

SMALL_CPC = CpcConfig(divd=SMALL_CONFIG, control_channels=(8, 16))


def inputs(num_frames=3, height=6, width=7, batch=2):
    latents = SMALL_CONFIG.autoencoder.latent_channels
    shape = (batch, latents, num_frames, height, width)
    noisy, condition, first, blurry = torch.randn(4, *shape)
    prior = torch.randn(batch, 3, num_frames, height, width)
    context = torch.randn(batch, 2, SMALL_CONFIG.image_encoder.context_dim)
    given = Given(condition, first, blurry, prior)
    return noisy, given, torch.tensor([999, 400][:batch]), context


@pytest.mark.parametrize("control_channels", [(), (8, 16)])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_a_fresh_branch_changes_no_bit(randomise, control_channels, height, width):
    config = dataclasses.replace(SMALL_CPC, control_channels=control_channels)
    cpc = Cpc(config).eval()
    # All but the branch's last convolutions does something.
    randomise(cpc.divd, 0.1, add=True)
    noisy, given, timesteps, context = inputs(height=height, width=width)
    with torch.no_grad():
        plain = cpc.divd.unet(torch.cat([noisy, given.condition], dim=1), timesteps, context)
        controlled = cpc.predict(noisy, given, timesteps, context)
    assert torch.equal(controlled, plain)
    assert plain.std() > 0.1


def test_a_trained_branch_reads_latents_prior_and_timestep(randomise):
    cpc = randomise(Cpc(SMALL_CPC), 0.1, add=True).eval()
    values = inputs()
    with torch.no_grad():
        whole = cpc.predict(*values)
        noisy, given, timesteps, context = values
        others = [(0.5 * noisy, *values[1:]), (noisy, given, timesteps - 100, context)]
        others.append((noisy, given, timesteps, 0.5 * context))
        for name, value in given._asdict().items():
            others.append((noisy, given._replace(**{name: 0.5 * value}), timesteps, context))
        for index, other in enumerate(others):
            assert not torch.allclose(cpc.predict(*other), whole, atol=1e-5), index


def test_a_prior_whose_projection_is_zero_leaves_the_branch_alone(randomise):
    cpc = randomise(Cpc(SMALL_CPC), 0.1, add=True).eval()
    for name, parameter in cpc.named_parameters():
        if ".prior." in name:
            torch.nn.init.zeros_(parameter)
    noisy, given, timesteps, context = inputs()
    with torch.no_grad():
        one = cpc.predict(noisy, given, timesteps, context)
        other = cpc.predict(noisy, given._replace(prior=0 * given.prior), timesteps, context)
    assert torch.equal(one, other)


def test_every_self_attention_of_the_branch_is_modulated_and_none_of_the_unet():
    cpc = Cpc(SMALL_CPC)
    names = {name for name, _ in cpc.named_parameters() if ".prior." in name}
    attending = {
        f"{name}.prior.proj.weight"
        for name, _ in cpc.control.named_modules()
        if name.endswith("attn1") or name.rpartition(".")[0].endswith("window_attentions")
    }
    assert names == {f"control.{name}" for name in attending}
    assert any("attentions.0.transformer_blocks" in name for name in names)


def test_the_branch_begins_as_the_unet_s_way_down(randomise):
    divd = randomise(Divd(SMALL_CONFIG), 0.1, add=True)
    cpc = Cpc(CpcConfig(divd=SMALL_CONFIG))
    cpc.begin_from(divd)
    ours, theirs = cpc.control.state_dict(), divd.unet.state_dict()
    shared = [name for name in ours if name in theirs]
    assert len(shared) > 50
    for name in shared:
        if name != "conv_in.weight":
            assert torch.equal(ours[name], theirs[name]), name
    assert torch.equal(ours["conv_in.weight"][:, :4], theirs["conv_in.weight"][:, :4])
    assert not ours["conv_in.weight"][:, 4:].any()
    assert torch.equal(cpc.divd.state_dict()["unet.conv_out.bias"], theirs["conv_out.bias"])


def test_the_prior_is_motion_by_the_longest_and_the_residual():
    motion = torch.zeros(2, 2, 3, 4, 5)
    motion[0, 0, 1, 2, 3], motion[0, 1, 2, 0, 0] = -8, 2
    attention = torch.rand(2, 1, 3, 4, 5)
    prior = query_prior(ClipPriors(motion, attention, torch.ones_like(attention)))
    assert prior.shape == (2, 3, 3, 4, 5)
    assert prior[0, 0, 1, 2, 3] == -1
    assert prior[0, 1, 2, 0, 0] == 0.25
    assert not prior[1, :2].any()
    assert torch.equal(prior[:, 2:], attention)


def test_what_the_first_stage_does_without_the_second_one_does_without():
    priors = ClipPriors(*(torch.rand(1, channels, 3, 4, 5) for channels in (2, 1, 1)))
    whole = query_prior(priors)
    motion, none = query_prior(priors, "motion"), query_prior(priors, "none")
    assert torch.equal(motion[:, :2], whole[:, :2])
    assert whole[:, 2:].any()
    assert not motion[:, 2:].any()
    assert not none.any()


def test_an_image_tower_of_another_shape_starts_with_tokens_of_zeros(randomise):
    divd = randomise(Divd(SMALL_CONFIG), 0.1, add=True)
    tower = dataclasses.replace(SMALL_CONFIG.image_encoder, width=8, num_tokens=1)
    cpc = Cpc(CpcConfig(divd=dataclasses.replace(SMALL_CONFIG, image_encoder=tower)))
    cpc.begin_from(divd)
    frames = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(cpc.divd.encode_tokens(frames), torch.zeros(2, 1, 16))
    assert torch.equal(cpc.divd.unet.conv_out.bias, divd.unet.conv_out.bias)
    assert torch.equal(
        cpc.divd.encode_blur(frames[:, :, None]), divd.encode_blur(frames[:, :, None])
    )


def test_the_whole_network_is_written_and_read_as_one():
    config = dataclasses.replace(SMALL_CPGD_CONFIG, cpc=SMALL_CPC)
    assert config_from_dict(CpgdConfig, config_to_dict(config)) == config
    names = {name.split(".")[0] for name in Cpgd(config, device="meta").state_dict()}
    assert names == {"cpfp", "cpc"}
    assert Cpgd(SMALL_CPGD_CONFIG).cpc is None


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ((8,), r"control_channels needs one entry per level \(2\), got 1"),
        ((8, 12), "must divide by head_dim"),
        ((0, 8), "block_channels must be between 1"),
    ],
)
def test_widths_that_do_not_fit_are_refused(channels, message):
    with pytest.raises(ConfigError, match=message):
        CpcConfig(divd=SMALL_CONFIG, control_channels=channels)
