"""Int8 in the native engine: the range of what each 1x1 convolution reads, and which of them bear 8 bits.

Comes in: a network's graph as graph.py writes it, images like those to come.  Goes out: a Range by layer, and the graph with them in its
metadata.  Never: changes a weight; the engine rounds them when it is loaded, and other runtimes run the graph as ever.
Start reading: `calibrated` below.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from phiscale.errors import ArgumentError, BundleError
from phiscale.runtime.native.model import INT8
from phiscale.runtime.native.program import Range

FEWEST_IMAGES = 8  # calibration with fewer says little about the range of activations
SAMPLED, SIDE = 16, 6  # images, and pixels a side of each map, on which errors are measured
NARROWER = (1.0, 0.9, 0.8, 0.7)  # shares of what was seen that a range may be: a rare number at its end costs all others precision
WORST_LAYER = 0.05  # relative error of a layer that runs in int8; seen from 0.004 to 0.017 on Lite0, in bf16 from 0.002 to 0.003
Array = NDArray[np.float32]


def calibrated(model: onnx.ModelProto, images: Iterable[Array]) -> dict[str, Range]:
    """What the layers read that are to run in int8: `stages.1.0.expand`, `.project` and, before its squeeze-excite, `.se`; `head`.

    images  preprocessed, (in_channels, H, W). A layer is left out, and stays in bf16, where 8 bits of its weights and of what it reads
            change what it gives by more than `WORST_LAYER`, measured on some of the images; of the `NARROWER` ranges, the best is taken
    ArgumentError for fewer than `FEWEST_IMAGES`; BundleError where a map is not finite, or no layer is left.
    """
    probe = _Probe(model)
    count = 0
    for image in images:
        probe.look_at(image, sample=count < SAMPLED)
        count += 1
    if count < FEWEST_IMAGES:
        raise ArgumentError(f"int8 needs at least {FEWEST_IMAGES} images to calibrate with, got {count}; a few hundred are better")
    made: dict[str, Range] = {}
    for layer in probe.layers:
        if layer.endswith(".se"):
            continue
        found = {layer: probe.best(layer)}
        gated = f"{layer.removesuffix('project')}se"
        if layer.endswith(".project") and gated in probe.layers:
            found[gated] = probe.best(gated)
        if all(fit.error <= WORST_LAYER for fit in found.values()):
            made |= {name: fit.range for name, fit in found.items()}
    if not made:
        raise BundleError(f"no layer of this network bears 8 bits: each is off by more than {WORST_LAYER:.0%} on the calibration images")
    return made


def with_ranges(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """A copy of the model that carries the ranges, where runtime/native/model.py reads them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    text = json.dumps({layer: asdict(own) for layer, own in ranges.items()}, allow_nan=False)
    helper.set_model_props(made, kept | {INT8: text})
    return made


@dataclass(frozen=True, slots=True)
class _Fit:
    range: Range
    error: float


