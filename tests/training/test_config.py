from __future__ import annotations

import dataclasses
import json
import math

import pytest
from video_deblur.models.config_fields import ConfigError
from video_deblur.training.config import ContentStage, DataConfig, DiffusionStage, Preset
from video_deblur.training.presets import PRESETS, load_preset


def write(folder, values):
    path = folder / "config.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_presets_are_found_by_name():
    assert load_preset("tiny") is PRESETS["tiny"]
    assert PRESETS["paper"].stage1.trains == ("blur_encoder.",)
    assert "autoencoder.decoder." in PRESETS["paper"].stage2.trains
    for preset in PRESETS.values():
        for stage in (preset.joint, preset.stage1, preset.stage2):
            # The sharp encoder defines what is predicted: never trained by the loss on it.
            trained = "" if stage is None else stage.trains
            assert not any("autoencoder.encoder.".startswith(prefix) for prefix in trained)


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path):
    path = write(
        tmp_path,
        {
            "preset": "tiny",
            "seed": 4,
            "joint": {"steps": 7, "data": {"crop": 64, "shake": {"motion": [1, 2]}}},
            "model": {"unet": {"temporal_attention": "frame"}},
        },
    )
    preset, tiny = load_preset(path), PRESETS["tiny"]
    shake = dataclasses.replace(tiny.joint.data.shake, motion=(1.0, 2.0))
    data = dataclasses.replace(tiny.joint.data, crop=64, shake=shake)
    unet = dataclasses.replace(tiny.model.unet, temporal_attention="frame")
    assert preset == dataclasses.replace(
        tiny,
        seed=4,
        joint=dataclasses.replace(tiny.joint, steps=7, data=data),
        model=dataclasses.replace(tiny.model, unet=unet),
    )


def test_a_file_adds_and_drops_stages(tmp_path):
    path = write(tmp_path, {"preset": "tiny", "joint": None, "stage1": {"steps": 3}})
    preset = load_preset(path)
    assert preset.joint is None
    assert preset.stage1 == DiffusionStage(steps=3)


