from __future__ import annotations

import copy
import json
import logging
import threading

import pytest
import torch
from torch import nn
from video_deblur.training import loop, states
from video_deblur.training.loop import Run, schedule_factor, train


class StoppedError(Exception):
    pass


class Network(nn.Module):
    """Learns the sum of its inputs; counts as a stage of training."""

    def __init__(self, bad=()):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.bad = bad

    def forward(self, step, x):
        error = (self.layers(x) - x.sum(1, keepdim=True)).square().flatten()
        odd = torch.full_like(error, 6.0 if step % 2 else torch.nan).detach()
        return {"loss": error * (float("nan") if step in self.bad else 1), "odd": odd}


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


def make_batches(stop_at=None, parts=1):
    def batches(first, last):
        for step in range(first, last):
            if step == stop_at:
                raise StoppedError
            x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
            yield [(step, part) for part in x.chunk(parts)]

    return batches


def make_run(folder, **changes):
    values = {"name": "stage", "folder": folder, "steps": 12, "learning_rate": 0.01}
    return Run(**{**values, "warmup_steps": 3, "save_every_s": -1.0, "log_every": 4, **changes})


@pytest.fixture
def run_training(accelerator):
    def run_training(run, network, stop_at=None, parts=1, validation=None):
        batches = make_batches(stop_at, parts)
        return train(run, accelerator, network, batches, lambda micro: micro, validation)

    return run_training


