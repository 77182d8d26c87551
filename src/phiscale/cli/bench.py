"""phiscale bench"""

import csv
import io
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from phiscale.architecture import Design
from phiscale.atomic import write_text
from phiscale.cli.console import emit, emit_json, say
from phiscale.cli.console import table as aligned
from phiscale.cli.options import Json, Threads
from phiscale.deploy.latency import LatencyStats, Setting, bench, setting
from phiscale.deploy.latency_budget import measured_in, write_table
from phiscale.errors import ArgumentError
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
    precision: Annotated[
        tuple[Literal["f32", "auto", "bf16", "int8"], ...],
        Parameter(help="What it computes in, as `predict` has it; several to compare."),
    ] = ("f32",),
    batch: Annotated[tuple[int, ...], Parameter(help="Images a call; several to compare.")] = (1,),
    threads: Threads = None,
    seconds: Annotated[float, Parameter(help="How long each one is measured.")] = 1.0,
    table: Annotated[
        Path | None,
        Parameter(
            help="Write a latency table of one network's family to this .csv, for `design --latency-table` elsewhere. Default: none."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Latency and throughput on this machine, all in turns, so that a machine that slows down slows all alike.

    Networks are measured with random weights. Reading and decoding of images is not included. --table scales one network by φ
    from -4 to 4 and measures each size that this machine can hold.
    """
    settings = [
        setting(runtime=name, threads=threads, batch=size, precision=how)
        for name in (runtime or (None,))
        for how in precision
        for size in batch
    ]
    if table is not None:
        _write_table(table, things, settings, seconds, as_json=as_json)
        return
    rows = bench({thing: _measurable(thing) for thing in things}, settings=settings, seconds=seconds)
    if as_json:
        emit_json([{"name": name} | stats.to_dict() for name, stats in rows])
        return
    header = ("name", "runtime", "precision", "threads", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "calls")
    emit(aligned(header, (_row(name, stats) for name, stats in rows)))


def _write_table(path: Path, things: tuple[str, ...], settings: list[Setting], seconds: float, *, as_json: bool) -> None:
    if len(things) != 1 or not isinstance(design := _measurable(things[0]), Design):
        raise ArgumentError(f"--table is for the family of one network, not for {', '.join(things)}")
    if not path.resolve().parent.is_dir():
        raise ArgumentError(f"no folder {path.parent} to write {path.name} into; make it first")
    text = write_table(
        design, measures=[measured_in(where, seconds=seconds) for where in settings],
        tell=lambda made, stats: say(f"{made.name}, {made.resolution} px: {stats.p50:.3g} ms ({stats.setting.runtime})"),
    )  # fmt: skip
    write_text(path, text)
    say(f"written: {path}; design with it: phiscale design {things[0]} --latency 15ms --latency-table {path}")
    if as_json:
        emit_json(list(csv.DictReader(io.StringIO(text))))


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
