"""The paper's tables beside our own numbers: what agrees, and where its FLOPs can't be had from its own rounding rules."""

from dataclasses import dataclass
from typing import Any

from phiscale.architecture import Design, scale
from phiscale.architecture.catalog import design
from phiscale.architecture.plan import out_size
from phiscale.cost import cost
from phiscale.errors import ArgumentError
from phiscale.jobs import paper

TOLERANCE = 0.05  # of the printed FLOPs, beyond half of their last printed digit


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """A table of the paper with ours beside it: plain values under plain keys, and sentences about where they part."""

    title: str
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"title": self.title, "source": paper.SOURCE, "rows": list(self.rows), "notes": list(self.notes)}


def reproduce(what: str) -> Reproduction:
    """A table by its name: "table1", "table2", "table3", "table7" (computed), or "table4" (measured here, on one core).

    ArgumentError for another.
    """
    if what not in TABLES:
        raise ArgumentError(f"can't reproduce {what!r}; possible: {', '.join(TABLES)}")
    return TABLES[what]()


def _table1() -> Reproduction:
    b0 = design("efficientnet_b0")
    spec, size = b0.spec, b0.resolution
    rows: list[dict[str, Any]] = [_stage(0, "Conv3x3", size, spec.stem.widths[0], len(spec.stem.widths))]
    size = out_size(size, spec.stem.kernel, spec.stem.stride, spec.padding)
    for number, stage in enumerate(spec.stages, 1):
        rows.append(_stage(number, f"MBConv{stage.expand:g}, k{stage.kernel}x{stage.kernel}", size, stage.width, stage.depth))
        size = out_size(size, stage.kernel, stage.stride, spec.padding)
    rows.append(_stage(len(spec.stages) + 1, "Conv1x1 & Pooling & FC", size, spec.head_width, 1))
    apart = [row for row in rows if any(row[name] != row[f"paper_{name}"] for name in ("operator", "resolution", "channels", "layers"))]
    return Reproduction(
        title="Table 1: EfficientNet-B0, stage by stage (resolution of each stage's input)",
        rows=tuple(rows),
        notes=tuple(f"stage {row['stage']} differs" for row in apart) or ("all stages agree",),
    )


def _stage(number: int, operator: str, resolution: int, channels: int, layers: int) -> dict[str, Any]:
    stage, *printed = paper.TABLE1[number]
    ours = {"operator": operator, "resolution": resolution, "channels": channels, "layers": layers}
    return {"stage": stage} | ours | dict(zip((f"paper_{name}" for name in ours), printed, strict=True))


def _table2() -> Reproduction:
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    group = paper.TABLE2[0]
    for row in paper.TABLE2:
        ours = design(row.network) if row.network else None
        if row.params_ratio == 1.0:
            group = row
        assert group.network is not None
        lead = cost(design(group.network))
        of = cost(ours) if ours else None
        rows.append(
            {
                "network": row.name,
                "top1": row.top1,
                "top5": row.top5,
                "paper_params": row.params * 1e6,
                "params": of.params if of else None,
                "paper_macs": row.flops * 1e9 if row.flops else None,
                "macs": of.macs if of else None,
                "claimed_params_ratio": row.params_ratio,
                "params_ratio": (of.params if of else row.params * 1e6) / lead.params,
                "claimed_macs_ratio": row.flops_ratio,
                "macs_ratio": (of.macs if of else row.flops * 1e9) / lead.macs if row.flops else None,
            }
        )
        if of and row.flops and _apart(of.macs, row.flops):
            notes.append(f"{row.name}: {_by(of.macs, row.flops)}")
        if row.flops and row.flops_ratio and group.flops and abs(row.flops / group.flops / row.flops_ratio - 1) > TOLERANCE:
            notes.append(f"{row.name}: claimed {row.flops_ratio:g}x the FLOPs, but the printed ones give {row.flops / group.flops:.2g}x")
    return Reproduction(
        title="Table 2: EfficientNet-B0 to B7 and the networks they are compared with",
        rows=tuple(rows),
        notes=(
            "ratios: claimed, and what our counts give (the paper's own count where the network is not in the catalog)",
            "accuracies are the paper's, on ImageNet",
            *notes,
        ),
    )


