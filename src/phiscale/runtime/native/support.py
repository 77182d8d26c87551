"""Where the native engine can run: the system, the processor, the built library, the network. Each no has its reason."""

import os
import platform
import sys
from pathlib import Path
from typing import assert_never

from phiscale.architecture.plan import Block, blocks
from phiscale.architecture.spec import Activation, NetworkSpec

# what source/ is compiled for (x86-64-v4 and these), in the names of /proc/cpuinfo: the kernel lists only what it also enabled
NEEDS = frozenset(
    (
        *("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"),
        *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"),
    )
)
MASK = "PHISCALE_CPU_WITHOUT"  # instructions to do without, separated by commas: `PHISCALE_CPU_WITHOUT=amx_bf16`
LIBRARY = "PHISCALE_NATIVE_LIBRARY"  # another build of source/, e.g. a sanitized one


def why_not(spec: NetworkSpec) -> str | None:
    """Why the native engine can't run this network here, in one line; None where it can."""
    return machine_lacks() or network_asks_for(spec)


def library() -> Path | None:
    """The compiled engine, where the package's build could make one."""
    if given := os.environ.get(LIBRARY):
        return Path(given)
    return next(iter(sorted(Path(__file__).parent.glob("_amx*.so"))), None)


def machine_lacks() -> str | None:
    """What this machine or installation lacks."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the native engine is for Linux on x86-64; this is {platform.system()} on {platform.machine()}"
    if missing := sorted(NEEDS - _instructions()):
        return f"the native engine needs a processor with AMX bf16 and AVX-512 FP16; this one has no {', '.join(missing)}"
    if library() is None:
        return "the native engine was not compiled when phiscale was installed; install again where g++ 12 or newer is"
    return None


def _instructions() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return set(found.split()) - set(os.environ.get(MASK, "").replace(",", " ").split())


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