class _Probe:
    """The graph with the extremes, the means and some pixels of the maps of interest as further outputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnxruntime

        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.layers = _read_by(model, self.weights)
        self._gates = {f"{name}.gate" for name in self.layers if name.endswith(".se")}
        self._maps = sorted(set(self.layers.values()))
        self._extremes = dict.fromkeys(self._maps, (np.inf, -np.inf))
        self._samples: dict[str, list[Array]] = {name: [] for name in (*self._maps, *self._gates)}
        probed = onnx.ModelProto()
        probed.CopyFrom(model)
        self._ends = [_add(probed, kind, map_) for map_ in self._maps for kind in ("ReduceMin", "ReduceMax")]
        self._pools = [_add(probed, "GlobalAveragePool", map_) for map_ in self._maps]
        self._means: dict[str, list[NDArray[np.float64]]] = {map_: [] for map_ in self._maps}
        probed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*self._maps, *self._gates))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def look_at(self, image: Array, *, sample: bool) -> None:
        wanted = [*self._ends, *self._pools, *(self._samples if sample else ())]
        found: list[Any] = list(self._session.run(wanted, {"image": image[None]}))
        ends = np.array([found.pop(0).item() for _ in self._ends]).reshape(-1, 2)
        if not np.isfinite(ends).all():
            raise BundleError("the network's maps are not finite on the calibration images: it can't be quantised")
        for map_, (low, high) in zip(self._maps, ends, strict=True):
            seen = self._extremes[map_]
            self._extremes[map_] = min(seen[0], float(low)), max(seen[1], float(high))
            self._means[map_].append(found.pop(0).astype(np.float64).ravel())
        if sample:
            for name, value in zip(self._samples, found, strict=True):
                steps = [max(1, side // SIDE) for side in value.shape[2:]]
                self._samples[name].append(value[0, :, :: steps[0], :: steps[1]].reshape(value.shape[1], -1))

    def best(self, layer: str) -> _Fit:
        """The range that rounds `layer` least wrongly; of a map that is nothing but zeros an error that no layer may have."""
        map_ = self.layers[layer]
        low, high = min(0.0, self._extremes[map_][0]), max(0.0, self._extremes[map_][1])
        means = np.mean(self._means[map_], axis=0)
        if not high - low > 1e-15:
            return _Fit(Range(low, high, ()), np.inf)
        if layer.endswith(".se"):  # the gates go into the weights, image by image
            weight = self.weights[f"{layer.removesuffix('se')}project.weight"][:, :, 0, 0]
            weights = [weight * gate[:, 0] for gate in self._samples[f"{layer}.gate"]]
            inputs = self._samples[map_]
        else:
            weights = [self.weights[f"{layer}.weight"][:, :, 0, 0]]
            inputs = [np.concatenate(self._samples[map_], axis=1)]
        rounded = [_rounded_weights(weight) for weight in weights]
        drift = [
            ((made - weight) @ means)[:, None] for made, weight in zip(rounded, weights, strict=True)
        ]  # the engine takes it off the bias
        said = tuple(float(f"{mean:.6g}") for mean in means)
        want = np.concatenate([weight @ x for weight, x in zip(weights, inputs, strict=True)], axis=1)

        def fit(share: float) -> _Fit:
            made = zip(rounded, inputs, drift, strict=True)
            got = [weight @ rounded_to_bytes(x, low * share, high * share) - extra for weight, x, extra in made]
            error = np.linalg.norm(np.concatenate(got, axis=1) - want) / max(float(np.linalg.norm(want)), 1e-30)
            return _Fit(Range(low * share, high * share, said), float(error))

        return min((fit(share) for share in NARROWER), key=lambda made: made.error)


def _add(model: onnx.ModelProto, kind: str, of: str) -> str:
    """A node that reads the map `of`, and its output as one of the model's."""
    model.graph.node.append(helper.make_node(kind, [of], [f"{of}.{kind}"]))
    model.graph.output.append(helper.make_tensor_value_info(f"{of}.{kind}", TensorProto.FLOAT, None))
    return f"{of}.{kind}"


def rounded_to_bytes(values: Array, low: float, high: float) -> Array:
    """The numbers that the engine's bytes stand for: 256 of them from `low` to `high`, zero among them."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    return ((np.clip(np.rint(values / scale + zero), 0, 255) - zero) * scale).astype(np.float32)


def _rounded_weights(weight: Array) -> Array:
    step = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-30) / 127
    return np.rint(weight / step) * step


def _read_by(model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """The map that each 1x1 convolution reads, and what each squeeze-excite in front of one reads."""
    made: dict[str, str] = {}
    for node in model.graph.node:
        layer = node.name.removesuffix(".conv")
        if node.op_type == "Conv" and layer.endswith((".expand", ".project", "head")) and ".se." not in layer:
            if weights[f"{layer}.weight"].shape[2:] == (1, 1):
                made[layer] = node.input[0]
        elif node.op_type == "GlobalAveragePool" and node.name.endswith(".se.mean"):
            made[node.name.removesuffix(".mean")] = node.input[0]
    return made