def _scaled(title: str, table: tuple[tuple[str, paper.Factors, float, float], ...], *notes: str) -> Reproduction:
    rows: list[dict[str, Any]] = []
    apart: list[str] = []
    for name, (depth, width, resolution), flops, top1 in table:
        made = scale(design(name), depth=depth, width=width, resolution=resolution)
        of = cost(made)
        how = _how(made)
        rows.append(
            {
                "network": name,
                "scaling": how,
                "resolution": made.resolution,
                "params": of.params,
                "macs": of.macs,
                "paper_macs": flops * 1e9,
                "macs_by_paper": of.macs / (flops * 1e9),
                "top1": top1,
            }
        )
        if _apart(of.macs, flops):
            apart.append(f"{name} {how}: {_by(of.macs, flops)}")
    said = (f"can't be had from the paper's own rounding rules: {'; '.join(apart)}",) if apart else ()
    return Reproduction(title=title, rows=tuple(rows), notes=(*notes, *said, "accuracies are the paper's, on ImageNet"))


def _how(made: Design) -> str:
    origin = made.origin
    factors = (("d", origin.depth), ("w", origin.width), ("r", origin.resolution))
    return " ".join(f"{letter}={factor:g}" for letter, factor in factors if factor != 1) or "baseline"


def _apart(macs: float, flops: float) -> bool:
    """Whether a count differs from a printed one by more than its rounding and `TOLERANCE`."""
    digits = len(f"{flops:g}".partition(".")[2])
    return abs(macs / 1e9 - flops) > 0.5 * 10**-digits + TOLERANCE * flops


def _by(macs: float, flops: float) -> str:
    return f"{macs / 1e9:.3g}G, printed {flops:g}B ({macs / 1e9 / flops - 1:+.0%})"


def _table3() -> Reproduction:
    note = "compound is d=1.4 w=1.2 r=1.3, which the paper prints for MobileNetV1 alone"
    return _scaled("Table 3: scaling MobileNets and ResNet", paper.TABLE3, note)


def _table7() -> Reproduction:
    return _scaled("Table 7: scaling EfficientNet-B0", paper.TABLE7)


def _table4() -> Reproduction:
    from phiscale.deploy.latency import bench, setting  # needs a runtime, which the other tables don't
    from phiscale.runtime.engines import installed

    where = setting(runtime=installed()[0], threads=1, batch=1)  # one engine for both
    names = ("resnet152", "efficientnet_b1")
    measured = dict(bench({name: design(name) for name in names}, settings=(where,), seconds=4.0))
    slow, fast = (measured[name].p50 / 1e3 for name in names)
    rows: list[dict[str, Any]] = []
    for name, (top1, seconds) in paper.TABLE4.items():
        own = measured.get(name)
        rows.append(
            {
                "network": name,
                "top1": top1,
                "paper_seconds": seconds,
                "seconds": own.p50 / 1e3 if own else None,
                "n": own.n if own else 0,
                "claimed_speedup": paper.TABLE4_SPEEDUPS.get(name),
                "speedup": slow / fast if name == "efficientnet_b1" else None,
            }
        )
    return Reproduction(
        title="Table 4: latency of one image on one core",
        rows=tuple(rows),
        notes=(
            f"measured: median of calls in turns, {where.runtime}, {where.precision}, 1 thread, batch 1, random weights",
            "the paper: mean of 20 runs on one core of a Xeon E5-2690; GPipe and its B7 are not measured here",
        ),
    )


TABLES = {"table1": _table1, "table2": _table2, "table3": _table3, "table4": _table4, "table7": _table7}
