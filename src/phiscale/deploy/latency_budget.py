"""The largest design that a latency allows, measured on this machine or read from a table that another one wrote."""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

from phiscale.architecture.design import Design
from phiscale.architecture.scaling import Coefficients, scale
from phiscale.atomic import write_text
from phiscale.cost import cost
from phiscale.cost.budget import SMALLEST_PHI, Budget, amount_text, fit_budget, largest_phi
from phiscale.deploy.latency import LatencyStats, Setting, measure, setting
from phiscale.errors import ArgumentError, BudgetError, RunError
from phiscale.runtime.engines import RUNTIMES
from phiscale.runtime.machine import free_bytes, machine

MOST = 10  # measurements a question may take
HEADROOM = 0.97  # of the limit is aimed at: a median moves by a few percent from run to run
CLOSE = 0.94  # of the limit used is near enough to stop
GUESS = 40e9  # multiply-adds a second of two threads in float32: only where the search starts, never an answer
WORKING = 4  # times a design's peak bytes: the graph, its serialised form, and the runtime's own copy
Measure = Callable[[Design], LatencyStats]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFit:
    """The design that was chosen, its latency, and every candidate with its latency, in the order they were tried."""

    design: Design
    stats: LatencyStats
    tried: tuple[tuple[Design, LatencyStats], ...]


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
        found = fit_table(design, latency_ms, table=table, coefficients=coefficients, budget=budget, threads=threads, batch=batch)
    else:
        where = setting(runtime=runtime, threads=threads, batch=batch)
        found = search_latency(design, latency_ms, measure=measured_in(where, cache=cache), coefficients=coefficients, budget=budget).design
    limits = replace(budget or Budget(), latency=latency_ms / 1e3)
    return replace(found, origin=replace(found.origin, budget=str(limits)))


def search_latency(
    design: Design,
    latency_ms: float,
    *,
    measure: Measure,
    coefficients: Coefficients | None = None,
    budget: Budget | None = None,
) -> LatencyFit:
    """`fit_latency` with any `measure`: the bracket between a design that keeps the limit and one that doesn't is narrowed in log MACs.

    Latency grows about as a power of MACs, so the next candidate is where a line through the bracket's ends, in logarithms,
    reaches the limit; it stays inside the bracket, which makes it a bisection at worst.
    """
    if not (math.isfinite(latency_ms) and latency_ms > 0):
        raise BudgetError(f"latency: must be a positive number of milliseconds, got {latency_ms}")
    limits = budget or Budget()
    aim, free = latency_ms * HEADROOM, 0.8 * free_bytes()

    def within(macs: float) -> Design | None:
        """The largest design of at most `macs` that keeps the analytic limits and this machine's memory."""

        def keeps(made: Design) -> bool:
            used = cost(made)
            return used.macs <= macs and WORKING * used.peak_bytes < free and all(share <= 1 for share in limits.shares(used).values())

        phi = largest_phi(design, keeps, coefficients)
        return None if phi is None else scale(design, phi=phi, coefficients=coefficients)

    most = within(math.inf)
    if most is None:
        # raises, and says which analytic limit is too small
        fit_budget(design, macs=limits.macs, params=limits.params, memory=limits.memory, coefficients=coefficients)
        raise BudgetError(f"this machine has too little free memory to measure even the smallest design of {design.origin.baseline}")
    ceiling, smallest = cost(most).macs, scale(design, phi=SMALLEST_PHI, coefficients=coefficients)
    tried: dict[int, tuple[Design, LatencyStats]] = {}
    low: tuple[float, float] | None = None  # MACs and milliseconds of the largest that keeps the limit
    high: tuple[float, float] | None = None  # and of the smallest that doesn't
    target = GUESS * latency_ms / 1e3
    while len(tried) < MOST:
        made = within(min(target, ceiling)) or smallest
        beyond = high[0] if high else ceiling
        while low and cost(made).macs in tried and target < beyond / 1.004:
            target = math.sqrt(target * beyond)  # the rounding rules leave nothing between: look nearer to the other end
            made = within(min(target, ceiling)) or smallest
        macs = cost(made).macs
        if macs in tried:
            break  # nothing is left between
        tried[macs] = (made, measure(made))
        spent = tried[macs][1].p50
        if spent <= aim:
            low = max(low, (macs, spent)) if low else (macs, spent)
            if macs == ceiling or spent >= latency_ms * CLOSE:
                break
        else:
            high = min(high, (macs, spent)) if high else (macs, spent)
            if made == smallest:
                break
        target = _next(low, high, aim)
    kept = [macs for macs, (_, stats) in tried.items() if stats.p50 <= aim]
    if not kept:
        made, stats = tried[min(tried)]
        raise BudgetError(
            f"a latency of {latency_ms:g} ms is below the smallest design tried of {design.origin.baseline}: {stats.p50:.3g} ms at "
            f"{made.resolution} px and {amount_text(min(tried))} MACs ({stats.setting.runtime}, {stats.setting.threads} threads, "
            f"batch {stats.setting.batch}); raise --latency, or use a faster runtime"
        )
    made, stats = tried[max(kept)]
    return LatencyFit(design=made, stats=stats, tried=tuple(tried.values()))


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


