"""Where the native engine can run: the system, the processor, the built library, the network. Each no has its reason."""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from phiscale.architecture.plan import Block, blocks
from phiscale.architecture.spec import Activation, NetworkSpec

Computes = Literal["f32", "bf16", "int8"]
_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")  # x86-64-v3 and v4, in the names of /proc/cpuinfo
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@dataclass(frozen=True, slots=True)
class Level:
    """One build of source/: the instructions that it uses, as /proc/cpuinfo names them, and what it computes in."""

    name: str
    computes: Computes
    needs: frozenset[str]


# Each precision's fastest first; setup.py builds one library a level. The kernel lists only instructions that it also enabled.
LEVELS = (
    Level("amx", "bf16", frozenset((*_V4, "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"))),
    Level("avx512_bf16", "bf16", frozenset((*_V4, "avx512_bf16"))),
    Level("avx512_vnni", "int8", frozenset((*_V4, "avx512_bf16", "avx512_vnni"))),
    Level("avx512", "f32", frozenset(_V4)),
    Level("avx2", "f32", frozenset(_V3)),
)
MASK = "PHISCALE_CPU_WITHOUT"  # instructions to do without, separated by commas: `PHISCALE_CPU_WITHOUT=amx_bf16`
LIBRARIES = "PHISCALE_NATIVE_LIBRARIES"  # a folder with another build of source/, e.g. a sanitized one


def why_not(spec: NetworkSpec, precision: str = "auto") -> str | None:
    """Why the native engine can't run this network here in this precision, in one line; None where it can."""
    return machine_lacks(precision) or network_asks_for(spec)


def levels(precision: str = "auto") -> tuple[Level, ...]:
    """The levels that this processor and installation can run, the fastest first; "auto" takes f32 and bf16, which need no ranges."""
    have = instructions() if _system() else frozenset[str]()
    return tuple(level for level in LEVELS if level.computes in _meant(precision) and level.needs <= have and library(level) is not None)


def _meant(precision: str) -> tuple[str, ...]:
    return ("f32", "bf16") if precision == "auto" else (precision,)


def library(level: Level) -> Path | None:
    """The compiled engine of a level, where the package's build could make one."""
    folder = Path(os.environ.get(LIBRARIES) or Path(__file__).parent)
    return next(iter(sorted(folder.glob(f"_{level.name}.*"))), None)


def machine_lacks(precision: str = "auto") -> str | None:
    """What this machine or installation lacks."""
    if levels(precision):
        return None
    if not _system():
        return f"the native engine is for Linux on x86-64; this is {platform.system()} on {platform.machine()}"
    known = [level for level in LEVELS if level.computes in _meant(precision)]
    if not known:
        return f"the native engine computes in f32, bf16 or int8, not in {precision}"
    have, least = instructions(), known[-1]
    if missing := sorted(least.needs - have):
        return f"the native engine needs a processor with {least.name} for {least.computes}; this one has no {', '.join(missing)}"
    return "the native engine was not compiled when phiscale was installed; install again where g++ 12 or newer is"


def _system() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


def instructions() -> frozenset[str]:
    """The processor's, as far as the system enabled them and `MASK` leaves them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(found.split()) - frozenset(os.environ.get(MASK, "").replace(",", " ").split())


def network_asks_for(spec: NetworkSpec) -> str | None:
    """What this network has that the engine can't do, by the name of its first such part."""
    if spec.stem.pool:
        return "stem: the native engine has no max-pooling"
    if spec.stem.space_to_depth:
        return "stem: the native engine has no space-to-depth convolution"
    if spec.stem.kernel % 2 == 0:
        return f"stem: the native engine's kernels are odd, this one is {spec.stem.kernel}"
    if spec.stem.kernel > 7:
        return f"stem: the native engine's kernels end at 7, this one is {spec.stem.kernel}"
    for block in blocks(spec):
        if said := _block_asks_for(block, spec.activation):
            return f"{block.name}: {said}"
    return None


def _block_asks_for(block: Block, activation: Activation) -> str | None:
    if block.activation != activation:
        return f"the native engine has one activation a network; this block's is {block.activation}, the network's {activation}"
    if block.experts:
        return "the native engine has no conditional convolutions"
    match block.kind:
        case "mbconv" | "separable":
            if block.kernel not in (3, 5, 7) or block.stride > 2:
                return (
                    f"the native engine's depthwise kernels are 3, 5, 7 with stride 1, 2; this is {block.kernel} with stride {block.stride}"
                )
        case "fused":
            if block.kernel > 7 or block.kernel % 2 == 0:
                return f"the native engine's kernels are odd and end at 7, this one is {block.kernel}"
        case "bottleneck":
            return "the native engine has no bottleneck blocks"
        case _:
            assert_never(block.kind)
    return None
