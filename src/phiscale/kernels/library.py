"""The compiled kernels: which build fits this processor, why there is none where there is none, and how torch comes to know them.

`source/` is compiled once per instruction set when the package is built, where a compiler is; everything works without it,
slower. PHISCALE_KERNELS=off does without it, PHISCALE_KERNELS=portable (avx2, avx512, avx512bf16) takes that build.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from phiscale.errors import ArgumentError

VERSION: Final = 2  # of source/'s interface
SETTING: Final = "PHISCALE_KERNELS"
_NAMES = {"avx512bf16": "AVX-512 with bfloat16", "avx512": "AVX-512", "avx2": "AVX2", "portable": "portable"}
_BUILDS = {"AVX512": ("avx512", "avx2", "portable"), "AVX2": ("avx2", "portable")}  # by what torch says of the processor
_OPERATORS = torch.library.Library("phiscale", "DEF")


def operator(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, on the processor, as torch.ops.phiscale.NAME; `register_fake` and `register_autograd` of torch.library add the rest.

    Not torch.library.custom_op, whose operators import torch.compile's machinery when they are first called: a second of start-up.
    """
    name = function.__name__
    schema = torch.library.infer_schema(function, mutates_args=())
    _OPERATORS.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _OPERATORS.impl(name, function, "CPU")
    return getattr(torch.ops.phiscale, name).default


def once_only(name: str) -> None:
    """Make a gradient of the operator's gradient an error, where torch would take it for zero."""

    def refuse(ctx: Any, *_: Any) -> None:
        del ctx
        raise NotImplementedError(
            f"phiscale::{name} has no gradient of its own; take second derivatives of the plain network (phiscale.kernels.restore)"
        )

    torch.library.register_autograd(f"phiscale::{name}", refuse)


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where the pure-PyTorch path runs."""
    return opened()[0]


def status() -> str:
    """Which path runs and why, in one line."""
    return opened()[1]


def builds() -> list[Path]:
    """What the package's build compiled."""
    return [path for name in _NAMES for path in Path(__file__).parent.glob(f"_{name}*.so")]


def fitting() -> tuple[str, ...]:
    """The instruction sets of this processor, best first."""
    found = _BUILDS.get(torch.backends.cpu.get_cpu_capability(), ("portable",))
    return ("avx512bf16", *found) if "avx512" in found and has_bf16() else found


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def call(function: str, *arguments: Any) -> int:
    """Call into the library with torch's number of threads: tensors and lists as their addresses, None as null."""
    found = library()
    if found is None:
        raise ArgumentError(f"phiscale's kernels are not compiled here: {status()}")
    return getattr(found, function)(*(_c(argument) for argument in arguments), ctypes.c_int(torch.get_num_threads()))


def _c(value: Any) -> Any:
    match value:
        case Tensor():
            return ctypes.c_void_p(value.data_ptr())
        case list():
            return (ctypes.c_int64 * len(value))(*value)
        case None:
            return ctypes.c_void_p()
        case _:
            return ctypes.c_int(value)


@cache
def opened() -> tuple[ctypes.CDLL | None, str]:
    """The library and what to say of it."""
    asked = os.environ.get(SETTING, "").strip().lower()
    if asked == "off":
        return None, f"pure PyTorch ({SETTING}=off)"
    for name in (asked,) if asked in _NAMES else fitting():
        for path in (path for path in builds() if path.name.startswith(f"_{name}.")):
            try:
                found = ctypes.CDLL(str(path))
            except OSError as error:
                return None, f"pure PyTorch ({path.name} can't be opened: {error})"
            if found.version() != VERSION:
                return None, f"pure PyTorch ({path.name} is of another version of phiscale; install again)"
            found.set_parallel(_torch_team())
            return found, f"compiled, {_NAMES[name]}"
    return None, "pure PyTorch (the kernels were not compiled when phiscale was installed; install again where g++ 11 or clang 14 is)"


def _torch_team() -> ctypes.c_void_p:
    """GOMP_parallel of the OpenMP runtime torch itself runs on, so that one team of threads serves both; null if it has none."""
    root = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            return ctypes.cast(ctypes.CDLL(str(root / name)).GOMP_parallel, ctypes.c_void_p)
        except (OSError, AttributeError):
            continue
    return ctypes.c_void_p()
