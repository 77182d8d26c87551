"""Builds what is compiled, with the package. Optional: without a compiler for it the package installs all the same.

Each is a plain shared library of C functions that phiscale opens with ctypes, so it binds to no version of Python or torch.
"""

import json
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup

COMMON = ["-O3", "-g0", "-fno-math-errno", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
linux = sys.platform == "linux"
intel = platform.machine() in ("x86_64", "AMD64")


def library(name: str, source: str, headers: tuple[str, ...], flags: str) -> Extension:
    folder = source.rpartition("/")[0]
    return Extension(
        name,
        sources=[source],
        depends=[f"{folder}/{header}.h" for header in headers],
        extra_compile_args=[*COMMON, *flags.split()],
        extra_link_args=["-pthread"],
        language="c++",
        optional=True,
    )


# runtime/native/support.py names the same instructions: a library is only opened where the processor has them all
native = [
    library(
        f"phiscale.runtime.native._{level}",
        "src/phiscale/runtime/native/source/network.cpp",
        ("amx", "arena", "bytes", "depthwise", "engine", "level", "registers", "simd", "team", "vector"),
        f"-std=c++17 -DPHI_{level.upper()} {flags} -Wno-uninitialized -Wno-maybe-uninitialized",  # GCC 12's own intrinsics
    )
    for level, flags in json.loads(Path("src/phiscale/runtime/native/source/levels.json").read_text()).items()
]
# kernels/library.py picks by the processor
levels = {"portable": ""}
if intel:
    levels |= {"avx512bf16": "-march=x86-64-v4 -mavx512bf16", "avx512": "-march=x86-64-v4", "avx2": "-march=x86-64-v3"}
kernels = [
    library(
        f"phiscale.kernels._{level}",
        "src/phiscale/kernels/source/kernels.cpp",
        ("simd", "norm", "depthwise"),
        f"-std=c++20 -Wno-psabi -fno-predictive-commoning {flags}",  # it keeps more between iterations than there are registers
    )
    for level, flags in levels.items()
]
setup(ext_modules=(native if linux and intel else []) + (kernels if sys.platform != "win32" else []))
