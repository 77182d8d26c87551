"""A network in evaluation, computed by the native engine where that can: in float32 the module's answers, sooner."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from phiscale.architecture.layout import layout
from phiscale.errors import PhiscaleError
from phiscale.kernels.precision import has_bf16
from phiscale.nn import Network
from phiscale.nn.network import pool
from phiscale.runtime.fold import folded
from phiscale.runtime.native import Native

AGREE = {"f32": 1e-4, "bf16": 0.1}  # of the largest number; seen 2e-6 and 0.02. A module that is more than its spec is far off


@dataclass(frozen=True, slots=True)
class Inference:
    """`logits` (B, num_classes) and `pooled` (B, feature_width) of normalised images (B, in_channels, H, W), float32, on the processor."""

    logits: Callable[[Tensor], Tensor]
    pooled: Callable[[Tensor], Tensor]
    by: str  # "native" or "torch"
    layout: torch.memory_format  # the one that images are taken in as they are


@contextmanager
def inference(model: Network, first: Tensor | None, *, bf16: bool = False) -> Generator[Inference]:
    """`model`, left in eval mode, with the weights that it has now. The engine answers where it can run this network here.

    first  an image (1, in_channels, H, W), which both compute: where they differ the module answers; None: it does anyway
    bf16   may be computed in bfloat16 where the processor multiplies it; the module's own precision is the caller's autocast
    While the engine answers in the main thread, torch has one thread; so an `inference` inside another is slow.
    """
    model.eval()

    def logits(images: Tensor) -> Tensor:
        return model(images).float().cpu()

    def pooled(images: Tensor) -> Tensor:
        return pool(model.forward_features(images), model.pooling).float().cpu()

    engine = None if first is None else _native(model, first, "bf16" if bf16 and has_bf16() else "f32", pooled)
    if engine is None:
        yield Inference(logits, pooled, "torch", torch.channels_last)
        return
    try:
        with _one_torch_thread():
            yield Inference(
                lambda images: torch.from_numpy(engine(images.numpy())),
                lambda images: torch.from_numpy(engine.outputs(images.numpy(), embedding=True).embedding),
                "native",
                torch.contiguous_format,
            )
    finally:
        engine.close()


@contextmanager
def _one_torch_thread() -> Generator[None]:
    """torch on one thread: more would wait busily after each operator, on the cores that the engine works on.

    A thread of Python that calls torch for the first time takes this number over for good. So only in the main thread, and while
    nothing of ours begins another.
    """
    threads = torch.get_num_threads()
    if threads == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _native(model: Network, first: Tensor, precision: str, pooled: Callable[[Tensor], Tensor]) -> Native | None:
    """The engine that gives the module's answers; None where there is none."""
    if first.device.type != "cpu":
        return None
    state = model.state_dict()
    try:
        weights = folded(model.spec, {key: state[key].float().numpy() for key in layout(model.spec)})
        engine = Native(model.spec, weights, threads=torch.get_num_threads(), precision=precision)
    except (PhiscaleError, KeyError):  # another processor, a block that it doesn't know, weights that are no numbers
        return None
    try:
        want, got = pooled(first), torch.from_numpy(engine.outputs(first.numpy(), embedding=True).embedding)
        off = float((got - want).abs().max()) / max(1e-30, float(want.abs().max()))
        agrees = off <= AGREE[precision]
    except PhiscaleError:  # an image that is too small or too large for it
        agrees = False
    if agrees:
        return engine
    engine.close()
    return None
