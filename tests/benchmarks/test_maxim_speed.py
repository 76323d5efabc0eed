from __future__ import annotations

import base64
import json

import cv2
import numpy as np
import torch
from video_deblur.benchmarks.maxim_graph import PublishedGraph
from video_deblur.benchmarks.maxim_speed import alternately, middle_pair, psnr


def _text(value):
    return {"s": base64.b64encode(value.encode()).decode()}


def test_a_graph_is_run_as_it_stands(tmp_path):
    """A 3x3 convolution of stride 2, padded at the end alone, a bias, and a sum of halves."""
    kernel = np.arange(3 * 3 * 3 * 4, dtype=np.float32).reshape(3, 3, 3, 4) / 100
    constants = {
        "kernel": kernel,
        "bias": np.arange(4, dtype=np.float32)[None, None, None],
        "begin": np.array([0, 1], np.int32),
        "end": np.array([0, 4], np.int32),
        "step": np.array([1, 1], np.int32),
    }
    options = {
        "strides": {"list": {"i": ["1", "2", "2", "1"]}},
        "padding": _text("SAME"),
    }
    masks = {"ellipsis_mask": {"i": "1"}}
    nodes = [{"name": "x", "op": "Placeholder"}]
    nodes += [{"name": name, "op": "Const"} for name in constants]
    nodes += [
        {"name": "conv", "op": "Conv2D", "input": ["x", "kernel"], "attr": options},
        {"name": "sum", "op": "AddV2", "input": ["conv", "bias"]},
        {
            "name": "part",
            "op": "StridedSlice",
            "input": ["sum", "begin", "end", "step"],
            "attr": masks,
        },
        {"name": "unused", "op": "NoSuchOperation", "input": ["part"]},
        {"name": "out", "op": "Identity", "input": ["part:0", "^unused"]},
    ]
    model = {
        "signature": {"outputs": {"y": {"name": "out:0"}}},
        "modelTopology": {"node": nodes},
        "weightsManifest": [
            {
                "paths": ["a.bin"],
                "weights": [
                    {"name": name, "shape": list(value.shape), "dtype": value.dtype.name}
                    for name, value in constants.items()
                ],
            }
        ],
    }
    (tmp_path / "model.json").write_text(json.dumps(model))
    (tmp_path / "a.bin").write_bytes(b"".join(v.tobytes() for v in constants.values()))
    frames = torch.rand(1, 3, 4, 6)
    padded = torch.nn.functional.pad(frames, (0, 1, 0, 1))
    weight = torch.from_numpy(kernel).permute(3, 2, 0, 1)
    expected = torch.nn.functional.conv2d(padded, weight, torch.arange(4.0), stride=2)[:, 1:]
    torch.testing.assert_close(PublishedGraph(tmp_path)(frames), expected)


def test_each_is_run_in_turn():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = alternately(runs, 2)
    assert order == [*"ababab"]
    assert set(seconds) == {"a", "b"}


def test_the_pair_in_the_middle_is_compared(tmp_path):
    for kind, value in (("blur", 100), ("sharp", 151)):
        (tmp_path / kind).mkdir()
        for index in range(3):
            pixels = np.full((4, 6, 3), value + index, np.uint8)
            cv2.imwrite(str(tmp_path / kind / f"{index}.png"), pixels)
    blurry, sharp = middle_pair(tmp_path)
    assert blurry.shape == (1, 3, 4, 6)
    torch.testing.assert_close(blurry, torch.full_like(blurry, 101 / 255))
    assert abs(psnr(blurry, sharp) - 13.979) < 1e-2
