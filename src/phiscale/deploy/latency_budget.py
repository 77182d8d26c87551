"""The largest design that a latency allows, measured on this machine or read from a table that another one wrote."""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from phiscale.architecture.catalog import design as published
from phiscale.architecture.design import Design
from phiscale.architecture.scaling import Coefficients, own_coefficients, scale
from phiscale.atomic import write_text
from phiscale.cost import cost
from phiscale.cost.budget import SMALLEST_PHI, Budget, amount_text, fit_budget, largest_phi
from phiscale.deploy.latency import FEWEST, LatencyStats, Setting, bench, setting, why_too_large
from phiscale.errors import ArgumentError, BudgetError, RunError
from phiscale.runtime.engines import RUNTIMES, SHORT
from phiscale.runtime.machine import machine

MOST = 10  # measurements a question may take
HEADROOM = 0.95  # of the limit is aimed at: a median moves by a few percent from run to run
CLOSE = 0.90  # of the limit used is near enough to stop
SURE = 0.98  # of the limit is the most that the last measurement of the chosen design may come to
GUESS = 40e9  # multiply-adds a second of two threads in float32: only where the search starts, never an answer
ODD = 3.0  # times as slow as another design's latency and both multiply-adds explain: a moment's disturbance, seen up to 30
REFERENCE = "efficientnet_lite0"  # what every candidate takes turns with
Measure = Callable[[Design], LatencyStats]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFit:
    """The design that was chosen, its latency, and all that was measured, in order; the chosen design comes last.

    binds   "latency", or "memory of this machine" where nothing larger could be measured here
    """

    design: Design
    stats: LatencyStats
    tried: tuple[tuple[Design, LatencyStats], ...]
    binds: str = "latency"


def fit_latency(
    design: Design,
    latency_ms: float,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    batch: int = 1,
    coefficients: Coefficients | None = None,
    budget: Budget | None = None,
    table: str | Path | None = None,
    cache: str | Path | None = None,
) -> Design:
    """The largest phi whose median latency is at most `latency_ms`, and which keeps the analytic limits of `budget`.

    Measured with random weights on this machine, in at most `MOST` measurements; `cache` remembers them (see `default_cache`).
    With `table`, nothing is measured: latencies come from a table that `write_table` made, perhaps on another device.
    BudgetError where even the smallest design of the family is too slow.
    """
    if table is not None:
        found = fit_table(
            design, latency_ms, table=table, coefficients=coefficients, budget=budget, runtime=runtime, threads=threads, batch=batch
        )[0]
    else:
        where = setting(runtime=runtime, threads=threads, batch=batch)
        found = search_latency(
            design, latency_ms, measure=measured_in(where, cache=cache), confirm=alone_in(where), coefficients=coefficients, budget=budget
        ).design
    limits = replace(budget or Budget(), latency=latency_ms / 1e3)
    return replace(found, origin=replace(found.origin, budget=str(limits)))


