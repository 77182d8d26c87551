"""Files to labels and probabilities, from a bundle, without PyTorch. Files stream: a list of any length needs the memory of one batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phiscale.architecture.design import Design
from phiscale.architecture.output import Output
from phiscale.architecture.preprocess import Preprocess
from phiscale.errors import ArgumentError, ImageError
from phiscale.runtime.bundle import Bundle, read_bundle
from phiscale.runtime.engines import Engine, Precision, open_engine
from phiscale.runtime.image import read_image, upright_rgb
from phiscale.runtime.transform import to_array

if TYPE_CHECKING:
    Pixels = NDArray[np.uint8]
    Source = str | PathLike[str] | bytes | Image.Image | Pixels
    Rows = Iterator[tuple[str, NDArray[np.float32] | ImageError]]

BATCH = 4  # images at a time: with more, activations no longer stay in cache; 16 at 224 px took 1.08 to 1.2 times as long an image


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one image shows: classes with probabilities, the likeliest first; or `error`, a short code, and `message`, why not.

    labels   of a multi-label network: all that reach its threshold, the likeliest first; None where one class is named
    """

    path: str
    top: tuple[tuple[str, float], ...] = ()
    labels: tuple[str, ...] | None = None
    error: str | None = None
    message: str | None = None

    @property
    def label(self) -> str | None:
        return self.top[0][0] if self.top else None


def load(
    path: str | Path,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    precision: Precision = "f32",
    batch: int | None = None,
) -> "Predictor":
    """The predictor of a bundle, or of a run folder that holds one.

    runtime    "openvino", "onnxruntime" or "native"; by default OpenVINO where it is installed, else ONNX Runtime; where our own engine
               can run the network too, the fastest of all when they were tried on this machine, once
    threads    all that this process may use, unless given
    precision  "f32", the PyTorch model's answers; "auto", the engine's fastest (bf16 where the processor has it): parity.json says
               how far that is from the PyTorch model, bench.json how much faster; "int8", of a bundle that was exported with int8
    batch      images that are computed at a time
    BundleError for a folder that is incomplete or was changed; MissingExtraError where no runtime is installed.
    """
    bundle = read_bundle(path)
    if batch is not None and batch < 1:
        raise ArgumentError(f"batch must be at least 1, got {batch}")
    size = batch or BATCH
    return Predictor(bundle, open_engine(bundle.model, runtime=runtime, threads=threads, precision=precision, batch=size), batch=size)


