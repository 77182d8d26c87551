"""OpenVINO on the processor. Shapes are fixed when compiling, which runs 10 to 40 % faster than a free batch.

So the graph is compiled for one image, and for `batch` images when the first full batch comes; what is left of a list
goes one by one (a batch of 32 is only a sixth faster per image than one).
"""

from functools import cache
from threading import Lock

import numpy as np
import openvino
from numpy.typing import NDArray

from phiscale.errors import BundleError
from phiscale.runtime.engines import Precision


@cache
def core() -> openvino.Core:
    """The one Core of this process: never a second, and it lasts as long as the process.

    Its processor plugin gives the calling thread a stack for signal handlers, and takes it away when the Core goes. When two Cores
    of a thread go in the order in which they came, the second puts back the first one's stack, which is no longer mapped
    (seen in OpenVINO 2026.4): the next signal with a Python handler, a Ctrl-C or a child's end, ends the process with SIGSEGV.
    """
    return openvino.Core()


class OpenVino:
    """An Engine. Calls from several threads take turns."""

    name: str = "openvino"

    def __init__(self, model: bytes, *, threads: int, precision: Precision, batch: int = 1) -> None:
        self.threads, self.batch = threads, max(1, batch)
        self._model = model
        self._options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if precision != "auto":
            self._options["INFERENCE_PRECISION_HINT"] = precision
        self._requests: dict[int, openvino.InferRequest] = {}
        self._lock = Lock()
        used = self._request(1).get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        self.precision: Precision = "bf16" if used == openvino.Type.bf16 else "f32"

    def _request(self, batch: int) -> openvino.InferRequest:
        if batch not in self._requests:
            try:
                model = core().read_model(self._model)
                model.reshape(openvino.PartialShape([batch, *list(model.input(0).partial_shape)[1:]]))
                self._requests[batch] = core().compile_model(model, "CPU", self._options).create_infer_request()
            except RuntimeError as error:
                raise BundleError(f"OpenVINO can't load the model: {error}") from None
        return self._requests[batch]

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with self._lock:
            parts: list[NDArray[np.float32]] = []
            start = 0
            while start < len(images):
                count = self.batch if len(images) - start >= self.batch else 1
                result = self._request(count).infer([images[start : start + count]], share_inputs=True)
                parts.append(np.array(result[0], np.float32))
                start += count
            return np.concatenate(parts)
