from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from video_deblur.training import states
from video_deblur.training.muon import Muon
from video_deblur.training.states import (
    Progress,
    StateWriter,
    load_state,
    seconds_between_states,
    whole_weights,
)


@pytest.fixture(scope="module")
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


class Trained:
    """A network with two optimizers and an average, after an update."""

    def __init__(self, seed, width=5):
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))
        self.module[1].bias.requires_grad_(False)
        matrices = [p for p in self.module.parameters() if p.ndim > 1]
        vectors = [p for p in self.module.parameters() if p.ndim == 1 and p.requires_grad]
        self.optimizers = [torch.optim.AdamW(vectors), Muon(matrices)]
        for parameter in (*matrices, *vectors):
            parameter.grad = torch.randn_like(parameter)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.average = {
            name: torch.randn_like(parameter)
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
        }

    def save(self, folder, step, accelerator):
        progress = Progress(step=step, best=20.5, elapsed_s=3.0)
        with StateWriter(folder, "stage", accelerator) as writer:
            writer.save(progress, self.module, self.optimizers, self.average)

    def load(self, folder):
        return load_state(folder, "stage", self.module, self.optimizers, self.average)


def assert_equal(a, b):
    for (name, first), second in zip(
        a.module.named_parameters(), b.module.parameters(), strict=True
    ):
        assert torch.equal(first, second) == first.requires_grad, name
    for first, second in zip(a.optimizers, b.optimizers, strict=True):
        ours, theirs = first.state_dict()["state"], second.state_dict()["state"]
        assert ours.keys() == theirs.keys() != set()
        for key, values in ours.items():
            for name, value in values.items():
                assert torch.equal(value, theirs[key][name]), name
    assert all(torch.equal(value, b.average[name]) for name, value in a.average.items())


def test_a_state_brings_everything_trained_back(tmp_path, accelerator):
    saved, loaded = Trained(0), Trained(1)
    assert loaded.load(tmp_path) == Progress()
    saved.save(tmp_path, 7, accelerator)
    assert loaded.load(tmp_path) == Progress(step=7, best=20.5, elapsed_s=3.0)
    assert_equal(saved, loaded)


