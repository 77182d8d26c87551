"""phiscale bench"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from phiscale.architecture import Design
from phiscale.cli.console import emit, emit_json, table
from phiscale.cli.options import Json, Threads
from phiscale.deploy.latency import LatencyStats, bench, setting
from phiscale.jobs.choose import named_design
from phiscale.runtime.bundle import is_bundle


def command(
    things: Annotated[tuple[str, ...], Parameter(help="Runs, bundles, published networks or design files (.toml).")],
    /,
    *,
    runtime: Annotated[
        tuple[str, ...],
        Parameter(help="openvino, onnxruntime, native or torch (networks only); several to compare. Default: what `predict` would use."),
    ] = (),
    batch: Annotated[tuple[int, ...], Parameter(help="Images a call; several to compare.")] = (1,),
    threads: Threads = None,
    seconds: Annotated[float, Parameter(help="How long each one is measured.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Latency and throughput on this machine, all in turns, so that a machine that slows down slows all alike.

    Networks are measured with random weights. Reading and decoding of images is not included.
    """
    settings = [setting(runtime=name, threads=threads, batch=size) for name in (runtime or (None,)) for size in batch]
    rows = bench({thing: _measurable(thing) for thing in things}, settings=settings, seconds=seconds)
    if as_json:
        emit_json([{"name": name} | stats.to_dict() for name, stats in rows])
        return
    header = ("name", "runtime", "precision", "threads", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "calls")
    emit(table(header, (_row(name, stats) for name, stats in rows)))


def _row(name: str, stats: LatencyStats) -> tuple[str, ...]:
    how, times = stats.setting, (f"{value:.3f}" for value in (stats.p50, stats.p90, stats.p99))
    return (
        name,
        how.runtime or "",
        how.precision,
        str(how.threads),
        str(how.batch),
        *times,
        f"{stats.images_per_second:.1f}",
        str(stats.n),
    )


def _measurable(thing: str) -> Design | Path:
    path = Path(thing)
    return path if is_bundle(path) or is_bundle(path / "bundle") else named_design(thing)