def search_latency(
    design: Design,
    latency_ms: float,
    *,
    measure: Measure,
    confirm: Measure | None = None,
    coefficients: Coefficients | None = None,
    budget: Budget | None = None,
) -> LatencyFit:
    """`fit_latency` with any `measure`: the bracket between a design that keeps the limit and one that doesn't is narrowed in log MACs.

    Latency grows about as a power of MACs, so the next candidate is where a line through the bracket's ends, in logarithms,
    reaches the limit; it stays inside the bracket, which makes it a bisection at worst.

    confirm   measures the chosen design once more, as `phiscale bench` will (None: `measure` does). Where it comes to more than
              `SURE` of the limit, or to so little that a larger design may keep it, all that was measured is taken to be off by
              as much, and the search goes on; a second look at the same design ends it.
    """
    if not (math.isfinite(latency_ms) and latency_ms > 0):
        raise BudgetError(f"latency: must be a positive number of milliseconds, got {latency_ms}")
    limits = budget or Budget()
    aim, stopped_by_machine = latency_ms * HEADROOM, False

    def within(macs: float) -> Design | None:
        """The largest design of at most `macs` that keeps the analytic limits and that this machine can run."""

        def keeps(made: Design) -> bool:
            nonlocal stopped_by_machine
            used = cost(made)
            inside = used.macs <= macs and all(share <= 1 for share in limits.shares(used).values())
            stopped_by_machine = inside and why_too_large(made) is not None  # the last to fail is the next larger one
            return inside and not stopped_by_machine

        phi = largest_phi(design, keeps, coefficients)
        return None if phi is None else scale(design, phi=phi, coefficients=coefficients)

    most = within(math.inf)
    if most is None:
        # raises, and says which analytic limit is too small
        fit_budget(design, macs=limits.macs, params=limits.params, memory=limits.memory, coefficients=coefficients)
        raise BudgetError(f"this machine has too little free memory to measure even the smallest design of {design.origin.baseline}")
    by_machine = stopped_by_machine
    ceiling, smallest = cost(most).macs, scale(design, phi=SMALLEST_PHI, coefficients=coefficients)
    tried: dict[int, tuple[Design, LatencyStats]] = {}
    order: list[tuple[Design, LatencyStats]] = []
    seen: set[int] = set()  # MACs of the designs that were confirmed
    pace = 1.0  # how much slower the machine is than `tried` says, by the last confirmation

    def spent(macs: float) -> float:
        return tried[int(macs)][1].p50 * pace

    def candidate() -> Design | None:
        """What to measure next; None where the answer is among what was tried, or nothing is left between."""
        low = max(((macs, spent(macs)) for macs in tried if spent(macs) <= aim), default=None)
        high = min(((macs, spent(macs)) for macs in tried if spent(macs) > aim), default=None)
        if low and (low[0] == ceiling or low[1] >= latency_ms * CLOSE):
            return None
        if high and high[0] == cost(smallest).macs:
            return None
        target = _next(low, high, aim) if tried else GUESS * latency_ms / 1e3
        made = within(min(target, ceiling)) or smallest
        beyond = high[0] if high else ceiling
        while low and cost(made).macs in tried and target < beyond / 1.004:
            target = math.sqrt(target * beyond)  # the rounding rules leave nothing between: look nearer to the other end
            made = within(min(target, ceiling)) or smallest
        return None if cost(made).macs in tried else made

    def chosen() -> tuple[Design, LatencyStats] | None:
        kept = [macs for macs in tried if spent(macs) <= (latency_ms * SURE if macs in seen else aim)]
        return tried[max(kept)] if kept else None

    while (left := MOST - len(order)) > 0:
        made, best = candidate(), chosen()
        unconfirmed = best is not None and cost(best[0]).macs not in seen
        # a first answer leaves enough for its confirmation, a second answer and that one's
        if made is not None and (not unconfirmed or left > (1 if seen else 3)):
            tried[cost(made).macs] = (made, measure(made))
            order.append(tried[cost(made).macs])
            if (odd := _odd([(macs, stats.p50) for macs, (_, stats) in tried.items()])) is not None and left > 4:
                doubted, before = tried[odd]
                tried[odd] = (doubted, min(before, (confirm or measure)(doubted), key=lambda stats: stats.p50))
                order.append(tried[odd])
        elif best is not None and unconfirmed:
            again = (confirm or measure)(best[0])
            order.append((best[0], again))
            seen.add(cost(best[0]).macs)
            pace = again.p50 / best[1].p50
            if latency_ms * CLOSE <= again.p50 <= latency_ms * SURE:
                break
        else:
            break
    if (best := chosen()) is None:
        raise BudgetError(_too_slow(latency_ms, design.origin.baseline, order))
    last = next(stats for made, stats in reversed(order) if made == best[0])
    held = (*(pair for pair in order if pair != (best[0], last)), (best[0], last))
    binds = "memory of this machine" if by_machine and best[0] == most else "latency"
    return LatencyFit(design=best[0], stats=last, tried=held, binds=binds)


def _odd(points: Sequence[tuple[int, float]]) -> int | None:
    """The multiply-adds whose milliseconds neighbours in size don't explain: far more than in proportion, or than a larger design's.

    >>> _odd([(100, 1.0), (400, 2.0), (800, 60.0)]), _odd([(100, 9.0), (400, 2.0)]), _odd([(100, 1.0), (800, 9.0)])
    (800, 100, None)
    """
    for (small, before), (large, after) in pairwise(sorted(points)):
        if after / before > ODD * large / small:
            return large
        if before > ODD * after:
            return small
    return None


