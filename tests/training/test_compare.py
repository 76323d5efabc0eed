from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
from video_deblur.training.compare import budget, compare, config_names
from video_deblur.training.presets import PRESETS, load_preset


def make_preset(steps=200, coherence_weight=0.1, **data):
    tiny = PRESETS["tiny"]
    joint = dataclasses.replace(
        tiny.joint,
        steps=steps,
        coherence_weight=coherence_weight,
        data=dataclasses.replace(tiny.joint.data, **data),
    )
    return dataclasses.replace(tiny, joint=joint)


CONFIGS = {"with": make_preset(), "without": make_preset(coherence_weight=0.0)}
SCORES = {
    **{("with", 0): 28.0, ("with", 1): 27.0, ("with", 2): 29.0},
    **{("without", 0): 28.5, ("without", 1): 27.1, ("without", 2): 29.9},
}


class Trainer:
    """Writes a checkpoint that names the run; what `broken` holds fails instead."""

    def __init__(self, broken=(), scores=SCORES, before=None):
        self.trained, self.broken, self.scores = [], set(broken), scores
        self.before = before or {}

    def train(self, preset, folder):
        run = (folder.parent.name, preset.seed)
        self.trained.append(run)
        if run in self.broken:
            raise RuntimeError("the gradient was not finite\n10 times in a row")
        path = folder / "checkpoint.safetensors"
        path.write_text(json.dumps(run))
        return path

    def score(self, checkpoint):
        name, seed = json.loads(checkpoint.read_text())
        return {**self.before.get((name, seed), {}), "joint": self.scores[name, seed]}

    def compare(self, folder, seeds=(0, 1), configs=CONFIGS, **options):
        return compare(configs, seeds, self.train, self.score, folder, **options)


def table_of(folder):
    lines = (folder / "comparison.md").read_text().splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_every_config_is_trained_with_every_seed_in_its_own_folder(tmp_path):
    trainer = Trainer()
    comparison = trainer.compare(tmp_path)
    assert trainer.trained == [("with", 0), ("without", 0), ("with", 1), ("without", 1)]
    assert comparison.scores == {"with": {0: 28.0, 1: 27.0}, "without": {0: 28.5, 1: 27.1}}
    record = json.loads((tmp_path / "without" / "seed1" / "run.json").read_text())
    assert record["score"] == 27.1
    assert record["config"]["seed"] == 1
    assert record["config"]["joint"]["coherence_weight"] == 0.0


def test_means_spread_and_paired_difference_are_those_of_the_scores(tmp_path):
    comparison = Trainer().compare(tmp_path, seeds=(0, 1, 2))
    spread, difference = comparison.spread("without"), comparison.difference("without")
    assert (spread.low, spread.high) == (27.1, 29.9)
    assert spread.mean == pytest.approx(28.5)
    assert spread.deviation == pytest.approx(1.4)
    assert difference.mean == pytest.approx(0.5)
    # Seeds move both alike: the paired spread is far below that of the scores.
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.9))
    assert difference.deviation == pytest.approx(0.4)
    stored = json.loads((tmp_path / "comparison.json").read_text())["configs"]["without"]
    assert stored["difference"]["mean"] == pytest.approx(0.5)
    assert stored["scores"] == {"0": 28.5, "1": 27.1, "2": 29.9}
    assert stored["changes"] == {"joint.coherence_weight": [0.1, 0.0]}


def test_the_table_shows_them(tmp_path):
    Trainer().compare(tmp_path, score_name="PSNR, dB", settings={"init": "divd-tiny"})
    head, _, *rows = table_of(tmp_path)
    assert head == [
        *("config", "seeds", "mean", "min to max"),
        *("less with, same seed", "min to max"),
    ]
    assert rows == [
        ["with", "2", "27.500", "27.000 to 28.000", "", ""],
        ["without", "2", "27.800", "27.100 to 28.500", "+0.300", "+0.100 to +0.500"],
    ]
    text = (tmp_path / "comparison.md").read_text()
    assert text.startswith("PSNR, dB, seeds 0, 1:\n")
    assert "- without against with: joint.coherence_weight 0.0 (there 0.1)." in text
    assert "joint.steps 200, joint.num_frames 8, joint.crop 96, joint.clips_per_batch 4" in text
    assert '- Settings: init "divd-tiny".' in text


def test_the_table_has_deviations_from_three_seeds_on(tmp_path):
    Trainer().compare(tmp_path, seeds=(0, 1, 2))
    head, _, _, row = table_of(tmp_path)
    assert head.count("std") == 2
    assert row[4] == "1.400"
    assert row[-1] == "0.400"


