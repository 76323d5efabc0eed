"""What a folder remembers of its outputs, also when several batches write to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from video_deblur.jobs.batch_record import RECORD_NAME, BatchRecord

ADD = """
import sys
from pathlib import Path
from video_deblur.jobs.batch_record import BatchRecord

folder, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for index in range(50):
    BatchRecord(folder).add(folder / f"{name}{index}.mp4", {"input": name, "crf": index})
"""


def test_two_batches_lose_nothing_of_each_other(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    # Both begin together, once everything is imported.
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    outputs = json.loads((tmp_path / RECORD_NAME).read_bytes())["outputs"]
    assert set(outputs) == {f"{name}{index}.mp4" for name in "ab" for index in range(50)}
    assert os.listdir(tmp_path) == [RECORD_NAME]


def test_what_differs_and_what_is_incomplete_is_named(tmp_path):
    record, output = BatchRecord(tmp_path), tmp_path / "clip.mp4"
    made_from = {"input": "1", "settings": {"steps": 1}}
    assert record.changes(output, made_from) == []
    record.add(output, made_from, "stops after frame 3")
    assert record.changes(output, made_from) == []
    assert record.changes(output, {"input": "2", "settings": {"steps": 2}}) == [
        "input",
        "settings",
    ]
    assert record.error(output) == "stops after frame 3"
    record.add(output, made_from)
    assert record.error(output) == ""


def test_what_only_one_of_two_knows_differs_and_older_records_mean_the_defaults(tmp_path):
    record, output = BatchRecord(tmp_path), tmp_path / "clip.mp4"
    now = {"input": "1", "audio": "copy", "deinterlace": "off"}
    record.add(output, {"input": "1"})
    assert record.changes(output, now) == []
    record.add(output, {"input": "1", "audio": "drop", "deinterlace": "field"})
    assert record.changes(output, now) == ["audio", "deinterlace"]
    assert record.changes(output, {"input": "1"}) == ["audio", "deinterlace"]
