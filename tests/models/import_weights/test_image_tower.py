from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from video_deblur.models.config import ImageEncoderConfig
from video_deblur.models.image_encoder import VisionTransformer
from video_deblur.models.import_weights.image_tower import import_image_tower
from video_deblur.models.import_weights.weight_file import WeightFile, open_weights

from . import published


def load(path):
    with open_weights(path, "image_encoder") as file:
        imported = import_image_tower(file)
        weights = {
            name.removeprefix("image_encoder.visual."): source.make(
                *map(file.read, source.names)
            ).clone()
            for name, source in imported.part.sources.items()
        }
    tower = VisionTransformer(imported.config).eval().requires_grad_(False)
    tower.load_state_dict(weights, strict=True)
    return tower, imported


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_open_clip_gives_its_embedding(reference_clip, assert_same, tmp_path, suffix):
    path = tmp_path / f"open_clip_pytorch_model{suffix}"
    weights = reference_clip.state_dict()
    if suffix == ".bin":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    tower, imported = load(path)
    assert imported.part.layout == "open_clip's names"
    assert (imported.config.heads, imported.config.image_size) == (2, 28)
    images = torch.randn(2, 3, 28, 28)
    assert_same(tower(images), reference_clip.encode_image(images))


@pytest.fixture(scope="module")
def transformers_tower():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    # As config.json of the published ViT-H-14 has it, smaller.
    config = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        hidden_act="gelu",
    )
    tower = CLIPVisionModelWithProjection(config)
    tower.load_state_dict(published.randomised(tower))
    return tower.eval().requires_grad_(False)


@pytest.mark.parametrize("whole", [False, True])
def test_transformers_gives_its_embedding(transformers_tower, assert_same, tmp_path, whole):
    weights = transformers_tower.state_dict()
    if whole:
        weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        weights["text_model.final_layer_norm.bias"] = torch.zeros(8)
        weights["logit_scale"] = torch.zeros(())
    path = tmp_path / "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
    save_file(weights, path)
    tower, imported = load(path)
    assert imported.part.layout == "transformers' names"
    images = torch.randn(2, 3, 28, 28)
    assert_same(tower(images), transformers_tower(images).image_embeds)


def test_the_published_tower_is_the_default_config():
    import open_clip

    published_config = open_clip.get_model_config("ViT-H-14")
    vision = published_config["vision_cfg"]
    ours = ImageEncoderConfig()
    assert (vision["width"], vision["layers"]) == (ours.width, ours.layers)
    assert vision["head_width"] == ours.width // ours.heads == 80
    assert vision["patch_size"] == ours.patch_size
    assert published_config["embed_dim"] == ours.embedding_dim
    assert not published_config.get("quick_gelu", False)


def test_the_whole_published_layout_is_recognised(tmp_path):
    config = ImageEncoderConfig()
    tower = VisionTransformer(config, device="meta").state_dict()

    shapes = {f"visual.{name}": tuple(value.shape) for name, value in tower.items()}
    file = WeightFile(tmp_path / "open_clip_pytorch_model.bin", shapes, torch.empty, {})
    found = import_image_tower(file)
    assert dataclasses.replace(found.config, num_tokens=config.num_tokens) == config
    assert len(found.part.sources) == 32 * 12 + 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"visual.ln_post.bias": None},
            r"lacks '.*\.ln_post\.bias' .*1 missing",
        ),
        ({"visual.proj": None}, r"lacks 'image_encoder\.visual\.proj'"),
        (
            {"visual.attn_pool.query": torch.zeros(1)},
            "which .* does not .1 too many in all",
        ),
        ({"visual.ln_pre.bias": torch.zeros(7)}, r"'visual\.ln_pre\.bias' has shape \[7\]"),
        ({"visual.positional_embedding": torch.zeros(7, 160)}, "160 wide for 7 positions"),
        ({"visual.conv1.weight": torch.zeros(1024, 3, 14, 14)}, "1024 wide .* expected 1280"),
    ],
)
def test_other_networks_are_refused_by_name(reference_clip, tmp_path, change, message):
    weights = reference_clip.state_dict() | change
    path = tmp_path / "clip.safetensors"
    save_file({name: value for name, value in weights.items() if value is not None}, path)
    with (
        open_weights(path, "image_encoder") as file,
        pytest.raises(ValueError, match=message) as caught,
    ):
        import_image_tower(file)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_another_activation_is_refused(transformers_tower, tmp_path):
    folder = published.write_folder(
        tmp_path / "clip",
        "model.safetensors",
        transformers_tower.state_dict(),
        hidden_act="quick_gelu",
    )
    with (
        open_weights(folder, "image_encoder") as file,
        pytest.raises(ValueError, match="hidden_act quick_gelu, expected gelu"),
    ):
        import_image_tower(file)
