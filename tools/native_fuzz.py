"""Random networks, image sizes, batches and thread counts through every level of the native engine that runs here, against PyTorch.
(Level avx512_vnni only has to give numbers: what its ranges cut off is chance.)

python tools/native_fuzz.py --minutes 10 [--seed 0]     ends with status 1 and the case's number at the first wrong answer; a crash ends
it too, and the last line printed says which case it was: `--seed N --cases 1` runs case N alone.
"""

import argparse
import random
import sys
import time
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from phiscale.architecture import NetworkSpec, Stage, Stem
from phiscale.architecture.plan import blocks
from phiscale.nn import Network
from phiscale.runtime.fold import folded
from phiscale.runtime.native import Native
from phiscale.runtime.native.engine import map_size
from phiscale.runtime.native.program import Range
from phiscale.runtime.native.support import levels


def random_spec(chance: random.Random) -> NetworkSpec:
    widths = (1, 3, 8, 16, 24, 31, 32, 33, 40, 64, 96, 130)

    def stage() -> Stage:
        kind = chance.choice(("mbconv", "mbconv", "fused", "separable"))
        expand = 1.0 if kind == "separable" else chance.choice((0.5, 1.0, 1.1, 2.0, 4.0, 6.0))
        made = Stage(
            kind=kind,
            depth=chance.randint(1, 3),
            width=chance.choice(widths),
            kernel=chance.choice((1, 3, 5, 7)) if kind == "fused" else chance.choice((3, 5, 7)),
            stride=chance.randint(1, 4) if kind == "fused" else chance.randint(1, 2),
            expand=expand,
            skip=chance.random() < 0.8,
        )
        return made if kind == "fused" and expand == 1 else replace(made, se=chance.choice((0.0, 0.05, 0.25, 1.0)))

    return NetworkSpec(
        stages=tuple(stage() for _ in range(chance.randint(1, 4))),
        stem=Stem(
            widths=tuple(chance.choice(widths) for _ in range(chance.choice((1, 1, 1, 2, 3)))),
            kernel=chance.choice((1, 3, 5, 7)),
            stride=chance.randint(1, 4),
        ),
        head_width=chance.choice((0, 8, 100, 320)),
        num_classes=chance.choice((0, 1, 10, 33, 1000)),
        in_channels=chance.choice((1, 2, 3, 3, 3, 4, 5, 40)),
        activation=chance.choice(("silu", "relu", "relu6", "hardswish")),
        padding=chance.choice(("same", "symmetric")),
    )


def one_by_one(spec: NetworkSpec) -> dict[str, int]:
    """The layers that can run in int8, and how many channels they read."""
    made = {"head": spec.stages[-1].width} if spec.head_width else {}
    for block in blocks(spec):
        made |= {f"{block.name}.{layer}": width for layer, width in (("expand", block.w_in), ("project", block.w_mid), ("se", block.w_mid))}
    return made


def run_case(number: int) -> str:
    """What is wrong with case `number`; empty if nothing is."""
    chance = random.Random(number)
    spec, threads = random_spec(chance), chance.choice((1, 2, 2, 3, 5, 16))
    torch.manual_seed(number)
    made = Network(spec).eval()
    for part in made.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, 0, 0.5)
    weights = folded(spec, {key: value.numpy() for key, value in made.state_dict().items()})
    engines = [Native(spec, weights, threads=threads, level=level.name) for level in levels()]
    if levels("int8"):  # with ranges that fit nothing: it must bear them
        low, high = -(10 ** chance.uniform(-3, 3)), 10 ** chance.uniform(-3, 3)
        ranges = {layer: Range(low, high, (low + high,) * width) for layer, width in one_by_one(spec).items()}
        engines.append(Native(spec, weights, threads=threads, precision="int8", ranges=ranges))
    for _ in range(chance.randint(1, 4)):
        size = (
            chance.choice((chance.randint(1, 40), chance.randint(1, 300))),
            chance.choice((chance.randint(1, 40), chance.randint(1, 300))),
        )
        count = chance.choice((1, 1, 2, 3, 4, 5, 9, 70)) if size[0] * size[1] < 5000 else chance.choice((1, 2, 3))
        if min(map_size(spec, *size)) < 1:
            continue
        x = np.random.default_rng(number).standard_normal((count, spec.in_channels, *size), np.float32)
        with torch.inference_mode():
            want = made.forward_features(torch.from_numpy(x)).numpy()
            pure = deepcopy(made).bfloat16().forward_features(torch.from_numpy(x).bfloat16()).float().numpy()
        scale = np.linalg.norm(want) + 1e-6
        torchs = np.linalg.norm(pure - want) / scale
        for engine in engines:
            got = engine.outputs(x, embedding=True, features=True)
            about = f"{engine.level}: {spec}, {size}, batch {count}, {threads} threads"
            if got.features is None or got.embedding is None or not np.isfinite(got.features).all():
                return f"{about}: not finite"
            if engine.precision == "int8":
                continue
            ours = np.linalg.norm(got.features - want) / scale
            if ours > (max(2 * torchs, 0.1) if engine.precision == "bf16" else 1e-3) and want.size >= 100:
                return f"{about}: off by {ours:.3g}, PyTorch in bf16 by {torchs:.3g}"
    for engine in engines:
        engine.close()
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=1 << 40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    end, number = time.monotonic() + 60 * given.minutes, given.seed
    while time.monotonic() < end and number < given.seed + given.cases:
        print(f"\rcase {number}", end="", flush=True)
        if wrong := run_case(number):
            print(f"\ncase {number}: {wrong}")
            return 1
        number += 1
    print(f"\n{number - given.seed} cases, nothing wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
