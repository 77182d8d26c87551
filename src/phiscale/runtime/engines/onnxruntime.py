"""ONNX Runtime on the processor: float32, any batch."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from phiscale.errors import ArgumentError, BundleError
from phiscale.runtime.engines import Precision


class OnnxRuntime:
    """An Engine. Safe to call from several threads at once."""

    name: str = "onnxruntime"
    precision: Precision = "f32"

    def __init__(self, model: bytes, *, threads: int, precision: Precision) -> None:
        if precision == "bf16":
            raise ArgumentError("ONNX Runtime computes in f32 on a processor; for bf16 use runtime openvino")
        self.threads = threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # else its threads wait busily for 50 ms after each run, and an engine that is measured next has half its speed
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3  # errors; its warnings are about its own optimiser
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 (its exceptions share no base)
            raise BundleError(f"ONNX Runtime can't load the model: {error}") from None
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._session.run([self._output], {self._input: images})[0], np.float32)