def lines_of(folder):
    return [json.loads(line) for line in (folder / "stage.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("stop_at", [1, 7, 11])
def test_resuming_equals_never_stopping(tmp_path, run_training, stop_at, muon):
    takes_muon = (lambda name, parameter: parameter.ndim > 1) if muon else None
    whole = Network()
    average = run_training(make_run(tmp_path / "whole", takes_muon=takes_muon), whole)
    run = make_run(tmp_path / "parts", takes_muon=takes_muon)
    with pytest.raises(StoppedError):
        run_training(run, Network(), stop_at)
    resumed = Network()
    torch.nn.init.normal_(resumed.layers[0].weight)
    resumed_average = run_training(run, resumed)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)
        assert torch.equal(resumed_average[name], average[name])
    assert [line["step"] for line in lines_of(tmp_path / "parts")] == [4, 8, 12]
    assert not list((tmp_path / "parts" / "states").glob(".*"))


def test_a_finished_run_does_nothing_more(tmp_path, run_training):
    network = Network()
    run_training(make_run(tmp_path), network)
    before = copy.deepcopy(network.state_dict())
    run_training(make_run(tmp_path), network, stop_at=0)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_parts_of_an_update_add_up_to_it(tmp_path, run_training):
    whole, parts = Network(), Network()
    run_training(make_run(tmp_path / "whole"), whole)
    run_training(make_run(tmp_path / "parts"), parts, parts=4)
    for name, value in whole.state_dict().items():
        assert torch.allclose(parts.state_dict()[name], value, atol=1e-5), name
    losses = [[line["loss"] for line in lines_of(tmp_path / n)] for n in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_losses_are_computed_in_the_runs_precision_and_batches_are_not(
    tmp_path, accelerator, monkeypatch
):
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    monkeypatch.setattr(accelerator, "autocast", lambda: autocast)
    enabled = {"prepare": [], "forward": []}

    class Watched(Network):
        def forward(self, step, x):
            enabled["forward"].append(torch.is_autocast_enabled("cpu"))
            return super().forward(step, x)

    def prepare(micro_batch):
        enabled["prepare"].append(torch.is_autocast_enabled("cpu"))
        return micro_batch

    train(make_run(tmp_path, steps=2), accelerator, Watched(), make_batches(), prepare)
    assert enabled == {"prepare": [False] * 2, "forward": [True] * 2}


def test_training_learns_and_logs(tmp_path, run_training):
    seen = []
    values = {"steps": 60, "log_every": 20, "images_per_sample": 8}
    run = make_run(tmp_path, progress=lambda *call: seen.append(call), **values)
    run_training(run, Network())
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [20, 40, 60]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert [call[:2] for call in seen] == [(step, 60) for step in range(1, 61)]
    at_lines = [call for call in seen if call[2] is not None]
    assert [call[0] for call in at_lines] == [20, 40, 60]
    assert at_lines[0][2]["left_s"] > 0 == at_lines[-1][2]["left_s"]
    # 20 updates of 16 samples of 8 images before the first line.
    line = at_lines[0][2]
    assert (
        line["images_per_s"] * lines[0]["elapsed_s"] < 20 * 16 * 8 * 1.1 + line["images_per_s"]
    )
    for line in lines:
        assert line["images_per_s"] > 0
        assert 0 <= line["data_wait"] < 1
        assert 0 < line["data_preparation"] < 1
        assert line["memory_gb"] > 0
        assert line["learning_rate"] <= run.learning_rate
        # Every second update has none: averaged over those that have one.
        assert line["odd"] == 6.0
    elapsed = [line["elapsed_s"] for line in lines]
    assert elapsed == sorted(elapsed)


def test_a_line_that_a_kill_cut_off_spoils_no_other(tmp_path, run_training):
    (tmp_path / "stage.jsonl").write_text('{"step": 2, "lo')
    run_training(make_run(tmp_path), Network())
    lines = (tmp_path / "stage.jsonl").read_text().splitlines()
    assert lines[0] == '{"step": 2, "lo'
    assert [json.loads(line)["step"] for line in lines[1:]] == [4, 8, 12]


def test_an_update_that_is_not_finite_is_skipped(tmp_path, run_training, caplog):
    network = Network(bad=(0,))
    before = copy.deepcopy(network.state_dict())
    with caplog.at_level(logging.WARNING):
        run_training(make_run(tmp_path, steps=1), network)
    assert "update 0: gradient is not finite, skipped" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_ten_bad_updates_in_a_row_end_the_run(tmp_path, run_training):
    network = Network(bad=range(1, 12))
    with pytest.raises(
        FloatingPointError, match="10 times in a row at update 10; lower the learning"
    ):
        run_training(make_run(tmp_path / "ten"), network)
    assert all(value.isfinite().all() for value in network.state_dict().values())
    nine = Network(bad={*range(9), *range(10, 19)})
    run_training(make_run(tmp_path / "nine", steps=25), nine)
    assert all(value.isfinite().all() for value in nine.state_dict().values())
    assert [line["skipped_updates"] for line in lines_of(tmp_path / "nine")][-1] == 18


def test_skipped_updates_are_counted_across_a_resume(tmp_path, run_training):
    run = make_run(tmp_path, steps=20)
    with pytest.raises(StoppedError):
        run_training(run, Network(bad=range(1, 20)), stop_at=6)
    with pytest.raises(FloatingPointError, match="10 times in a row at update 10"):
        run_training(run, Network(bad=range(1, 20)))
    assert lines_of(tmp_path)[-1]["skipped_updates"] == 7


class Scores:
    """A validation whose scores are given."""

    def __init__(self, scores, network):
        self.scores, self.network = dict(scores), network
        self.measured, self.kept = [], []

    def measure(self, step):
        self.measured.append((step, self.network.layers[0].weight.detach().clone()))
        return {"validation_psnr": self.scores[step]}

    def keep(self):
        self.kept.append(self.measured[-1][0])


def test_the_best_averaged_weights_are_kept(tmp_path, run_training):
    network = Network()
    scores = Scores({3: 20.0, 6: 22.0, 9: 21.0, 12: 22.5}, network)
    run = make_run(tmp_path, validate_every=3)
    average = run_training(run, network, validation=scores)
    assert [step for step, _ in scores.measured] == [3, 6, 9, 12]
    assert scores.kept == [3, 6, 12]
    assert torch.equal(scores.measured[-1][1], average["layers.0.weight"])
    assert not torch.equal(network.layers[0].weight.detach(), average["layers.0.weight"])
    lines = [line for line in lines_of(tmp_path) if "validation_psnr" in line]
    assert {line["step"]: line["validation_psnr"] for line in lines} == scores.scores


def test_the_best_score_survives_resuming(tmp_path, run_training):
    first, second = Network(), Network()
    before = Scores({3: 25.0, 6: 22.0}, first)
    run = make_run(tmp_path, validate_every=3)
    with pytest.raises(StoppedError):
        run_training(run, first, stop_at=7, validation=before)
    after = Scores({9: 24.0, 12: 26.0}, second)
    run_training(run, second, validation=after)
    assert (before.kept, after.kept) == ([3], [12])


def test_a_run_that_ends_early_goes_on_as_if_it_never_had(tmp_path, run_training):
    whole = run_training(make_run(tmp_path / "whole"), Network())
    (tmp_path / "part").mkdir()
    part = run_training(make_run(tmp_path / "part", time_limit_s=0.0), Network())
    assert [line["step"] for line in lines_of(tmp_path / "part")] == [1]
    assert not any(torch.equal(part[name], whole[name]) for name in whole)
    resumed = run_training(make_run(tmp_path / "part", time_limit_s=60.0), Network())
    assert lines_of(tmp_path / "part")[-1]["step"] == 12
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [schedule_factor(step, 100, 10) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0, abs=0.03)
    assert factors[100] == pytest.approx(0, abs=1e-9)
    assert factors[20:] == sorted(factors[20:], reverse=True)


def test_a_warm_up_longer_than_the_stage_is_named(tmp_path, run_training, caplog):
    run_training(make_run(tmp_path / "long", steps=4, warmup_steps=9), Network())
    assert "the warm-up takes 9 updates, the stage 4, so that the learning rate" in caplog.text
    caplog.clear()
    run_training(make_run(tmp_path / "short", steps=4, warmup_steps=3), Network())
    assert "warm-up" not in caplog.text


def test_training_goes_on_while_a_state_is_written(tmp_path, run_training, monkeypatch):
    go_on, written, seen = threading.Event(), [], []
    real = torch.save

    def save(state, file):
        assert go_on.wait(30)
        written.append(state["progress"]["step"])
        real(state, file)

    def progress(step, steps, values):
        if step == 2:
            seen.extend(written)
            go_on.set()

    monkeypatch.setattr(states.torch, "save", save)
    run_training(make_run(tmp_path, progress=progress), Network())
    # The second update was done before the state of the first one was on the disk.
    assert seen == []
    assert written == list(range(1, 13))


def test_states_are_written_as_often_as_their_size_allows(tmp_path, run_training, monkeypatch):
    asked = []

    def seconds(parameters):
        asked.append(len(list(parameters)))
        return -1.0

    monkeypatch.setattr(loop, "seconds_between_states", seconds)
    (tmp_path / "default").mkdir()
    run_training(make_run(tmp_path / "default", save_every_s=None, steps=2), Network())
    (tmp_path / "given").mkdir()
    run_training(make_run(tmp_path / "given", save_every_s=60.0, steps=2), Network())
    assert asked == [4]
    assert len(list((tmp_path / "given" / "states").iterdir())) == 1


class Players(nn.Module):
    """Two networks with losses of their own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(4, 1)
        self.second = nn.Linear(4, 1)

    def forward(self, step, x):
        error = (self.first(x) - x.sum(1, keepdim=True)).square().flatten()
        return {"loss": error + 1e3 * (self.second(x) + 1).square().flatten()}


def test_an_opponent_is_clipped_by_itself_and_not_averaged(tmp_path, run_training):
    network, before = Players(), Players()
    opponent = loop.Opponent(prefix="second.", betas=(0.5, 0.9))
    run = make_run(tmp_path, steps=1, opponent=opponent, rate_factors={"second.": 0.0})
    average = run_training(run, network)
    assert set(average) == {"first.weight", "first.bias"}
    # With the rate of its own, 0, it stays; the other moved although that gradient is large.
    assert torch.equal(network.second.weight, before.second.weight)
    assert not torch.equal(network.first.weight, before.first.weight)
    (line,) = lines_of(tmp_path)
    assert line["opponent_gradient_norm"] > 100 * line["gradient_norm"]
    state = torch.load(tmp_path / "states" / "stage_0000001.pt", weights_only=True)
    betas = [group["betas"] for o in state["optimizers"] for group in o["param_groups"]]
    assert betas == [(0.9, 0.999)] * 2 + [(0.5, 0.9)] * 2


def test_an_opponents_gradient_that_is_not_finite_skips_the_update(tmp_path, run_training):
    class Broken(Players):
        def forward(self, step, x):
            return {"loss": super().forward(step, x)["loss"] + self.second.bias * float("inf")}

    network, before = Broken(), Broken()
    opponent = loop.Opponent(prefix="second.", betas=(0.5, 0.9))
    run_training(make_run(tmp_path, steps=1, opponent=opponent), network)
    assert torch.equal(network.first.weight, before.first.weight)
    assert lines_of(tmp_path)[0]["skipped_updates"] == 1
