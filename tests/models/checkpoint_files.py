"""Checkpoint files that are changed on purpose, and how they must be refused."""

from __future__ import annotations

import json
import resource

import pytest
from video_deblur.models.checkpoint import METADATA_KEY, CheckpointError, load_model


def read_parts(path):
    """Return the header and the data of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_parts(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def rewrite(path, change):
    """Change the header of a checkpoint in place."""
    header, data = read_parts(path)
    return write_parts(path, change(header) or header, data)


def rewrite_envelope(path, change):
    def edit(header):
        envelope = json.loads(header["__metadata__"][METADATA_KEY])
        envelope = change(envelope) or envelope
        header["__metadata__"][METADATA_KEY] = json.dumps(envelope)

    return rewrite(path, edit)


def assert_refused(path, message, read=load_model):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < 600


def peak_memory_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
