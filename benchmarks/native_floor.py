"""How near the native engine is to what its processor can do, block by block:   python benchmarks/native_floor.py [--network NAME]

One thread, one image, random weights, a build of the engine with clocks in it (needs g++). One row a block: millions of multiply-adds of
its convolutions and of its depthwise convolution, of activations, MB that it reads and writes once if the cache holds nothing (weights
and maps, but not what stays inside the block), the fastest time of each part, the floor, and how many times the floor they are.

The floor is the time of the multiply-adds alone at the processor's peak, which a loop of nothing but products in registers shows in the
same run. In bf16 the depthwise convolutions run at the peak of fp32; in int8 all but the 1x1 convolutions run as in bf16. The fastest of
many runs counts, so that other programs on the machine hardly show.
"""

import argparse
import csv
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from phiscale.architecture import NetworkSpec
from phiscale.architecture.catalog import design as published
from phiscale.architecture.plan import Block, blocks, out_size
from phiscale.deploy.graph import graph, random_weights
from phiscale.deploy.int8 import FEWEST_IMAGES, calibrated
from phiscale.runtime.machine import machine
from phiscale.runtime.native import Native
from phiscale.runtime.native.support import LIBRARIES, levels

SOURCE = Path(__file__).parents[1] / "src/phiscale/runtime/native/source/network.cpp"
TARGETS = {level: flags for level, flags in json.loads((SOURCE.parent / "levels.json").read_text()).items() if level != "amx"}
BUILD = (
    "-O3 -DPHI_PROFILE -std=c++17 -fno-math-errno -fvisibility=hidden -fPIC -pthread -shared -Wno-uninitialized -Wno-maybe-uninitialized"
)
VECTOR = "avx512"  # the level whose peak depthwise convolutions have in bf16
PER_PRODUCT = {"avx512_vnni": 1, "avx512_bf16": 2}  # bytes of a number that is multiplied; else 4
OTHERS = {  # the levels whose peaks a level's other convolutions and its depthwise ones have
    "avx512_vnni": ("avx512_bf16", VECTOR),
    "avx512_bf16": ("avx512_bf16", VECTOR),
}
PARTS = 4  # of a run, before those of the blocks: whole, image, head, classifier
PEAK = """
#include <immintrin.h>
#if defined(PHI_AVX2)
using Reg = __m256;
static Reg product(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(PHI_AVX512_VNNI)
using Reg = __m512i;
static Reg product(Reg a, Reg b, Reg c) {
    asm("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
}
#elif defined(PHI_AVX512)
using Reg = __m512;
static Reg product(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
#else
using Reg = __m512;
static Reg product(Reg a, Reg b, Reg c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
#endif
extern "C" __attribute__((visibility("default"))) int peak(int turns) {  // multiply-adds of a turn
    Reg sums[12] = {}, a = {}, b = {};
    for (Reg &sum : sums) asm volatile("" : "+v"(sum));  // else equal ones are computed once
    for (int i = 0; i < turns; i++) {
#pragma GCC unroll 12
        for (Reg &sum : sums) sum = product(a, b, sum);
        asm volatile("" : "+v"(a), "+v"(b));
    }
    for (Reg &sum : sums) asm volatile("" ::"v"(sum));
    return 12 * (int)sizeof(Reg) / (PER_PRODUCT);
}
"""
COLUMNS = ("block", "in", "out", "conv_m", "depthwise_m", "activations_m", "mb", "first_us", "scale_us", "project_us", "floor_us", "over")


def build(level: str, folder: str) -> list[subprocess.Popen[bytes]]:
    """The engine with clocks in it, and the loop of products."""
    Path(folder, f"{level}.cpp").write_text(PEAK)
    options = f"{BUILD} -DPHI_{level.upper()} {TARGETS[level]} -DPER_PRODUCT={PER_PRODUCT.get(level, 4)}".split()
    sources = {f"_{level}.so": SOURCE, f"peak_{level}.so": f"{folder}/{level}.cpp"}
    return [subprocess.Popen(["g++", *options, "-o", f"{folder}/{name}", source]) for name, source in sources.items()]


def peak(path: str, seconds: float) -> float:
    """Multiply-adds a second of one thread."""
    run, turns, best = ctypes.CDLL(path).peak, 100_000, np.inf
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        run(turns)
        best = min(best, time.perf_counter() - start)
    return turns * run(1) / best


def ticks(name: str, level: str, seconds: float) -> np.ndarray:
    """Seconds of the parts of a run, the fastest of each."""
    design = published(name)
    weights = random_weights(design.spec)
    if level == "avx512_vnni":
        shape = (FEWEST_IMAGES, design.spec.in_channels, design.resolution, design.resolution)
        ranges = calibrated(graph(design, weights), np.random.default_rng(1).standard_normal(shape, np.float32))
        engine = Native(design.spec, weights, threads=1, precision="int8", ranges=ranges)
    else:
        engine = Native(design.spec, weights, threads=1, level=level)
    clock = (ctypes.c_uint64 * (PARTS + 3 * 1024)).in_dll(engine._library, "phi_ticks")
    images = np.random.default_rng(0).standard_normal((1, design.spec.in_channels, design.resolution, design.resolution), np.float32)
    engine(images)
    best, scale, end = np.full(len(clock), np.inf), np.inf, time.monotonic() + seconds
    while time.monotonic() < end:
        ctypes.memset(clock, 0, ctypes.sizeof(clock))
        start = time.perf_counter()
        engine(images)
        took = time.perf_counter() - start
        run = np.array(clock, np.float64)
        best = np.minimum(best, run)
        scale = min(scale, took / run[0])  # of a tick; a call is a little longer than its run
    return best * scale


