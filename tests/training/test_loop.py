from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from torch import nn
from video_deblur.training.loop import Run, schedule_factor, train


class StoppedError(Exception):
    pass


def make_network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def make_run(folder, **changes):
    values = {"name": "stage", "folder": folder, "steps": 12, "learning_rate": 0.01}
    return Run(**{**values, "warmup_steps": 3, "save_every_s": -1.0, "log_every": 4, **changes})


def make_loss(network, stop_at=None, bad=()):
    def loss_fn(step, generator):
        if step == stop_at:
            raise StoppedError
        x = torch.randn(16, 4, generator=generator)
        loss = (network(x) - x.sum(1, keepdim=True)).square().mean()
        return {"loss": loss * (float("nan") if step in bad else 1)}

    return loss_fn


@pytest.mark.parametrize("stop_at", [1, 7, 11])
def test_resuming_equals_never_stopping(tmp_path, stop_at):
    whole = make_network()
    run = make_run(tmp_path / "whole")
    assert train(run, whole, make_loss(whole)) == 12
    first = make_network()
    with pytest.raises(StoppedError):
        train(make_run(tmp_path / "parts"), first, make_loss(first, stop_at))
    second = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    torch.manual_seed(77)
    resumed = make_run(tmp_path / "parts")
    assert train(resumed, second, make_loss(second)) == 12
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)
        assert torch.equal(resumed.average[name], run.average[name])
    assert [p.name for p in (tmp_path / "parts").glob("*.part")] == []


def test_a_finished_run_does_nothing_more(tmp_path):
    network = make_network()
    train(make_run(tmp_path), network, make_loss(network))
    before = copy.deepcopy(network.state_dict())
    assert train(make_run(tmp_path), network, make_loss(network, stop_at=0)) == 12
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_training_learns_and_logs(tmp_path):
    network, seen = make_network(), []
    run = make_run(tmp_path, steps=60, log_every=20, progress=lambda *call: seen.append(call))
    train(run, network, make_loss(network))
    lines = [json.loads(line) for line in (tmp_path / "stage.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert [call[:2] for call in seen] == [(20, 60), (40, 60), (60, 60)]


def test_an_update_that_is_not_finite_is_skipped(tmp_path, caplog):
    network, skipped = make_network(), make_network()
    train(make_run(tmp_path / "one", steps=1), network, make_loss(network))
    with caplog.at_level(logging.WARNING):
        run = make_run(tmp_path / "two", steps=2)
        bad = make_loss(skipped, bad=(0,))
        before = copy.deepcopy(skipped.state_dict())

        def stop_after_the_bad_one(step, generator):
            if step == 1:
                current = skipped.state_dict()
                assert all(torch.equal(current[name], before[name]) for name in before)
            return bad(step, generator)

        train(run, skipped, stop_after_the_bad_one)
    assert "update 0: gradient is not finite, skipped" in caplog.text
    assert all(value.isfinite().all() for value in skipped.state_dict().values())


def test_ten_bad_updates_in_a_row_end_the_run(tmp_path):
    network = make_network()
    with pytest.raises(
        RuntimeError, match="10 times in a row at update 10; lower the learning"
    ):
        train(make_run(tmp_path), network, make_loss(network, bad=range(1, 12)))
    assert all(value.isfinite().all() for value in network.state_dict().values())
    network = make_network()
    run = make_run(tmp_path / "nine", steps=25)
    assert train(run, network, make_loss(network, bad={*range(9), *range(10, 19)})) == 25


def test_a_part_that_is_sometimes_missing_is_averaged_where_it_is(tmp_path):
    network = make_network()
    loss_fn = make_loss(network)

    def with_part(step, generator):
        extra = {"pixels": torch.tensor(6.0)} if step % 2 else {}
        return {**loss_fn(step, generator), **extra}

    train(make_run(tmp_path, steps=4), network, with_part)
    assert json.loads((tmp_path / "stage.jsonl").read_text())["pixels"] == 6.0


def test_the_state_of_another_network_is_refused(tmp_path):
    network = make_network()
    train(make_run(tmp_path), network, make_loss(network))
    other = nn.Sequential(nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"stage\.pt: state of another network"):
        train(make_run(tmp_path), other, make_loss(other))
    wider = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1))
    with pytest.raises(ValueError, match=r"stage\.pt: state of another network"):
        train(make_run(tmp_path), wider, make_loss(wider))


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [schedule_factor(step, 100, 10) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0, abs=0.03)
    assert factors[100] == pytest.approx(0, abs=1e-9)
    assert factors[20:] == sorted(factors[20:], reverse=True)
