"""Builds the native engine with the package. Optional: without a compiler for it the package installs all the same."""

import platform
import sys

from setuptools import Extension, setup

SOURCE = "src/phiscale/runtime/native/source"
# runtime/native/support.py names the same instructions: the library is only opened where the processor has them all
FLAGS = [
    "-std=c++17 -O3 -g0 -fno-math-errno -fvisibility=hidden -pthread -Wall -Wextra",
    "-Wno-uninitialized -Wno-maybe-uninitialized",  # GCC 12's own intrinsics
    "-march=x86-64-v4 -mtune=sapphirerapids -mavx512bf16 -mavx512fp16 -mamx-tile -mamx-bf16",
]
native = Extension(
    "phiscale.runtime.native._amx",
    sources=[f"{SOURCE}/network.cpp"],
    depends=[f"{SOURCE}/{name}.h" for name in ("engine", "simd", "gemm", "depthwise", "team")],
    extra_compile_args=" ".join(FLAGS).split(),
    extra_link_args=["-pthread"],
    language="c++",
    optional=True,
)
buildable = sys.platform == "linux" and platform.machine() == "x86_64"
setup(ext_modules=[native] if buildable else [])