def _too_slow(latency_ms: float, baseline: str, order: Sequence[tuple[Design, LatencyStats]]) -> str:
    """What to say where nothing that was measured keeps the limit."""
    made, stats = min(order, key=lambda pair: cost(pair[0]).macs)
    kept = min(order, key=lambda pair: pair[1].p50)
    if kept[1].p50 <= latency_ms:  # but when it was measured again it didn't
        return (
            f"{len(order)} measurements of {baseline} came to no answer for {latency_ms:g} ms, as they differ too much: this machine "
            "is busy with something else; try again when it is calmer, or raise --latency"
        )
    return (
        f"a latency of {latency_ms:g} ms is below the smallest design tried of {baseline}: {stats.p50:.3g} ms at "
        f"{made.resolution} px and {amount_text(cost(made).macs)} MACs ({stats.setting.runtime}, {stats.setting.threads} threads, "
        f"batch {stats.setting.batch}); raise --latency, or use a faster runtime"
    )


def _next(low: tuple[float, float] | None, high: tuple[float, float] | None, aim: float) -> float:
    """MACs to try next, from the ends of the bracket (macs, milliseconds)."""
    # small networks wait for memory, not arithmetic: latency grows slower than MACs, so a step goes a little further than the aim
    if high is None:
        macs, spent = low or (GUESS, aim)
        return macs * min(16.0, max(1.05, (aim / spent) ** 1.15))
    if low is None:
        macs, spent = high
        return macs * max(1 / 16, min(0.8, (aim / spent) ** 1.3))
    share = math.log(aim / low[1]) / math.log(high[1] / low[1])
    return low[0] * (high[0] / low[0]) ** min(0.9, max(0.1, share))