def measured_in(where: Setting, *, cache: str | Path | None = None, seconds: float = 1.0) -> Measure:
    """A `measure` that remembers in the file `cache` what it measured on this machine with this version of the runtime.

    A file that can't be read is measured anew; one that can't be written is left alone.
    """
    path = Path(cache) if cache else None
    versions = [_version(name) for name in ("phiscale", *((where.runtime,) if where.runtime else RUNTIMES))]
    here = json.dumps([machine()["processor"], machine()["instructions"], where.runtime, versions])

    def measured(made: Design) -> LatencyStats:
        said = repr((here, where, made.spec, made.resolution))
        key = hashlib.sha256(said.encode()).hexdigest()[:32]
        known = _remembered(path)
        if key in known:
            try:
                return LatencyStats.from_dict(known[key])
            except (KeyError, TypeError, ValueError):
                pass  # written by another version: measured anew
        stats = measure(made, runtime=where.runtime, threads=where.threads, batch=where.batch, precision=where.precision, seconds=seconds)
        if path:
            _remember(path, key, stats)
        return stats

    return measured


def _version(runtime: str) -> str:
    try:
        return version(runtime)
    except PackageNotFoundError:  # installed under another name
        return ""


def _remembered(path: Path | None) -> dict[str, dict[str, object]]:
    try:
        known = json.loads(path.read_bytes()) if path else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(path: Path, key: str, stats: LatencyStats) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(_remembered(path) | {key: stats.to_dict()}))
    except (OSError, RunError):
        pass  # a home that can't be written costs the time of measuring again, nothing else


_COLUMNS = ("baseline", "alpha", "beta", "gamma", "phi", "resolution", "macs", "params", "runtime", "precision", "threads", "batch")
_FIGURES = ("p50", "p90", "p99", "n")


def write_table(design: Design, *, measure: Measure, phis: Iterable[float], coefficients: Coefficients | None = None) -> str:
    """A latency table of the family of `design` as CSV: one row a phi, with what was measured. `fit_table` reads it."""
    how = coefficients or Coefficients()
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow((*_COLUMNS, *_FIGURES))
    for phi in phis:
        made = scale(design, phi=phi, coefficients=how)
        used, stats = cost(made), measure(made)
        at = stats.setting
        family = (design.origin.baseline, how.alpha, how.beta, how.gamma, phi, made.resolution, used.macs, used.params)
        rows.writerow((*family, at.runtime, at.precision, at.threads, at.batch, stats.p50, stats.p90, stats.p99, stats.n))
    return out.getvalue()


def fit_table(
    design: Design,
    latency_ms: float,
    *,
    table: str | Path,
    coefficients: Coefficients | None = None,
    budget: Budget | None = None,
    threads: int | None = None,
    batch: int = 1,
) -> Design:
    """The largest design of the family whose latency, between the table's rows, is at most `latency_ms`.

    Between two rows latency is a power of MACs; beyond the last row nothing is claimed. ArgumentError for a table that has no
    two rows of this baseline at this batch (and threads, where given); BudgetError where its fastest row is too slow.
    """
    points = _points(Path(table), design.origin.baseline, threads=threads, batch=batch)
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
        return fit_budget(design, macs=limits.macs, params=limits.params, memory=limits.memory, coefficients=coefficients)
    return scale(design, phi=phi, coefficients=coefficients)


def _between(curve: list[tuple[float, float]], macs: float) -> float:
    """Milliseconds at `macs`; below the first row as much as that row, beyond the last infinite."""
    if macs <= curve[0][0]:
        return curve[0][1]
    for (left, before), (right, after) in pairwise(curve):
        if macs <= right:
            return before * (after / before) ** (math.log(macs / left) / math.log(right / left))
    return math.inf


def _points(path: Path, baseline: str, *, threads: int | None, batch: int) -> list[tuple[float, float]]:
    """MACs and median milliseconds of the rows that apply, smallest first, one a size."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        fitting = {
            float(row["macs"]): float(row["p50"])
            for row in rows
            if row["baseline"] == baseline and int(row["batch"]) == batch and threads in (None, int(row["threads"]))
        }
        usable = all(math.isfinite(value) and value > 0 for pair in fitting.items() for value in pair)
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"can't read the latency table {path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ArgumentError(f"{path} is no latency table ({type(error).__name__}: {error}); `phiscale bench --table` writes one") from None
    if len(fitting) < 2 or not usable:
        known = sorted({(row["baseline"], row["threads"], row["batch"]) for row in rows})
        has = "; ".join(f"{name}, {count} threads, batch {size}" for name, count, size in known) or "no rows"
        raise ArgumentError(f"{path} has fewer than two usable rows for {baseline} at batch {batch}; it has: {has}")
    return sorted(fitting.items())
