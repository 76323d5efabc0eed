"""MAXIM with the layers, names and layouts of the published one, and files of its weights.

Written for reading, from the paper and the scopes of the published graph; nothing in it is the
network that is tested: every layer is by itself here, and position mixing is a loop.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib

import numpy as np
import torch
import torch.nn.functional as F

SHARD_BYTES = 50_000
PREFIX = "StatefulPartitionedCall/jax2tf_apply_/Wrapper/backbone/"
CONSTANT = "StatefulPartitionedCall/jax2tf_arg_"


class Weights(dict):
    """Weights by flax's names, drawn when first asked for."""

    def of(self, name, shape):
        if name not in self:
            # Not `hash`, which differs from run to run.
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            value = torch.randn(shape, generator=generator)
            scale = 0.5 * np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.1
            self[name] = value * scale + (1.0 if name.endswith("/scale") else 0.0)
        assert self[name].shape == shape, name
        return self[name]


def published_weights(config):
    """Return random weights of the published layout."""
    weights = Weights()
    size = config.size_multiple
    published_network(weights, config, torch.rand(1, size, size, 3))
    return weights


def published_network(weights, config, frames):
    """Restore `[B, H, W, 3]`, height and width multiples of what the network needs."""
    return _Published(weights, config).restored(frames)


