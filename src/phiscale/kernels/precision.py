"""Whether bfloat16 is quick here: known where the processor multiplies it, measured once where it doesn't."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from phiscale.atomic import write_text
from phiscale.kernels.library import has_bf16, status
from phiscale.nn.layers import ConvNorm

SECONDS = 0.3  # of measuring each precision
GAIN = 1.15  # as many times as fast must bfloat16 be to be worth its rounding


def best_precision() -> tuple[Literal["float32", "bfloat16"], str]:
    """The precision to train in on this processor, and why.

    Without instructions for bfloat16 a block's forward and backward pass is timed in both, once: the answer is kept in the cache
    folder for this processor, torch, number of threads and build of the kernels, so that a resumed run computes as it began.
    """
    if has_bf16():
        return "bfloat16", "this processor multiplies it"
    key = hashlib.sha256(repr((_processor(), torch.__version__, torch.get_num_threads(), status())).encode()).hexdigest()[:16]
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phiscale" / "precision.json"
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    ratio = known.get(key)
    if not isinstance(ratio, float):
        ratio = _measured()
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({**known, key: ratio}))
    return ("bfloat16" if ratio >= GAIN else "float32"), f"bfloat16 was measured {ratio:.2f} times as fast"


def _measured() -> float:
    """Seconds of float32 over those of bfloat16, of 28 x 28 maps that are widened, convolved in depth and narrowed again."""
    from phiscale.kernels.apply import accelerate  # which a choice already made doesn't need

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        common: dict[str, Any] = {"eps": 1e-3, "padding": "same", "momentum": 0.01}
        block = nn.Sequential(
            ConvNorm(40, 240, act="silu", **common),
            ConvNorm(240, 240, 5, 1, 240, act="silu", **common),
            ConvNorm(240, 40, act=None, **common),
        )
        accelerate(block).to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
        x = torch.randn(8, 40, 28, 28).contiguous(memory_format=torch.channels_last)

    def seconds(half: bool, x: Tensor) -> float:
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - begun < SECONDS:
            start = time.perf_counter()
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                y = block(x)
            y.float().mean().backward()
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(False, x) / seconds(True, x)


def _processor() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return torch.backends.cpu.get_cpu_capability()