def test_what_a_run_stores_loads_again(tmp_path):
    for preset in PRESETS.values():
        path = write(tmp_path, dataclasses.asdict(preset))
        assert load_preset(path) == preset


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"preset": "tiny", "joint": {"stepz": 5}},
            "unknown field 'stepz'; did you mean 'steps'?",
        ),
        ({"preset": "tiny", "joint": {"data": {"crop": "big"}}}, "crop: expected int"),
        ({"preset": "tiny", "joint": {"optimizer": "sgd"}}, "must be one of muon, adamw"),
        ({"preset": "tiny", "joint": {"accumulation": 3}}, "multiple of accumulation"),
        ({"preset": "tiny", "joint": {"trains": []}}, "names nothing to train"),
        ({"preset": "tiny", "autoencoder": None}, "come together or not at all"),
        ({"preset": "huge"}, '"preset" must be one of tiny, tiny-further, paper'),
        ({"preset": ["tiny"]}, '"preset" must be one of'),
        ({"preset": "tiny", "sed": 1}, "unknown field 'sed'; did you mean 'seed'? known"),
        (
            {"preset": "tiny", "joint": {"data": {"shake": {"mtoion": 1}}}},
            "joint.data.shake: unknown field 'mtoion'; did you mean 'motion'?",
        ),
        (
            {"preset": "tiny", "joint": {"data": {"shake": {"motion": [5, 1]}}}},
            "joint.data.shake: motion: expected (lowest, highest)",
        ),
        ({"preset": "tiny-further", "joint": None}, "names no stage to run"),
        ({"preset": "tiny", "seed": -1}, "seed must be between 0 and"),
        ({"preset": "tiny", "autoencoder": {"steps": 0}}, "steps must be 1 or more, got 0"),
        ({"preset": "tiny", "autoencoder": {"batch_size": 0}}, "batch_size must be 1 or more"),
        ({"preset": "tiny", "joint": {"steps": -5}}, "steps must be 1 or more, got -5"),
        ({"preset": "tiny", "joint": {"steps": "many"}}, "steps: expected int, got 'many'"),
        ({"preset": "tiny", "joint": {"learning_rate": math.nan}}, "learning_rate must be 0"),
        ({"preset": "tiny", "joint": {"learning_rate": math.inf}}, "learning_rate must be 0"),
        ({"preset": "tiny", "joint": {"betas": [0.9, 2]}}, "and below 1, got (0.9, 2.0)"),
        ({"preset": "tiny", "joint": {"ema_decay": 1.5}}, "ema_decay must be 0 or more and"),
        ({"preset": "tiny", "joint": {"pixel_floor": [0, 0]}}, "pixel_floor must be above 0"),
        ({"preset": "tiny", "joint": {"latent_floor": [-1, 1]}}, "latent_floor must be above"),
        ({"preset": "tiny", "joint": {"min_snr_gamma": 0}}, "min_snr_gamma must be above 0"),
        ({"preset": "tiny", "joint": {"pixel_frames": 0}}, "pixel_frames must be 1 or more"),
        ({"preset": "tiny", "joint": {"easy_until": 7}}, "easy_until must be between 0 and 1"),
        ([1], '"preset" must be one of'),
        ("{not json", "not JSON"),
    ],
)
def test_bad_files_name_the_field(tmp_path, values, message):
    path = write(tmp_path, values)
    with pytest.raises(ConfigError) as error:
        load_preset(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_of_windows_editor_is_read(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"preset": "tiny", "seed": 4}', encoding="utf-8-sig")
    assert load_preset(path).seed == 4


def test_a_name_that_is_nothing_is_refused():
    with pytest.raises(FileNotFoundError, match=r"tinny: neither a preset \(tiny, .* nor a"):
        load_preset("tinny")


def test_accumulation_must_divide_the_batch():
    with pytest.raises(ConfigError, match=r"clips_per_batch \(4\).*accumulation \(8\)"):
        DiffusionStage(steps=1, data=DataConfig(clips_per_batch=4), accumulation=8)
    assert Preset(joint=DiffusionStage(steps=1)).autoencoder is None


def test_a_stage_keeps_its_batch_size():
    more = DataConfig(clips_per_batch=64)
    with pytest.raises(ConfigError, match=r"easy_data.clips_per_batch \(64\).*data \(4\)"):
        DiffusionStage(steps=1, easy_data=more)
    with pytest.raises(ConfigError, match=r"straight_data.clips_per_batch \(64\)"):
        ContentStage(steps=1, straight_data=more)
    assert ContentStage(steps=1, data=more, straight_data=more).easy_data is None


def test_a_stage_that_would_learn_nothing_for_most_of_its_run_is_refused():
    for wrong in ({"pixel_loss": "off"}, {"pixel_loss": "decoder"}):
        with pytest.raises(ConfigError, match=r"min_snr_gamma .*set mixed_from to 0, or"):
            DiffusionStage(steps=1, min_snr_gamma=5.0, **wrong)
    assert DiffusionStage(steps=1, min_snr_gamma=5.0).pixel_loss == "last"
    assert DiffusionStage(steps=1, min_snr_gamma=5.0, pixel_loss="off", mixed_from=0.0)


def test_shares_of_timesteps_leave_a_rest():
    with pytest.raises(ConfigError, match=r"add up to 1\.1, expected 1 or less"):
        DiffusionStage(steps=1, last_timestep_share=0.8)
    assert DiffusionStage(steps=1, last_timestep_share=0.7)


def test_every_stage_of_every_seed_draws_clips_of_its_own():
    presets = [dataclasses.replace(PRESETS["tiny"], seed=seed) for seed in range(20)]
    seeds = [preset.data_seed(stage) for preset in presets for stage in range(30)]
    assert len({*seeds}) == len(seeds)


def test_stages_can_be_run_alone():
    tiny, paper = load_preset("tiny"), load_preset("paper")
    assert tiny.stages == ("autoencoder", "joint")
    assert tiny.only(["joint"]).stages == ("joint",)
    assert tiny.only(["joint"]).joint == tiny.joint
    assert tiny.only(["autoencoder"]).model == tiny.model
    assert paper.only(["stage2"]) == dataclasses.replace(paper, stage1=None)
    with pytest.raises(ConfigError, match="stage 'joint' is none of this preset's: stage1"):
        paper.only(["stage1", "joint"])