class _Published:
    def __init__(self, weights, config):
        self.weights, self.config = weights, config
        self.levels = range(len(config.channels))
        self.num_resized = 0

    def restored(self, frames):
        # Nearest neighbour, the later of two equally near.
        scales = [frames[:, 2**n // 2 :: 2**n, 2**n // 2 :: 2**n] for n in self.levels]
        before, weighed = None, None
        for stage in range(self.config.num_stages):
            encoded, decoded = self.stage(f"stage_{stage}", scales, before, weighed)
            before = [e + d for e, d in zip(encoded, decoded, strict=True)]
            if stage < self.config.num_stages - 1:
                weighed = [
                    self.supervised(
                        f"stage_{stage}_supervised_attention_module_{n}", decoded[n], scales[n]
                    )
                    for n in self.levels
                ]
        return frames + self.conv(f"stage_{stage}_output_conv_0", decoded[0], 3, 3)

    def stage(self, name, scales, before, weighed):
        channels, sides = self.config.channels, self.config.sides
        encoded, x = [], None
        for n in self.levels:
            seen = self.conv(f"{name}_input_conv_{n}", scales[n], channels[n], 3)
            if before is not None:
                seen = self.cross_gating(
                    f"{name}_input_fuse_sam_{n}", seen, weighed[n], channels[n], sides[n]
                )[0]
            x = torch.cat([seen if x is None else x, seen], -1)
            block = f"{name}_encoder_block_{n}"
            x = self.unet_block(block, x, n)
            if before is not None:
                x = self.cross_gating(
                    f"{block}/cross_gating_block", x, before[n], channels[n], sides[n]
                )[0]
            encoded.append(x)
            x = self.conv(f"{block}/Conv_1", x, channels[n], 4, stride=2)
        for index in range(self.config.num_bottlenecks):
            x = self.global_block(f"{name}_global_block_{index}", x)
        skips, gate = {}, x
        for n in reversed(self.levels):
            features = torch.cat([self.resized(encoded[m], m - n, n) for m in self.levels], -1)
            block = f"{name}_cross_gating_block_{n}"
            gate = self.conv_transpose(f"{block}/ConvTranspose_0", gate, channels[n])
            skips[n], gate = self.cross_gating(block, features, gate, channels[n], sides[n])
        decoded = [None] * len(channels)
        for n in reversed(self.levels):
            features = [self.resized(skips[m], m - n, n) for m in reversed(self.levels)]
            block = f"{name}_decoder_block_{n}"
            x = self.conv_transpose(f"{block}/ConvTranspose_0", x, channels[n])
            x = self.unet_block(f"{block}/UNetEncoderBlock_0", torch.cat([x, *features], -1), n)
            decoded[n] = x
        return encoded, decoded

    def unet_block(self, name, x, level):
        channels, side = self.config.channels[level], self.config.sides[level]
        x = skip = self.conv(f"{name}/Conv_0", x, channels, 1)
        for index in range(self.config.num_blocks):
            x = self.multi_axis(f"{name}/SplitHeadMultiAxisGmlpLayer_{index}", x, side)
            block = f"{name}/channel_attention_block_1{index}"
            y = self.norm(f"{block}/LayerNorm", x)
            y = F.leaky_relu(self.conv(f"{block}/conv1", y, channels, 3), 0.2)
            y = self.conv(f"{block}/conv2", y, channels, 3)
            x = x + self.attention(f"{block}/channel_attention", y)
        return x + skip

    def global_block(self, name, x):
        channels, side = self.config.channels[-1], self.config.bottleneck_side
        x = skip = self.conv(f"{name}/input_proj", x, channels, 1)
        for index in range(self.config.num_blocks):
            x = self.multi_axis(f"{name}/SplitHeadMultiAxisGmlpLayer_{index}", x, side)
            block = f"{name}/channel_attention_block_1_{index}"
            y = self.norm(f"{block}/LayerNorm", x)
            y = _gelu(self.dense(f"{block}/channel_mixing/Dense_0", y, channels))
            y = self.dense(f"{block}/channel_mixing/Dense_1", y, channels)
            x = x + self.attention(f"{block}/channel_attention", y)
        return x + skip

    def multi_axis(self, name, x, side):
        channels = x.shape[-1]
        y = self.norm(f"{name}/LayerNorm_in", x)
        far, near = _gelu(self.dense(f"{name}/in_project", y, 2 * channels)).chunk(2, -1)
        far = self.gated(f"{name}/GridGmlpLayer", "GridGatingUnit", far, side, True)
        near = self.gated(f"{name}/BlockGmlpLayer", "BlockGatingUnit", near, side, False)
        return x + self.dense(f"{name}/out_project", torch.cat([far, near], -1), channels)

    def gated(self, name, unit, x, side, grid):
        channels = x.shape[-1]
        y = self.norm(f"{name}/LayerNorm", x)
        u, v = _gelu(self.dense(f"{name}/in_project", y, 2 * channels)).chunk(2, -1)
        v = self.norm(f"{name}/{unit}/intermediate_layernorm", v)
        v = self.mixed(f"{name}/{unit}/Dense_0", v, side, grid)
        return x + self.dense(f"{name}/out_project", u * (v + 1), channels)

    def mixed(self, name, x, side, grid):
        result = torch.empty_like(x)
        height, width = x.shape[1] // side, x.shape[2] // side
        for i in range(height):
            for j in range(width):
                if grid:
                    window = (slice(i, None, height), slice(j, None, width))
                else:
                    window = (
                        slice(i * side, (i + 1) * side),
                        slice(j * side, (j + 1) * side),
                    )
                positions = x[:, window[0], window[1]].flatten(1, 2).transpose(1, 2)
                mixed = self.dense(name, positions, side * side).transpose(1, 2)
                result[:, window[0], window[1]] = mixed.unflatten(1, (side, side))
        return result

    def cross_gating(self, name, x, y, channels, side):
        x = skip_x = self.conv(f"{name}/Conv_0", x, channels, 1)
        y = skip_y = self.conv(f"{name}/Conv_1", y, channels, 1)
        x, y = self.norm(f"{name}/LayerNorm_x", x), self.norm(f"{name}/LayerNorm_y", y)
        x = _gelu(self.dense(f"{name}/in_project_x", x, channels))
        y = _gelu(self.dense(f"{name}/in_project_y", y, channels))
        gate_x = self.gate(f"{name}/SplitHeadMultiAxisGating_x", x, side)
        gate_y = self.gate(f"{name}/SplitHeadMultiAxisGating_y", y, side)
        y = skip_y + self.dense(f"{name}/out_project_y", y * gate_x, channels)
        x = self.dense(f"{name}/out_project_x", x * gate_y, channels) + y + skip_x
        return x, y

    def gate(self, name, x, side):
        channels = x.shape[-1]
        x = self.norm(f"{name}/LayerNorm_in", x)
        far, near = _gelu(self.dense(f"{name}/in_project", x, 2 * channels)).chunk(2, -1)
        far = self.mixed(f"{name}/Dense_0", far, side, True)
        near = self.mixed(f"{name}/Dense_1", near, side, False)
        return self.dense(f"{name}/out_project", torch.cat([far, near], -1), channels)

    def supervised(self, name, x, frame):
        features = self.conv(f"{name}/Conv_0", x, x.shape[-1], 3)
        picture = self.conv(f"{name}/Conv_1", x, 3, 3) + frame
        return x + features * self.conv(f"{name}/Conv_2", picture, x.shape[-1], 3).sigmoid()

    def attention(self, name, x):
        y = x.mean((1, 2), keepdim=True)
        y = self.conv(f"{name}/Conv_0", y, x.shape[-1] // self.config.reduction, 1).relu()
        return x * self.conv(f"{name}/Conv_1", y, x.shape[-1], 1).sigmoid()

    def resized(self, x, octaves, level):
        if octaves:
            planes = x.permute(0, 3, 1, 2)
            planes = F.interpolate(
                planes, scale_factor=2.0**octaves, mode="bilinear", antialias=octaves < 0
            )
            x = planes.permute(0, 2, 3, 1)
        name = f"UpSampleRatio_{self.num_resized}/Conv_0"
        self.num_resized += 1
        return self.conv(name, x, self.config.channels[level], 1)

    def norm(self, name, x):
        shape = (x.shape[-1],)
        scale, bias = (self.weights.of(f"{name}/{kind}", shape) for kind in ("scale", "bias"))
        return F.layer_norm(x, shape, scale, bias, 1e-6)

    def dense(self, name, x, channels):
        kernel = self.weights.of(f"{name}/kernel", (x.shape[-1], channels))
        return x @ kernel + self.weights.of(f"{name}/bias", (channels,))

    def conv(self, name, x, channels, size, stride=1):
        kernel = self.weights.of(f"{name}/kernel", (size, size, x.shape[-1], channels))
        bias = self.weights.of(f"{name}/bias", (channels,))
        planes = F.conv2d(
            x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, stride, (size - 1) // 2
        )
        return planes.permute(0, 2, 3, 1)

    def conv_transpose(self, name, x, channels):
        # Flax slides the kernel as it is over pixels that are spread out: its last row and
        # column meet a pixel first (compared with flax 0.12.8).
        kernel = self.weights.of(f"{name}/kernel", (2, 2, x.shape[-1], channels))
        result = x.new_empty(x.shape[0], 2 * x.shape[1], 2 * x.shape[2], channels)
        for i in range(2):
            for j in range(2):
                result[:, i::2, j::2] = x @ kernel[1 - i, 1 - j]
        return result + self.weights.of(f"{name}/bias", (channels,))


def _gelu(x):
    return F.gelu(x, approximate="tanh")


def write_npz(path, weights, root="opt/target/"):
    """Write flax parameters as the authors' tools save them, with what is not needed."""
    arrays = {f"{root}{name}": value.numpy() for name, value in weights.items()}
    arrays["opt/state/step"] = np.array(3)
    arrays["opt/state/param_states/stage_0_input_conv_0/kernel/grad_ema"] = np.zeros(3)
    arrays[f"{root}stage_0_output_conv_0/bias"] = np.zeros(3, np.float32)
    np.savez(path, **arrays)
    return path


def package_files(weights):
    """Return the files of a TensorFlow.js package: names and bytes."""
    nodes, entries, data = [], [], b""
    for index, (name, value) in enumerate(weights.items()):
        layer, _, kind = name.rpartition("/")
        operation, use, constant = _as_in_the_graph(layer, kind, value)
        # Kernels of linear layers have lost their names.
        stored = f"{CONSTANT}{index}/ReadVariableOp" if operation == "Einsum" else f"{name}/c"
        nodes.append({"name": stored, "op": "Const"})
        nodes.append(
            {"name": f"{PREFIX}{layer}/{use}", "op": operation, "input": ["x", stored]}
        )
        entries.append({"name": stored, "shape": list(constant.shape), "dtype": "float32"})
        data += constant.contiguous().numpy().astype("<f4").tobytes()
    nodes.append(
        {"name": f"{PREFIX}stage_0_input_conv_0/jit_fn_/Mul", "op": "Mul", "input": []}
    )
    entries.append({"name": "axes", "shape": [3], "dtype": "int32"})
    data += np.arange(3, dtype="<i4").tobytes()
    paths = [f"group1-shard{n}.bin" for n in range(-(-len(data) // SHARD_BYTES))]
    shards = {
        path: data[n * SHARD_BYTES : (n + 1) * SHARD_BYTES] for n, path in enumerate(paths)
    }
    model = {
        "format": "graph-model",
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": paths, "weights": entries}],
    }
    return {"model.json": json.dumps(model).encode(), **shards}


def _as_in_the_graph(layer, kind, value):
    norm = "norm" in layer.rpartition("/")[2].lower()
    if kind == "scale":
        return "Mul", "jit_fn_/Mul_4", value[None, None, None]
    if kind == "bias":
        use = "jit_fn_/AddV2_1" if norm else "jit_fn_/AddV2"
        return "AddV2", use, value[None, None, None]
    if value.ndim == 2:
        return "Einsum", "einsum/Einsum", value
    if "ConvTranspose" in layer:
        return "Conv2DBackpropInput", "conv2d_transpose", value.flip(0, 1).transpose(2, 3)
    return "Conv2D", "Conv2D", value


def write_package(path, files):
    """Write the npm package: a `.tgz`."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"../README.md": b"read me", **files}.items():
            member = tarfile.TarInfo(f"package/models/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