class Predictor:
    """A bundle that is ready to run; `load` makes one."""

    def __init__(self, bundle: Bundle, engine: Engine, *, batch: int) -> None:
        self.bundle, self.engine, self.batch = bundle, engine, batch

    @property
    def labels(self) -> tuple[str, ...]:
        return self.bundle.labels

    @property
    def preprocess(self) -> Preprocess:
        return self.bundle.preprocess

    @property
    def design(self) -> Design:
        return self.bundle.design

    @property
    def output(self) -> Output:
        """What becomes of the logits: softmax or sigmoid, temperature, threshold."""
        return self.bundle.output

    @property
    def runtime(self) -> str:
        return self.engine.name

    def predict(
        self, files: "Iterable[Source]", *, top: int = 5, batch: int | None = None, threshold: float | None = None
    ) -> list[Prediction]:
        """One prediction a file, in their order; what can't be read has an error and stops nothing.

        threshold   of a multi-label network, in place of its own: the probability from which on a label is said
        """
        return list(self.stream(files, top=top, batch=batch, threshold=threshold))

    def stream(
        self, files: "Iterable[Source]", *, top: int = 5, batch: int | None = None, threshold: float | None = None
    ) -> Iterator[Prediction]:
        """`predict`, one at a time as they are ready, for lists that don't fit in memory."""
        if top < 1:
            raise ArgumentError(f"top must be at least 1, got {top}")
        if threshold is not None and not self.output.multi_label:
            raise ArgumentError("a threshold is for multi-label networks; this one names one class")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ArgumentError(f"threshold must be from 0 to 1, got {threshold}")
        for path, scores in self.scores(files, batch=batch):
            if isinstance(scores, ImageError):
                yield Prediction(path, error=scores.code, message=str(scores))
            else:
                ranked = np.argsort(-scores, kind="stable")
                best = tuple((self.labels[index], float(scores[index])) for index in ranked[:top])
                yield Prediction(path, best, self._said(scores, ranked, threshold))

    def scores(self, files: "Iterable[Source]", *, batch: int | None = None) -> "Rows":
        """Path and probabilities of all classes (num_classes,) of each file, in their order; the error where a file can't be read."""
        return self._rows(files, self.probabilities, batch)

    def all_logits(self, files: "Iterable[Source]", *, batch: int | None = None) -> "Rows":
        """`scores`, with the logits in place of the probabilities."""
        return self._rows(files, self.logits, batch)

    def _rows(
        self, files: "Iterable[Source]", compute: "Callable[[NDArray[np.float32]], NDArray[np.float32]]", batch: int | None
    ) -> "Rows":
        """Images are decoded by threads while the batch before them is computed."""
        size = self.batch if batch is None else batch
        if size < 1:
            raise ArgumentError(f"batch must be at least 1, got {size}")
        waiting = enumerate([files] if isinstance(files, (str, bytes, PathLike, Image.Image)) else files)
        pending: deque[tuple[str, Future[NDArray[np.float32]]]] = deque()
        with ThreadPoolExecutor(self.engine.threads, "decode") as pool:

            def ask(count: int) -> None:
                for number, source in islice(waiting, count):
                    pending.append((_name(source, number), pool.submit(self._array, source)))

            try:
                ask(2 * size)
                while pending:
                    read = [pending.popleft() for _ in range(min(size, len(pending)))]
                    ready = [(name, future.exception() or future.result()) for name, future in read]
                    ask(len(read))
                    images = [made for _, made in ready if isinstance(made, np.ndarray)]
                    rows = iter(compute(np.stack(images)) if images else ())
                    for name, made in ready:
                        if isinstance(made, np.ndarray):
                            yield name, next(rows)
                        elif isinstance(made, ImageError):
                            yield name, made
                        else:
                            raise made
            finally:
                pool.shutdown(cancel_futures=True)

    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (N, in_channels, crop, crop), preprocessed -> (N, num_classes), by `output`. ArgumentError for another shape."""
        return probabilities(self.logits(images), self.output).astype(np.float32)

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images (N, in_channels, crop, crop), preprocessed -> (N, num_classes), as the network gives them."""
        wanted = (self.design.spec.in_channels, self.preprocess.crop, self.preprocess.crop)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise ArgumentError(f"images must have the shape (N, {', '.join(map(str, wanted))}), got {images.shape}")
        if not len(images):
            return np.zeros((0, len(self.labels)), np.float32)
        return self.engine(np.ascontiguousarray(images, np.float32))

    def _said(self, scores: NDArray[np.float32], ranked: NDArray[np.intp], threshold: float | None) -> tuple[str, ...] | None:
        if not self.output.multi_label:
            return None
        least = self.output.threshold if threshold is None else threshold
        return tuple(self.labels[index] for index in ranked if scores[index] >= least)

    def _array(self, source: "Source") -> NDArray[np.float32]:
        if isinstance(source, np.ndarray):
            source = _as_image(source)
        if isinstance(source, Image.Image):
            return to_array(upright_rgb(source, background=self.preprocess.background), self.preprocess)
        source = source if isinstance(source, (str, bytes)) else Path(source)
        return to_array(read_image(source, background=self.preprocess.background), self.preprocess)


def probabilities(logits: NDArray[np.floating], output: Output) -> NDArray[np.float64]:
    """Logits (N, classes) -> probabilities of the same shape, in float64: rows that sum to 1, but of a multi-label network each its own."""
    scaled = logits.astype(np.float64) / output.temperature
    if output.multi_label:
        return np.exp(-np.logaddexp(0, -scaled))
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _name(source: "Source", number: int) -> str:
    return fspath(source) if isinstance(source, (str, PathLike)) else f"image {number}"


def _as_image(pixels: "Pixels") -> Image.Image:
    try:
        if pixels.dtype != np.uint8:
            raise TypeError(f"got {pixels.dtype}")
        return Image.fromarray(pixels)
    except (TypeError, ValueError) as error:
        raise ImageError("not_an_image", f"an array must be uint8, (H, W) or (H, W, 3): {error}") from None
