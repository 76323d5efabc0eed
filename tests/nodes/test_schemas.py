"""The nodes as a user sees them: ids, inputs, defaults, tooltips, help pages, start-up."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from .comfy_process import load_extension
from .conftest import REPOSITORY

INPUTS = {
    "VideoDeblur_LoadCheckpoint": ["checkpoint", "dtype"],
    "VideoDeblur_EncodeFrames": ["encoder", "frames", "scene_cuts"],
    "VideoDeblur_Sample": [
        "model",
        "positive",
        "negative",
        "latent",
        "seed",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "denoise",
        "window",
        "overlap",
        "tile",
    ],
    "VideoDeblur_DecodeLatents": [
        "vae",
        "latent",
        "strength",
        "color_match",
        "original",
        "borrow",
    ],
    "VideoDeblur_Deblur": [
        "frames",
        "checkpoint",
        "preset",
        "strength",
        "seed",
        "scene_cuts",
        "skip_sharp",
        "borrow",
        "feather",
        "mask",
        "first_stage",
        "coding_priors",
        "adapt",
    ],
    "VideoDeblur_DeblurVideo": [
        "video",
        "checkpoint",
        "preset",
        "strength",
        "seed",
        "codec",
        "crf",
        "scene_cuts",
        "skip_sharp",
        "borrow",
        "first_stage",
        "coding_priors",
        "adapt",
    ],
    "VideoDeblur_MeasureBlur": ["frames"],
    "VideoDeblur_Borrow": ["frames", "scene_cuts"],
    "VideoDeblur_ExampleClip": ["clip"],
    "VideoDeblur_Compare": ["before", "after", "view", "position", "labels"],
    "VideoDeblur_MeasureRestoration": ["restored", "sharp", "blurry"],
    "VideoDeblur_SynthesizeBlur": ["sharp", "amount", "seed", "length", "pauses"],
    "VideoDeblur_CodingPriors": ["source", "scale", "video", "frames"],
}
OUTPUTS = {
    "VideoDeblur_LoadCheckpoint": ["MODEL", "VAE", "DEBLUR_ENCODER"],
    "VideoDeblur_EncodeFrames": ["CONDITIONING", "CONDITIONING", "LATENT"],
    "VideoDeblur_Sample": ["LATENT"],
    "VideoDeblur_DecodeLatents": ["IMAGE"],
    "VideoDeblur_Deblur": ["IMAGE"],
    "VideoDeblur_DeblurVideo": ["VIDEO"],
    "VideoDeblur_MeasureBlur": ["FLOAT", "FLOAT", "STRING"],
    "VideoDeblur_Borrow": ["IMAGE"],
    "VideoDeblur_ExampleClip": ["VIDEO", "IMAGE"],
    "VideoDeblur_Compare": ["IMAGE"],
    "VideoDeblur_MeasureRestoration": ["FLOAT", "FLOAT", "STRING"],
    "VideoDeblur_SynthesizeBlur": ["IMAGE", "IMAGE"],
    "VideoDeblur_CodingPriors": ["IMAGE", "IMAGE", "CODING_PRIORS"],
}


def all_inputs(node_class):
    groups = node_class.INPUT_TYPES()
    return {**groups.get("required", {}), **groups.get("optional", {})}


def test_ids_inputs_and_outputs_are_the_published_ones(extension_nodes):
    # Saved workflows name ids, and widgets by their order: append, never insert.
    assert {name: list(all_inputs(node)) for name, node in extension_nodes.items()} == INPUTS
    assert {name: list(node.RETURN_TYPES) for name, node in extension_nodes.items()} == OUTPUTS


def test_inputs_that_came_later_are_optional(extension_nodes):
    # A graph in API format names every required input, or ComfyUI refuses it.
    for node_id in ("EncodeFrames", "Deblur", "DeblurVideo"):
        groups = extension_nodes[f"VideoDeblur_{node_id}"].INPUT_TYPES()
        assert not {"scene_cuts", "skip_sharp"} & set(groups["required"])


def test_every_node_input_and_output_explains_itself(extension_nodes):
    for name, node_class in extension_nodes.items():
        schema = node_class.GET_SCHEMA()
        assert schema.category == "video/deblur"
        assert schema.display_name, name
        assert schema.description.endswith("."), name
        for part in [*schema.inputs, *schema.outputs]:
            assert part.tooltip, (name, part)
            assert part.tooltip.endswith("."), (name, part)


def test_defaults_of_the_sampler_are_those_of_a_checkpoint(extension_nodes):
    from video_deblur.models.config import SamplingConfig

    sampling = SamplingConfig()
    options = {
        name: spec[1]
        for name, spec in all_inputs(extension_nodes["VideoDeblur_Sample"]).items()
    }
    assert options["steps"]["default"] == sampling.steps
    assert options["cfg"]["default"] == sampling.guidance_scale
    assert options["window"]["default"] == sampling.window
    assert options["overlap"]["default"] == sampling.overlap
    assert options["tile"]["default"] == 0
    assert options["sampler_name"]["default"] == "euler"
    assert options["scheduler"]["default"] == "simple"


def test_numbers_name_their_unit(extension_nodes):
    units = ("0 to", "frames", "pixels", "number", "factor", "noise", "steps")
    for name, node_class in extension_nodes.items():
        for key, (kind, *rest) in all_inputs(node_class).items():
            if kind in ("INT", "FLOAT"):
                assert any(unit in rest[0]["tooltip"].lower() for unit in units), (name, key)


@pytest.mark.parametrize("node_id", list(INPUTS))
def test_help_page_names_every_input(node_id):
    text = (REPOSITORY / "web" / "docs" / f"{node_id}.md").read_text()
    for name in INPUTS[node_id]:
        assert f"\n- `{name}`" in text, name
    for heading in ("## Inputs", "## Outputs", "## Tips", "## Limits", "## Example"):
        assert heading in text


def test_help_pages_belong_to_nodes():
    assert {path.stem for path in (REPOSITORY / "web" / "docs").glob("*.md")} == set(INPUTS)


def test_loading_adds_little_to_start_up(comfy, extension_nodes, tmp_path, monkeypatch):
    """From the second start on, when Python has compiled the files."""
    monkeypatch.setattr(comfy.nodes, "NODE_CLASS_MAPPINGS", {})
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "compiled"))
    link = tmp_path / "copy"
    link.symlink_to(REPOSITORY, target_is_directory=True)
    seconds = []
    for _ in range(4):
        begun = time.process_time()
        load_extension(comfy, link)
        seconds.append(time.process_time() - begun)
        for name in [name for name in sys.modules if str(link) in name]:
            del sys.modules[name]
    assert min(seconds[1:]) < 0.1


def test_loading_imports_nothing_heavy(comfyui_path, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(comfyui_path)!r})
from comfy.cli_args import args
args.cpu = True
args.base_directory = {str(tmp_path)!r}
import asyncio, nodes
before = set(sys.modules)
assert asyncio.run(nodes.load_custom_node({str(REPOSITORY)!r}, module_parent="custom_nodes"))
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
heavy = {{"cv2", "diffusers", "open_clip", "accelerate", "ray", "torchmetrics", "skimage"}}
print("heavy:", sorted(new & heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert "heavy: []" in done.stdout, done.stderr[-2000:]