def test_what_stages_before_the_last_reached_is_shown_beside(tmp_path):
    before = {("with", 0): {"first": 27.5}, ("with", 1): {"first": 26.9}}
    trainer = Trainer(before=before)
    trainer.compare(tmp_path)
    rows = table_of(tmp_path)
    assert rows[-1] == [
        *("with", "first", "2", "27.200", "26.900 to 27.500"),
        *("+0.300", "+0.100 to +0.500"),
    ]
    stored = json.loads((tmp_path / "comparison.json").read_text())["configs"]
    assert stored["with"]["stages"] == {"first": {"0": 27.5, "1": 26.9}}
    assert stored["without"]["stages"] == {}
    # Also where the scores were there already.
    assert trainer.compare(tmp_path).stages["with"]["first"] == {0: 27.5, 1: 26.9}
    assert len(trainer.trained) == 4


def test_one_failed_run_names_itself_and_the_others_go_on(tmp_path, caplog):
    trainer = Trainer(broken=[("with", 1)])
    with caplog.at_level(logging.WARNING):
        comparison = trainer.compare(tmp_path, seeds=(0, 1, 2))
    reason = "RuntimeError: the gradient was not finite 10 times in a row"
    assert f"with, seed 1 failed: {reason}" in caplog.text
    assert comparison.failures == {"with": {1: reason}}
    assert len(trainer.trained) == 6
    assert comparison.difference("without").mean == pytest.approx(0.7)
    _, _, first, second = table_of(tmp_path)
    assert first[:3] == ["with", "2 of 3", "28.500"]
    assert second[1:3] == ["3", "28.500"]
    assert second[5] == "+0.700 (2 of 3 seeds)"
    text = (tmp_path / "comparison.md").read_text()
    assert f"- **Failed**: with, seed 1: {reason}" in text


def test_a_score_that_is_no_number_is_a_failure(tmp_path):
    scores = {**SCORES, ("without", 0): float("nan")}
    comparison = Trainer(scores=scores).compare(tmp_path, seeds=[0])
    assert comparison.failures == {"without": {0: "ValueError: the score is nan"}}
    assert comparison.spread("without") is None
    assert table_of(tmp_path)[-1][:3] == ["without", "0 of 1", "none"]


def test_finished_runs_are_not_repeated_and_failed_ones_tried_again(tmp_path):
    Trainer(broken=[("without", 0)]).compare(tmp_path)
    again = Trainer()
    comparison = again.compare(tmp_path, seeds=(0, 1, 2))
    assert again.trained == [("without", 0), ("with", 2), ("without", 2)]
    assert comparison.failures == {}
    assert comparison.scores["with"] == {0: 28.0, 1: 27.0, 2: 29.0}


def test_an_interrupted_run_is_handed_on_to_be_resumed(tmp_path):
    class InterruptedTrainer(Trainer):
        def train(self, preset, folder):
            path = super().train(preset, folder)
            if len(self.trained) == 2:
                (folder / "state.pt").write_text("update 100")
                raise KeyboardInterrupt
            return path

    with pytest.raises(KeyboardInterrupt):
        InterruptedTrainer().compare(tmp_path)
    assert table_of(tmp_path)[2][:3] == ["with", "1 of 2", "28.000"]
    again = Trainer()
    again.compare(tmp_path)
    assert again.trained == [("without", 0), ("with", 1), ("without", 1)]
    assert (tmp_path / "without" / "seed0" / "state.pt").read_text() == "update 100"


def test_runs_of_another_config_or_other_data_are_not_mixed_in(tmp_path):
    Trainer().compare(tmp_path, settings={"data": ["pairs:a"]})
    changed = {**CONFIGS, "without": make_preset(coherence_weight=0.5)}
    trainer = Trainer()
    with pytest.raises(ValueError, match=r"coherence_weight = 0\.0, now it is 0\.5; choose"):
        trainer.compare(tmp_path, configs=changed, settings={"data": ["pairs:a"]})
    with pytest.raises(ValueError, match=r'settings\.data = \["pairs:a"\], now it is \["pairs'):
        trainer.compare(tmp_path, settings={"data": ["pairs:b"]})
    with pytest.raises(ValueError, match='score_name = "score", now it is "SSIM"'):
        trainer.compare(tmp_path, score_name="SSIM", settings={"data": ["pairs:a"]})
    assert trainer.trained == []


def test_what_failed_before_it_began_may_be_mended(tmp_path):
    broken = Trainer(broken=[(name, seed) for name in CONFIGS for seed in (0, 1)])
    broken.compare(tmp_path, settings={"data": ["pairs:mistyped"]})
    mended = Trainer().compare(tmp_path, settings={"data": ["pairs:a"]})
    assert mended.failures == {}
    assert json.loads((tmp_path / "with" / "seed0" / "run.json").read_text())["settings"] == {
        "data": ["pairs:a"]
    }