def work(block: Block, size: int, out: int, element: int) -> tuple[float, float, float, float, float]:
    """Multiply-adds of 1x1 convolutions, of others and of the depthwise one, activations, bytes read and written."""
    fused, before, after = block.kind == "fused", size * size, out * out
    expands = block.expands and block.kind != "separable"
    taps = block.kernel**2
    expand = block.w_in * block.w_mid * (taps if fused else 1) if expands else 0
    project = block.w_mid * block.w_out * (taps if fused and not expands else 1)
    depthwise = 0 if fused else block.w_mid * taps
    gates = 2 * block.w_mid * block.w_se
    spatial = expand * after if fused else 0.0
    pointwise = (0.0 if fused else expand * before) + project * after
    if fused and not expands:
        spatial, pointwise = pointwise, 0.0
    acts = block.w_mid * ((after if fused else before) if expands else 0) + (0 if fused else block.w_mid * after)
    weights = expand + project + depthwise + gates
    return pointwise, spatial + gates, depthwise * after, acts, element * (weights + block.w_in * before + block.w_out * after)


def rows(
    spec: NetworkSpec, resolution: int, level: str, seconds: np.ndarray, peaks: tuple[float, float, float]
) -> list[tuple[object, ...]]:
    pointwise_peak, conv_peak, vector_peak = peaks
    element = 2 if level in PER_PRODUCT else 4
    size = out_size(resolution, spec.stem.kernel, spec.stem.stride, spec.padding)
    stem = size * size * spec.stem.widths[0] * spec.in_channels * spec.stem.kernel**2
    made = list[tuple[object, ...]]()
    total = np.zeros(5)
    for i, block in enumerate(blocks(spec)):
        out = out_size(size, block.kernel, block.stride, spec.padding)
        pointwise, other, depthwise, acts, moved = work(block, size, out, element)
        if i == 0:  # it runs with its stem, row by row
            other, acts = other + stem, acts + size * size * spec.stem.widths[0]
        parts = seconds[PARTS + 3 * i : PARTS + 3 * i + 3]
        conv, floor = pointwise + other, pointwise / pointwise_peak + other / conv_peak + depthwise / vector_peak
        total += (conv, depthwise, acts, floor, parts.sum())
        shape = (f"{block.w_in}x{size}", f"{block.w_out}x{out}")
        figures = (*(f"{value / 1e6:.2f}" for value in (conv, depthwise, acts, moved)), *(f"{value * 1e6:.0f}" for value in parts))
        made.append((block.name, *shape, *figures, f"{floor * 1e6:.0f}", f"{parts.sum() / floor:.2f}"))
        size = out
    features = spec.head_width or spec.stages[-1].width
    last = size * size * spec.stages[-1].width * spec.head_width
    classifier = float(features * spec.num_classes)
    head = (("image", 0.0, conv_peak, 1), ("head", last, pointwise_peak, 2), ("classifier", classifier, conv_peak, 3))
    for name, conv, at, part in head:
        floor = conv / at
        total += (conv, 0, 0, floor, seconds[part])
        over = f"{seconds[part] / floor:.2f}" if floor else ""
        made.append((name, "", "", f"{conv / 1e6:.2f}", "", "", "", f"{seconds[part] * 1e6:.0f}", "", "", f"{floor * 1e6:.0f}", over))
    conv, depthwise, acts, floor, sums = total
    totals = (f"{conv / 1e6:.1f}", f"{depthwise / 1e6:.1f}", f"{acts / 1e6:.2f}", "", f"{sums * 1e6:.0f}", "", "", f"{floor * 1e6:.0f}")
    return [*made, ("sum", "", "", *totals, f"{sums / floor:.2f}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="efficientnet_b0")
    parser.add_argument("--levels", default="avx512,avx512_bf16")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    given = parser.parse_args()
    design, chosen = published(given.network), given.levels.split(",")
    here = [level.name for level in (*levels(), *levels("int8"))]
    if unknown := [level for level in chosen if level not in here or level not in TARGETS]:
        parser.error(f"{', '.join(unknown)} can't be profiled here; {', '.join(level for level in here if level in TARGETS)} can")
    out = csv.writer(sys.stdout, lineterminator="\n")
    print(f"# {machine()['processor']} ({', '.join(machine()['instructions'])}), 1 thread")
    with tempfile.TemporaryDirectory() as folder:
        wanted = {peak for level in chosen for peak in (level, *OTHERS.get(level, ()))}
        builds = [each for level in wanted for each in build(level, folder)]
        if sum(each.wait() for each in builds):
            raise SystemExit("a build failed")
        os.environ[LIBRARIES] = folder
        for level in chosen:
            found = {name: peak(f"{folder}/peak_{name}.so", given.seconds / 2) for name in {level, *OTHERS.get(level, ())}}
            other, vector = OTHERS.get(level, (level, level))
            peaks = found[level], found[other], found[vector]
            said = ", ".join(f"{kind} {value / 1e9:.0f}" for kind, value in zip(("1x1", "others", "depthwise"), peaks, strict=True))
            print(f"# {given.network} at {design.resolution}, {level}: peaks in G/s: {said}", flush=True)
            out.writerow(COLUMNS)
            out.writerows(rows(design.spec, design.resolution, level, ticks(given.network, level, given.seconds), peaks))


if __name__ == "__main__":
    main()
