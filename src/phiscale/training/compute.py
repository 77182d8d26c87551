"""How steps are computed, as a value: speed, memory and rounding, but not what is learned."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from accelerate import PartialState

from phiscale.errors import ArgumentError
from phiscale.kernels import best_precision

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """
    precision      of the convolutions; auto: bfloat16 on a GPU that has it, float16 with a loss scaler on one that hasn't; on a processor
                   the quicker of float32 and bfloat16 (kernels.best_precision)
    accumulate     parts that a step's images are computed in, one after the other: the same step, in a part of the memory
    compile        by torch.compile
    channels_last  the layout of images and weights
    sync_norms     batch norms that learn see all processes' images
    """

    precision: Precision = "auto"
    accumulate: int = 1
    compile: bool = False
    channels_last: bool = True
    sync_norms: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "float32", "bfloat16", "float16"):
            raise ArgumentError(f"precision must be auto, float32, bfloat16 or float16, got {self.precision!r}")
        if not (isinstance(self.accumulate, int) and 1 <= self.accumulate <= 10_000):
            raise ArgumentError(f"accumulate must be a whole number from 1 to 10000, got {self.accumulate!r}")

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def decided(self) -> tuple["Compute", str]:
        """With the precision that auto means on this machine, and why that one. ArgumentError for float16 without a GPU."""
        device = this_device()
        if self.precision == "float16" and device.type != "cuda":
            raise ArgumentError(
                f"float16 is for GPUs, and this machine trains on {device.type}; start a run with --precision bfloat16 or float32"
            )
        if self.precision != "auto":
            return self, "as asked"
        chosen: Precision
        if device.type == "cpu":
            chosen, why = best_precision()
        elif device.type != "cuda":
            chosen, why = "float32", f"nothing else was tried on {device.type}"
        elif torch.cuda.is_bf16_supported(including_emulation=False):
            chosen, why = "bfloat16", "this GPU multiplies it"
        else:
            chosen, why = "float16", "this GPU has no bfloat16"
        return replace(self, precision=chosen), why

    @property
    def mixed(self) -> str:
        """Accelerate's word for the precision."""
        return {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[self.decided()[0].precision]


def this_device() -> torch.device:
    """What Accelerate computes on here."""
    return torch.device(PartialState().device or "cpu")
