"""Processors are shared with other programs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_threads_that_wait_sleep_unless_the_user_wants_otherwise(given, expected):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    script = (
        "import os, sys\n"
        "from video_deblur.cli import main\n"
        "assert 'torch' not in sys.modules, 'it would not read what is set later'\n"
        "assert main(['info', 'divd-tiny']) == 0\n"
        "assert 'torch' in sys.modules\n"
        f"print({{name: os.environ[name] for name in {names} if name in os.environ}})"
    )
    own = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**own, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(expected)