def test_the_newest_three_are_kept(tmp_path, accelerator):
    trained = Trained(0)
    for step in (9, 10, 99, 100, 101):
        trained.save(tmp_path, step, accelerator)
    names = sorted(path.name for path in (tmp_path / "states").iterdir())
    assert names == ["stage_0000099.pt", "stage_0000100.pt", "stage_0000101.pt"]


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path, accelerator, caplog):
    old, new = Trained(0), Trained(1)
    old.save(tmp_path, 5, accelerator)
    new.save(tmp_path, 6, accelerator)
    path = tmp_path / "states" / "stage_0000006.pt"
    for damage in (path.read_bytes()[: path.stat().st_size // 2], b"", b"nonsense"):
        path.write_bytes(damage)
        loaded = Trained(2)
        with caplog.at_level(logging.WARNING):
            assert loaded.load(tmp_path).step == 5
        assert "stage_0000006.pt: cannot be read" in caplog.text
        assert_equal(old, loaded)


def test_a_full_disk_costs_no_older_state(tmp_path, accelerator, monkeypatch, caplog):
    trained = Trained(0)
    for step in (1, 2, 3):
        trained.save(tmp_path, step, accelerator)

    def full(state, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(states.torch, "save", full)
    with caplog.at_level(logging.WARNING):
        trained.save(tmp_path, 4, accelerator)
    assert "No space left on device" in caplog.text
    assert "training goes on" in caplog.text
    names = sorted(path.name for path in (tmp_path / "states").iterdir())
    assert names == ["stage_0000001.pt", "stage_0000002.pt", "stage_0000003.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
def test_a_disk_that_fills_up_while_a_state_is_written_ends_no_run(
    tmp_path, accelerator, caplog
):
    import resource

    # Wide enough for tensors that the archive writes one by one.
    trained = Trained(0, width=4000)
    trained.save(tmp_path, 1, accelerator)
    size = (tmp_path / "states" / "stage_0000001.pt").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        with caplog.at_level(logging.WARNING):
            trained.save(tmp_path, 2, accelerator)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "stage_0000002.pt: state not written (File too large); training goes" in caplog.text
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["stage_0000001.pt"]


def test_a_kill_while_writing_leaves_the_older_states(tmp_path, accelerator, monkeypatch):
    trained = Trained(0)
    trained.save(tmp_path, 1, accelerator)

    def killed(file_number):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        trained.save(tmp_path, 2, accelerator)
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["stage_0000001.pt"]
    (tmp_path / "states" / ".stage_0000002.pt.part-1").write_bytes(
        b"what a killed process left"
    )
    assert Trained(1).load(tmp_path).step == 1
    monkeypatch.undo()
    trained.save(tmp_path, 2, accelerator)
    names = sorted(path.name for path in (tmp_path / "states").iterdir())
    assert names == ["stage_0000001.pt", "stage_0000002.pt"]


class SlowDisk:
    """Keeps `torch.save` waiting until it is told to go on."""

    def __init__(self, monkeypatch):
        self.go_on = threading.Event()
        self.saved = []
        real = torch.save

        def save(state, file):
            assert self.go_on.wait(30)
            self.saved.append(state["progress"]["step"])
            real(state, file)

        monkeypatch.setattr(states.torch, "save", save)


def test_a_state_is_what_it_was_when_saved_though_training_goes_on(
    tmp_path, accelerator, monkeypatch
):
    disk = SlowDisk(monkeypatch)
    trained, same = Trained(0), Trained(0)
    with StateWriter(tmp_path, "stage", accelerator) as writer:
        writer.save(Progress(step=1), trained.module, trained.optimizers, trained.average)
        assert disk.saved == []
        for parameter in trained.module.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in trained.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 7.0
            optimizer.step()
        for value in trained.average.values():
            value.zero_()
        disk.go_on.set()
    loaded = Trained(1)
    assert loaded.load(tmp_path).step == 1
    assert_equal(same, loaded)
    assert [o.param_groups[0]["lr"] for o in loaded.optimizers] == [
        o.param_groups[0]["lr"] for o in same.optimizers
    ]


def test_a_state_that_is_still_written_is_waited_for_by_the_next(
    tmp_path, accelerator, monkeypatch
):
    disk = SlowDisk(monkeypatch)
    trained = Trained(0)
    values = (trained.module, trained.optimizers, trained.average)
    with StateWriter(tmp_path, "stage", accelerator) as writer:
        writer.save(Progress(step=1), *values)
        threading.Timer(0.1, disk.go_on.set).start()
        writer.save(Progress(step=2), *values)
        assert disk.saved[:1] == [1]
    assert disk.saved == [1, 2]


def test_a_run_that_ends_with_an_error_finishes_its_state(tmp_path, accelerator, monkeypatch):
    disk = SlowDisk(monkeypatch)
    trained = Trained(0)
    threading.Timer(0.1, disk.go_on.set).start()

    def fail():
        with StateWriter(tmp_path, "stage", accelerator) as writer:
            writer.save(Progress(step=1), trained.module, trained.optimizers, trained.average)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert Trained(1).load(tmp_path).step == 1


def test_what_goes_wrong_in_the_thread_ends_the_run(tmp_path, accelerator, monkeypatch):
    def fail(state, file):
        raise MemoryError("no memory left")

    trained = Trained(0)
    monkeypatch.setattr(states.torch, "save", fail)
    with pytest.raises(MemoryError, match="no memory left"):
        trained.save(tmp_path, 1, accelerator)


def test_large_states_are_written_every_half_hour():
    small = nn.Linear(7000, 7000, bias=False, device="meta")
    large = nn.Linear(8000, 8000, bias=False, device="meta")
    # 4 times 4 bytes for each parameter: 0.78 and 1.02 GB.
    assert seconds_between_states(small.parameters()) == 60
    assert seconds_between_states(large.parameters()) == 1800


def test_the_state_of_another_network_is_refused(tmp_path, accelerator):
    Trained(0).save(tmp_path, 1, accelerator)
    with pytest.raises(ValueError, match=r"stage_0000001\.pt: state of another network"):
        Trained(0, width=6).load(tmp_path)
    other = Trained(0)
    other.optimizers.pop()
    with pytest.raises(ValueError, match=r"stage_0000001\.pt: state of another optimizer"):
        other.load(tmp_path)


def test_a_state_that_only_the_main_process_sees_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(states, "_rank", lambda: 1)
    monkeypatch.setattr(states, "_from_main", lambda path: tmp_path / "stage_0000001.pt")
    with pytest.raises(ValueError, match=r"stage_0000001\.pt: .* that all machines share"):
        Trained(0).load(tmp_path)


def test_whole_weights_take_the_average_where_there_is_one():
    trained = Trained(0)
    weights = whole_weights(trained.module, trained.average)
    assert weights.keys() == trained.module.state_dict().keys()
    for name, value in weights.items():
        expected = trained.average.get(name, trained.module.state_dict()[name])
        assert torch.equal(value, expected)


SPLIT_OVER_TWO_PROCESSES = """
import os
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from video_deblur.training.states import (
    Progress,
    StateWriter,
    load_state,
    seconds_between_states,
    whole_weights,
)

dist.init_process_group("gloo")

class Processes:
    is_main_process = dist.get_rank() == 0
    wait_for_everyone = staticmethod(dist.barrier)

def make(seed):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(3, 4)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    average = {name: p.detach().clone() for name, p in module.named_parameters()}
    for value in average.values():
        value.lerp_(torch.ones_like(value), 0.3)
    return module, optimizer, average

folder = Path(sys.argv[1])
module, optimizer, average = make(0)
with StateWriter(folder, "stage", Processes()) as writer:
    writer.save(Progress(step=3), module, [optimizer], average)
dist.barrier()
other, other_optimizer, other_average = make(1)
load_state(folder, "stage", other, [other_optimizer], other_average)
for mine, theirs in (({}, {}), (average, other_average)):
    expected, loaded = whole_weights(module, mine), whole_weights(other, theirs)
    assert {k: tuple(v.shape) for k, v in loaded.items()} == {
        "0.weight": (6, 4), "0.bias": (6,), "1.weight": (3, 6), "1.bias": (3,)
    }
    assert all(torch.equal(value, loaded[name]) for name, value in expected.items())
moments = [o.state_dict()["state"][0]["exp_avg"] for o in (optimizer, other_optimizer)]
assert torch.equal(*(moment.full_tensor() for moment in moments))
# Meshes keep gloo's threads alive; one that lets go of a tensor while Python ends aborts the
# process. So it ends without clearing up.
dist.barrier()
os._exit(0)
"""


def test_states_of_weights_split_by_fsdp_are_whole(tmp_path):
    (tmp_path / "script.py").write_text(SPLIT_OVER_TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", str(tmp_path / "script.py"), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "states" / "stage_0000003.pt", weights_only=True)
    assert state["weights"]["0.weight"].shape == (6, 4)