def test_a_folder_with_something_else_is_refused(tmp_path):
    folder = tmp_path / "with" / "seed0"
    folder.mkdir(parents=True)
    (folder / "joint.jsonl").write_text("")
    with pytest.raises(ValueError, match="seed0: holds something else"):
        Trainer().compare(tmp_path)
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json: is not JSON .*; delete"):
        Trainer().compare(tmp_path)
    (folder / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run\.json: must hold an object; delete"):
        Trainer().compare(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 400}, "joint.steps is 200 in with and 400 in longer"),
        ({"num_frames": 16}, "joint.num_frames is 8 in with and 8 and 16 in longer"),
        ({"crop": 128}, "joint.crop is 96 in with and 96 and 128 in longer"),
    ],
)
def test_unequal_budgets_are_refused_unless_allowed(tmp_path, change, message):
    configs = {"with": make_preset(), "longer": make_preset(**change)}
    scores = {("with", 0): 1.0, ("longer", 0): 2.0}
    trainer = Trainer(scores=scores)
    with pytest.raises(ValueError, match=message):
        trainer.compare(tmp_path, seeds=[0], configs=configs)
    assert trainer.trained == []
    assert not list(tmp_path.iterdir())
    trainer.compare(tmp_path, seeds=[0], configs=configs, unequal_budget=True)
    text = (tmp_path / "comparison.md").read_text()
    assert "- Budget of with: " in text
    assert "- Budget of longer: " in text


def test_a_stage_that_only_one_has_is_an_unequal_budget(tmp_path):
    longer = dataclasses.replace(PRESETS["tiny"], joint=make_preset().joint)
    shorter = dataclasses.replace(longer, model=None, autoencoder=None)
    with pytest.raises(ValueError, match=r"autoencoder\.\w+ is \d+ in a and absent in b"):
        Trainer().compare(tmp_path, configs={"a": longer, "b": shorter})


def test_the_model_is_no_budget():
    names = {name.split(".")[0] for name in budget(make_preset())}
    assert names == {"autoencoder", "joint"}
    # Neither are the defaults that it is sampled with.
    names = {name.split(".")[0] for name in budget(PRESETS["cpgd-tiny"])}
    assert names == {"cpfp", "cpc"}


def compare_experiments(work, folder, *names):
    """Compare configs of docs/experiments without training."""
    experiments = Path(__file__).parents[2] / "docs" / "experiments" / folder
    assert {path.stem for path in experiments.glob("*.json")} == set(names)
    configs = {name: load_preset(experiments / f"{name}.json") for name in names}
    scores = {(name, seed): 28.0 for name in names for seed in (0, 1)}
    return Trainer(scores=scores).compare(work, configs=configs)


def test_the_ablation_of_divd_changes_one_thing_each(tmp_path):
    names = ("window", "frame", "no_positions", "no_coherence")
    comparison = compare_experiments(tmp_path, "ablation", *names)
    assert comparison.changes == {
        "frame": {"model.unet.temporal_attention": ("window", "frame")},
        "no_positions": {"model.unet.relative_positions": (True, False)},
        "no_coherence": {"joint.coherence_weight": (0.1, 0.0)},
    }
    assert comparison.budgets["window"]["joint.steps"] == [3000]


def test_the_ablation_of_coding_priors_changes_nothing_else(tmp_path):
    names = ("none", "motion", "motion_residual")
    comparison = compare_experiments(tmp_path, "coding_priors", *names)
    field = "cpgd_model.cpfp.priors"
    assert comparison.changes == {
        name: {field: ("none", name)} for name in ("motion", "motion_residual")
    }
    assert comparison.budgets["none"]["cpfp.steps"] == [1600]
    assert comparison.budgets["none"]["cpc.steps"] == [600]


def test_bad_requests_are_named(tmp_path, monkeypatch):
    trainer = Trainer()
    with pytest.raises(ValueError, match="at least two configs, got 1"):
        trainer.compare(tmp_path, configs={"with": make_preset()})
    for seeds in ([], [1, 1], [-1]):
        with pytest.raises(ValueError, match="seeds must be one or more different numbers"):
            trainer.compare(tmp_path, seeds=seeds)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="a comparison runs in one process"):
        trainer.compare(tmp_path)
    assert trainer.trained == []


def test_configs_are_named_after_their_files():
    names = config_names(["ablation/frame.json", "window.v1.json", "tiny"])
    assert names == {
        **{"frame": "ablation/frame.json", "window.v1": "window.v1.json"},
        "tiny": "tiny",
    }
    with pytest.raises(ValueError, match=r"a/frame\.json and b/Frame\.json are both named"):
        config_names(["a/frame.json", "b/Frame.json"])
