"""How far each runtime's answers are from the PyTorch model's, on fixed inputs: the proof that a bundle carries."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phiscale.architecture.design import Design
from phiscale.architecture.output import Output
from phiscale.deploy.latency import TorchEngine
from phiscale.errors import BundleError
from phiscale.runtime.engines import Precision, open_engine, usable
from phiscale.runtime.machine import available_threads
from phiscale.runtime.predictor import probabilities

NOISE, SEED = 4, 0  # seeded normal images, always among the inputs
WORST = 1e-3  # a probability may be off by in float32; seen 2e-6. More means that the graph is another network


def parity(
    design: Design,
    state: Mapping[str, NDArray[np.generic]],
    model: bytes,
    *,
    images: NDArray[np.float32] | None = None,
    output: Output | None = None,
) -> dict[str, Any]:
    """One row an installed runtime and precision: the largest difference of a logit and of a probability, and how many labels agree.

    Inputs: `NOISE` seeded noise images and `images` (N, in_channels, H, W), preprocessed. BundleError where float32 differs by more
    than `WORST`: then the graph doesn't compute the network, and must not be used.
    """
    output = output or Output()
    shape = (NOISE, design.spec.in_channels, design.resolution, design.resolution)
    inputs = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    if images is not None:
        inputs = np.concatenate([inputs, images.astype(np.float32)])
    # a few at a time: the unfused module needs far more memory than a runtime
    network = TorchEngine(design, threads=available_threads(), state=state)
    want = np.concatenate([network(inputs[start : start + 4]) for start in range(0, len(inputs), 4)]).astype(np.float64)
    rows: list[dict[str, Any]] = []
    for runtime in usable(model):
        precisions: tuple[Precision, ...] = ("f32", "auto", "int8")
        for precision in precisions:
            if runtime not in usable(model, precision):
                continue
            engine = open_engine(model, runtime=runtime, precision=precision)
            if any(row["runtime"] == runtime and row["precision"] == engine.precision for row in rows):
                continue  # the engine's own choice was float32 already
            got = engine(inputs).astype(np.float64)
            off = np.abs(probabilities(got, output) - probabilities(want, output)).max()
            if not np.isfinite(off) or (engine.precision == "f32" and off > WORST):
                raise BundleError(f"{runtime} ({engine.precision}) gives other answers than PyTorch: a probability is off by {off:.2g}")
            rows.append(
                {
                    "runtime": runtime,
                    "precision": engine.precision,
                    "probability": float(off),
                    "logit": float(np.abs(got - want).max()),
                    "labels_agree": float((got.argmax(1) == want.argmax(1)).mean()),
                }
            )
    return {"noise": NOISE, "seed": SEED, "images": len(inputs) - NOISE, "largest_logit": float(np.abs(want).max()), "rows": rows}
