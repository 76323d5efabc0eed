"""What each node promises: native types, sizes, the mask, the memory, and clear errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from video_deblur.video.reader import VideoReader

from .checkpoints import NAME, blurry_clip
from .conftest import REPOSITORY


@pytest.fixture(scope="module")
def loaded(call_node, random_checkpoint):
    return call_node("VideoDeblur_LoadCheckpoint", checkpoint=NAME, dtype="float32")


def encode(call_node, loaded, frames):
    return call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=frames)


def test_vae_encodes_and_decodes_with_the_stock_nodes(call_node, loaded):
    frames = blurry_clip(2, 50, 62)
    latent = encode(call_node, loaded, frames)[2]
    (stock,) = call_node("VAEEncode", pixels=frames, vae=loaded[1])
    assert torch.allclose(stock["samples"], latent["samples"], atol=1e-5)
    assert stock["samples"].shape == (2, 16, 13, 16)
    (decoded,) = call_node("VAEDecode", samples=stock, vae=loaded[1])
    assert decoded.shape == (2, 52, 64, 3)
    (tiled,) = call_node("VAEDecodeTiled", samples=stock, vae=loaded[1], tile_size=64)
    assert ((tiled - decoded) ** 2).mean() < 1e-4
    (encoded,) = call_node("VAEEncodeTiled", pixels=frames, vae=loaded[1], tile_size=64)
    assert encoded["samples"].shape == stock["samples"].shape


def test_decoding_unchanged_latents_returns_the_frames(call_node, loaded):
    frames = torch.cat([blurry_clip(11, 37, 45), torch.rand(11, 37, 45, 1)], dim=-1)
    latent = encode(call_node, loaded, frames)[2]
    (restored,) = call_node("VideoDeblur_DecodeLatents", vae=loaded[1], latent=latent)
    assert torch.allclose(restored, frames, atol=1e-5)


def test_float32_is_exact_while_frames_are_encoded_and_decoded(call_node, loaded, our_module):
    settings = our_module("models.precision")._settings
    found = []

    def watched(module, *_):
        found.append({getattr(owner, name) == exact for owner, name, exact in settings()})

    networks = (loaded[2].model.blur_encoder, loaded[2].model.sharp_encoder)
    hooks = [each.register_forward_pre_hook(watched) for each in networks]
    hooks.append(loaded[1].first_stage_model.decoder.register_forward_pre_hook(watched))
    before = [getattr(owner, name) for owner, name, _ in settings()]
    latent = encode(call_node, loaded, blurry_clip(2, 32, 32))[2]
    assert found == [{True}] * 2
    call_node("VideoDeblur_DecodeLatents", vae=loaded[1], latent=latent)
    assert len(found) > 2
    assert all(each == {True} for each in found)
    assert [getattr(owner, name) for owner, name, _ in settings()] == before
    for hook in hooks:
        hook.remove()


def test_original_serves_when_the_latent_lost_its_frames(call_node, loaded):
    frames = blurry_clip(3, 32, 32)
    latent = {"samples": encode(call_node, loaded, frames)[2]["samples"]}
    with pytest.raises(ValueError, match="Connect them to the input `original`"):
        call_node("VideoDeblur_DecodeLatents", vae=loaded[1], latent=latent)
    inputs = {"vae": loaded[1], "latent": latent, "original": frames}
    assert torch.allclose(
        call_node("VideoDeblur_DecodeLatents", **inputs)[0], frames, atol=1e-5
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 32, 32),
            "latent is 3 frames of 32x32 pixels but the blurry frames are 2 of 32x32",
        ),
        ((3, 40, 32), "blurry frames are 3 of 32x40"),
    ],
)
def test_frames_that_do_not_fit_the_latent_are_named(call_node, loaded, shape, message):
    latent = encode(call_node, loaded, blurry_clip(3, 32, 32))[2]
    inputs = {"vae": loaded[1], "latent": latent, "original": blurry_clip(*shape)}
    with pytest.raises(ValueError, match=message):
        call_node("VideoDeblur_DecodeLatents", **inputs)


@pytest.mark.parametrize("node_id", ["VideoDeblur_Sample", "KSampler"])
def test_latent_and_conditioning_of_different_clips_are_refused(call_node, loaded, node_id):
    positive, negative, _ = encode(call_node, loaded, blurry_clip(3, 32, 32))
    other = encode(call_node, loaded, blurry_clip(4, 32, 32))[2]
    name = "latent" if "Deblur" in node_id else "latent_image"
    with pytest.raises(ValueError, match=r"latent is 4 frames .* conditioning is 3 frames"):
        call_node(
            node_id,
            model=loaded[0],
            positive=positive,
            negative=negative,
            seed=0,
            **{name: other},
        )


def test_parts_of_other_models_are_refused(call_node, loaded):
    frames = blurry_clip(2, 32, 32)
    positive, negative, latent = encode(call_node, loaded, frames)
    with pytest.raises(ValueError, match="encoder must come from"):
        call_node("VideoDeblur_EncodeFrames", encoder=object(), frames=frames)
    with pytest.raises(ValueError, match="vae must come from"):
        call_node("VideoDeblur_DecodeLatents", vae=object(), latent=latent)
    inputs = {"positive": positive, "negative": negative, "latent": latent}
    with pytest.raises(ValueError, match="model must come from"):
        call_node("VideoDeblur_Sample", model=object(), **inputs)
    foreign = [[torch.zeros(1, 77, 768), {}]]
    with pytest.raises(ValueError, match="must come from Encode Blurry Frames"):
        call_node("VideoDeblur_Sample", model=loaded[0], **{**inputs, "positive": foreign})


def test_overlap_over_half_the_window_is_refused(call_node, loaded):
    positive, negative, latent = encode(call_node, loaded, blurry_clip(2, 32, 32))
    with pytest.raises(ValueError, match="overlap must be between 0 and 5"):
        call_node(
            "VideoDeblur_Sample",
            model=loaded[0],
            positive=positive,
            negative=negative,
            latent=latent,
            window=10,
        )


def two_scenes(first: int, second: int, shade: float = 0.0) -> torch.Tensor:
    return torch.cat(
        [0.3 * blurry_clip(first, 32, 48), 0.3 * blurry_clip(second, 32, 48) + 0.7 - shade]
    )


@pytest.mark.parametrize("node_id", ["VideoDeblur_Sample", "KSampler"])
def test_windows_of_every_sampler_end_at_scene_cuts(call_node, loaded, node_id):
    results = {}
    for scene_cuts in (True, False):
        for shade in (0.0, 0.05):
            frames = two_scenes(10, 6, shade)
            positive, negative, latent = call_node(
                "VideoDeblur_EncodeFrames",
                encoder=loaded[2],
                frames=frames,
                scene_cuts=scene_cuts,
            )
            (result,) = call_node(
                node_id,
                model=loaded[0],
                positive=positive,
                negative=negative,
                seed=1,
                steps=2,
                cfg=1.5,
                sampler_name="euler",
                scheduler="simple",
                **{"latent" if "Deblur" in node_id else "latent_image": latent},
            )
            results[scene_cuts, shade] = result["samples"][:10]
    assert torch.equal(results[True, 0.0], results[True, 0.05])
    assert not torch.equal(results[False, 0.0], results[False, 0.05])


def test_context_windows_of_comfyui_are_refused(call_node, loaded):
    positive, negative, latent = encode(call_node, loaded, blurry_clip(20, 32, 32))
    for node_id in ("ContextWindowsManual", "WanContextWindowsManual"):
        (model,) = call_node(node_id, model=loaded[0])
        for sampler, name in (("KSampler", "latent_image"), ("VideoDeblur_Sample", "latent")):
            with pytest.raises(ValueError, match="already cuts clips into windows") as caught:
                call_node(
                    sampler,
                    model=model,
                    positive=positive,
                    negative=negative,
                    **{name: latent},
                )
            assert "\n" not in str(caught.value)


def test_blur_is_measured_for_each_frame(extension_nodes, call_node):
    picture = torch.nn.functional.interpolate(
        (torch.rand(1, 3, 30, 40) > 0.5).float(), scale_factor=4
    )
    smooth = torch.nn.functional.avg_pool2d(picture, (1, 9), stride=1, padding=(0, 4))
    frames = torch.cat([picture, smooth]).movedim(1, -1)
    mean, scores, report = call_node("VideoDeblur_MeasureBlur", frames=frames)
    assert scores[0] < 0.5 < scores[1]
    assert mean == pytest.approx(sum(scores) / 2)
    assert report.splitlines()[0] == "1 of 2 frames are sharp (below 0.5)"
    assert len(report.splitlines()) == 3


def test_sharp_frames_pass_through_both_nodes(comfy, call_node, random_checkpoint):
    # Grey: 4:2:0 halves the resolution of colours, and each reader fills in others.
    picture = (torch.rand(1, 1, 12, 16) > 0.5).float()
    frames = torch.nn.functional.interpolate(picture, scale_factor=4).movedim(1, -1)
    frames = frames.repeat(3, 1, 1, 3)
    inputs = {"checkpoint": NAME, "skip_sharp": True}
    (restored,) = call_node("VideoDeblur_Deblur", frames=frames, **inputs)
    assert torch.equal(restored, frames)
    (video,) = call_node("CreateVideo", images=frames, fps=25.0)
    (result,) = call_node("VideoDeblur_DeblurVideo", video=video, crf=0, **inputs)
    read = result.get_components().images
    assert (read - frames).abs().max() < 0.01
    (other,) = call_node("VideoDeblur_DeblurVideo", video=video, crf=0, checkpoint=NAME)
    assert not torch.equal(other.get_components().images, read)


@pytest.mark.parametrize("kind", ["slice", "half", "strided"])
def test_frames_of_any_loader_give_the_same(call_node, random_checkpoint, kind):
    clip = blurry_clip(6, 32, 48)
    (plain,) = call_node("VideoDeblur_Deblur", frames=clip, checkpoint=NAME)
    other = {
        "slice": torch.cat([clip, clip])[:6],
        "half": clip.to(torch.float64),
        "strided": clip.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    }[kind]
    (restored,) = call_node("VideoDeblur_Deblur", frames=other, checkpoint=NAME)
    assert torch.allclose(restored.float(), plain, atol=1e-5)


def test_lora_changes_the_result(comfy, call_node, loaded):
    frames = blurry_clip(2, 32, 32)
    positive, negative, latent = encode(call_node, loaded, frames)
    name = "down_blocks.0.resnets.0.conv1.weight"
    weight = dict(loaded[0].model.diffusion_model.named_parameters())[name]
    patched = loaded[0].clone()
    key = f"diffusion_model.{name}"
    assert patched.add_patches({key: (torch.randn_like(weight),)}, 1.0) == [key]
    inputs = {"positive": positive, "negative": negative, "latent": latent}
    plain, changed, again = (
        call_node("VideoDeblur_Sample", model=model, **inputs)[0]["samples"]
        for model in (loaded[0], patched, loaded[0])
    )
    assert (plain - changed).abs().max() > 1e-3
    assert torch.equal(plain, again)


def test_preview_of_the_bundled_checkpoint_shows_the_picture(comfy, call_node):
    with VideoReader(
        REPOSITORY / "evaluation" / "demo_clips" / "street" / "blurry.mp4"
    ) as reader:
        frames = torch.from_numpy(next(reader).pixels / np.float32(255))[None]
    model, _, encoder = call_node("VideoDeblur_LoadCheckpoint")
    latent = call_node("VideoDeblur_EncodeFrames", encoder=encoder, frames=frames)[2]
    latent_format = model.model.latent_format
    previewer = comfy.latent_preview.Latent2RGBPreviewer(
        latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
    )
    image = previewer.decode_latent_to_preview(latent_format.process_in(latent["samples"]))
    shown = torch.from_numpy(np.asarray(image).copy()).float().flatten()
    height, width = frames.shape[1] // 4, frames.shape[2] // 4
    small = frames[0].reshape(height, 4, width, 4, 3).mean(dim=(1, 3)).flatten()
    assert torch.corrcoef(torch.stack([shown, small]))[0, 1] > 0.85


def moving_texture(num_frames=7, size=(80, 96)):
    """A camera that pans over a texture, one frame of it blurred: blurry and sharp, RGBA."""
    noise = torch.rand(1, 3, 140, 160, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)[0].movedim(0, -1)
    alpha = torch.rand(*size, 1, generator=torch.Generator().manual_seed(1))
    sharp = torch.stack(
        [
            torch.cat([wide[8 + i : 8 + i + size[0], 4 * i : 4 * i + size[1]], alpha], -1)
            for i in range(num_frames)
        ]
    )
    blurry = sharp.clone()
    middle = sharp[num_frames // 2, ..., :3].movedim(-1, 0)
    smeared = torch.nn.functional.avg_pool2d(middle, (1, 7), 1, (0, 3))
    blurry[num_frames // 2, ..., :3] = smeared.movedim(0, -1)
    return blurry, sharp


def test_borrow_detail_takes_it_from_neighbours_but_not_from_another_scene(
    call_node, random_checkpoint
):
    blurry, sharp = moving_texture()
    (restored,) = call_node("VideoDeblur_Borrow", frames=blurry)
    assert torch.equal(restored[..., 3], blurry[..., 3])

    def error(frames):
        return float((frames[3] - sharp[3]).square().mean())

    assert error(restored) < 0.5 * error(blurry)
    alone = torch.cat([torch.zeros_like(sharp[:3]), blurry[3:4], torch.ones_like(sharp[:3])])
    (kept,) = call_node("VideoDeblur_Borrow", frames=alone)
    torch.testing.assert_close(kept[3], blurry[3], atol=1e-5, rtol=0)


def test_decoding_borrows_unless_told_not_to(call_node, loaded):
    blurry, sharp = moving_texture()
    _, _, latent = call_node("VideoDeblur_EncodeFrames", encoder=loaded[2], frames=blurry)
    inputs = {"vae": loaded[1], "latent": latent}
    (borrowed,) = call_node("VideoDeblur_DecodeLatents", **inputs)
    (plain,) = call_node("VideoDeblur_DecodeLatents", **inputs, borrow=False)
    # The latents are those of the blurry frames: without borrowing nothing changes.
    torch.testing.assert_close(plain, blurry, atol=1e-5, rtol=0)
    assert (borrowed - sharp)[3].square().mean() < 0.5 * (plain - sharp)[3].square().mean()


@pytest.fixture
def shots_of_decoding(our_module, monkeypatch):
    """Cuts that frames were decoded with, run by run."""
    module, seen = our_module("nodes.decode"), []
    shots = module.shots
    monkeypatch.setattr(
        module, "shots", lambda num, cuts: seen.append((num, tuple(cuts))) or shots(num, cuts)
    )
    return seen


def two_textures(first, second):
    """A scene, then another one, each long enough to borrow in."""
    blurry, _ = moving_texture(max(first, second), (64, 64))
    return torch.cat([0.3 * blurry[:first], 0.3 * blurry[:second].flip(1) + 0.7])[..., :3]


def test_cuts_of_some_of_the_encoded_frames_are_those_of_these(
    call_node, loaded, shots_of_decoding
):
    frames = two_textures(12, 4)
    latent = encode(call_node, loaded, frames)[2]
    (part,) = call_node("LatentFromBatch", samples=latent, batch_index=8, length=8)
    (again,) = call_node("LatentBatch", samples1=part, samples2=part)
    decode = {"vae": loaded[1], "color_match": False}
    for latents, original in (
        (latent, None),
        (latent, frames.clone()),
        (part, frames[8:]),
        (again, torch.cat([frames[8:], frames[8:]])),
        ({**latent, "samples": latent["samples"].flip(0)}, frames.flip(0)),
        ({"samples": part["samples"]}, frames[8:]),
    ):
        call_node("VideoDeblur_DecodeLatents", latent=latents, original=original, **decode)
    assert shots_of_decoding == [
        (16, (12,)),
        (16, (12,)),
        (8, (4,)),
        (16, (4, 8, 12)),
        (16, (4,)),
        (8, (4,)),
    ]
    (restored,) = call_node(
        "VideoDeblur_DecodeLatents", latent=part, original=frames[8:], **decode
    )
    (alone,) = call_node(
        "VideoDeblur_DecodeLatents",
        latent={"samples": part["samples"][:4]},
        original=frames[8:12],
        **decode,
    )
    torch.testing.assert_close(restored[:4], alone, atol=1e-5, rtol=0)


def test_frames_encoded_as_one_shot_are_decoded_as_one(call_node, loaded, shots_of_decoding):
    frames = two_textures(12, 4)
    inputs = {"encoder": loaded[2], "frames": frames, "scene_cuts": False}
    latent = call_node("VideoDeblur_EncodeFrames", **inputs)[2]
    (part,) = call_node("LatentFromBatch", samples=latent, batch_index=8, length=8)
    call_node("VideoDeblur_DecodeLatents", vae=loaded[1], latent=latent)
    call_node("VideoDeblur_DecodeLatents", vae=loaded[1], latent=part, original=frames[8:])
    assert shots_of_decoding == [(16, ()), (8, ())]


@pytest.mark.parametrize("name", ["shake", "street"])
def test_example_clip_is_the_bundled_file(comfy, extension_nodes, call_node, name):
    video, images = call_node("VideoDeblur_ExampleClip", clip=name)
    parts = video.get_components()
    assert parts.images.shape == images.shape
    # ComfyUI converts 4:2:0 with other rounding.
    assert (parts.images - images).abs().mean() < 0.01
    assert images.dtype == torch.float32


def test_every_bundled_clip_is_an_example(extension_nodes):
    folder = REPOSITORY / "evaluation" / "demo_clips"
    schema = extension_nodes["VideoDeblur_ExampleClip"].GET_SCHEMA()
    found = {path.name for path in folder.iterdir() if path.is_dir()}
    assert set(schema.inputs[0].options) == found