def default_cache() -> Path:
    """Where this machine's measurements are remembered."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phiscale" / "latency.json"


def alone_in(where: Setting, *, seconds: float = 1.0) -> Measure:
    """A `measure` that does as `phiscale bench` does, and remembers nothing."""
    return lambda made: bench({"": made}, settings=(where,), seconds=seconds)[0][1]


def measured_in(where: Setting, *, cache: str | Path | None = None, seconds: float = 0.7) -> Measure:
    """A `measure` that remembers in the file `cache` what it measured on this machine with this version of the runtime.

    Every design takes turns with `REFERENCE`, so that a machine that is busy for a while, or was when the file was written, slows both:
    what comes back is how many times as long as the reference it took, at the pace of the first that was asked for.
    A file that can't be read is measured anew; one that can't be written is left alone.
    """
    path = Path(cache) if cache else None
    versions = [_version(name) for name in ("phiscale", *((where.runtime,) if where.runtime else RUNTIMES))]
    here = json.dumps([machine()["processor"], machine()["instructions"], where.runtime, versions])
    paces: list[float] = []  # milliseconds of the reference

    def measured(made: Design) -> LatencyStats:
        said = repr((here, where, made.spec, made.resolution))
        key = hashlib.sha256(said.encode()).hexdigest()[:32]
        try:
            held = _remembered(path)[key]
            stats, beside = LatencyStats.from_dict(held), float(held["reference_ms"])
        except (KeyError, TypeError, ValueError):  # new, or written by another version
            (_, reference), (_, stats) = bench({REFERENCE: published(REFERENCE), "": made}, settings=(where,), seconds=seconds)
            beside = reference.p50
            if path and stats.n >= FEWEST:
                _remember(path, key, stats.to_dict() | {"reference_ms": round(beside, 4)})
        paces.append(beside)
        return stats.at_pace(paces[0] / beside)

    return measured


def _version(runtime: str) -> str:
    try:
        return version(runtime)
    except PackageNotFoundError:  # installed under another name
        return ""


def _remembered(path: Path | None) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(path.read_bytes()) if path else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(path: Path, key: str, values: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(_remembered(path) | {key: values}))
    except (OSError, RunError):
        pass  # a home that can't be written costs the time of measuring again, nothing else


_COLUMNS = ("baseline", "alpha", "beta", "gamma", "phi", "resolution", "macs", "params", "runtime", "precision", "threads", "batch")
_FIGURES = ("p50", "p90", "p99", "n")
PHIS = tuple(number / 2 for number in range(-8, 9))  # of a table: from about a sixteenth of the baseline's multiply-adds to sixteen times


def write_table(
    design: Design,
    *,
    measures: Sequence[Measure],
    phis: Iterable[float] | None = None,
    coefficients: Coefficients | None = None,
    tell: Callable[[Design, LatencyStats], object] | None = None,
) -> str:
    """A latency table of the family of `design` as CSV: one row a phi and way of measuring it. `fit_table` reads it.

    Sizes that this machine can't hold are left out; `tell` hears of each row.
    """
    how = coefficients or own_coefficients(design)
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow((*_COLUMNS, *_FIGURES))
    sizes = [
        (phi, made) for phi in (PHIS if phis is None else phis) if why_too_large(made := scale(design, phi=phi, coefficients=how)) is None
    ]
    for (phi, made), measure in product(sizes, measures):
        used, stats = cost(made), measure(made)
        at = stats.setting
        family = (design.origin.baseline, how.alpha, how.beta, how.gamma, phi, made.resolution, used.macs, used.params)
        figures = (round(value, 4) for value in (stats.p50, stats.p90, stats.p99))
        rows.writerow((*family, at.runtime, at.precision, at.threads, at.batch, *figures, stats.n))
        if tell is not None:
            tell(made, stats)
    return out.getvalue()


def fit_table(
    design: Design,
    latency_ms: float,
    *,
    table: str | Path,
    coefficients: Coefficients | None = None,
    budget: Budget | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    batch: int = 1,
) -> tuple[Design, float]:
    """The largest design of the family whose latency, between the table's rows, is at most `latency_ms`; and that latency.

    Between two rows latency is a power of MACs; beyond the last row nothing is claimed. ArgumentError for a table that has no
    two rows of this baseline at this batch (and with this runtime and threads, which must be given where it has several);
    BudgetError where its fastest row is too slow.
    """
    points = _points(Path(table), design.origin.baseline, runtime=runtime, threads=threads, batch=batch)
    slowest = [max(ms for macs, ms in points if macs <= own) for own, _ in points]  # a larger network is not expected to be faster
    curve = [(macs, ms) for (macs, _), ms in zip(points, slowest, strict=True)]
    if curve[0][1] > latency_ms:
        raise BudgetError(f"a latency of {latency_ms:g} ms is below the fastest row of {table} ({curve[0][1]:.3g} ms); raise --latency")
    limits = budget or Budget()

    def keeps(made: Design) -> bool:
        used = cost(made)
        return _between(curve, used.macs) <= latency_ms and all(share <= 1 for share in limits.shares(used).values())

    phi = largest_phi(design, keeps, coefficients)
    if phi is None:
        made = fit_budget(design, macs=limits.macs, params=limits.params, memory=limits.memory, coefficients=coefficients)
    else:
        made = scale(design, phi=phi, coefficients=coefficients)
    return made, _between(curve, cost(made).macs)


def _between(curve: list[tuple[float, float]], macs: float) -> float:
    """Milliseconds at `macs`; below the first row as much as that row, beyond the last infinite."""
    if macs <= curve[0][0]:
        return curve[0][1]
    for (left, before), (right, after) in pairwise(curve):
        if macs <= right:
            return before * (after / before) ** (math.log(macs / left) / math.log(right / left))
    return math.inf


def _points(path: Path, baseline: str, *, runtime: str | None, threads: int | None, batch: int) -> list[tuple[float, float]]:
    """MACs and median milliseconds of the rows that apply, smallest first, one a size."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        fitting = [
            row
            for row in rows
            if row["baseline"] == baseline
            and int(row["batch"]) == batch
            and threads in (None, int(row["threads"]))
            and (runtime is None or SHORT.get(runtime, runtime) == row["runtime"])
        ]
        points = {float(row["macs"]): float(row["p50"]) for row in fitting}
        usable = all(math.isfinite(value) and value > 0 for pair in points.items() for value in pair)
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"can't read the latency table {path}: {error}") from None
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ArgumentError(f"{path} is no latency table ({type(error).__name__}: {error}); `phiscale bench --table` writes one") from None
    if len(points) < 2 or not usable:
        kinds = sorted({(row["baseline"], row["runtime"], row["threads"], row["batch"]) for row in rows})
        has = "; ".join(f"{name}, {engine}, {count} threads, batch {size}" for name, engine, count, size in kinds) or "no rows"
        raise ArgumentError(f"{path} has fewer than two usable rows for {baseline} at batch {batch}; it has: {has}")
    if len(points) < len(fitting):
        said = "; ".join(f"{engine}, {count} threads" for engine, count in sorted({(row["runtime"], row["threads"]) for row in fitting}))
        raise ArgumentError(f"{path} has sizes that were measured more than once ({said}); say which with --runtime and --threads")
    return sorted(points.items())
