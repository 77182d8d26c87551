"""`phiscale search`: what it refuses and with which words, what a dry run prints, and the live table."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from phiscale.architecture.catalog import design
from phiscale.cli.search import _Live
from phiscale.search import feasible
from phiscale.search.study import Run

Phiscale = Callable[..., tuple[int, str, str]]
SMALL = ("--resolution", "32", "--alpha", "1:1.6:0.2", "--beta", "1:1.4:0.1", "--gamma", "1:1.3:0.1")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "give a baseline and images (phiscale search efficientnet_b0 IMAGES), or --resume FOLDER, or --join STUDY"),
        (("efficientnet_b0",), 2, "give a baseline and images"),
        (("efficientnet_b99", "PICTURES"), 2, "no network 'efficientnet_b99'"),
        (("efficientnet_b0", "nowhere"), 2, "nowhere"),
        (("efficientnet_b0", "PICTURES", "--pruner", "luck"), 2, "pruner must be one of halving, hyperband, none; got 'luck'"),
        (("efficientnet_b0", "PICTURES", "--epochs", "0"), 2, "0 epochs and no probe would train nothing"),
        (("efficientnet_b0", "PICTURES", "--seeds", "0"), 2, "seeds must be a whole number from 1"),
        (("efficientnet_b0", "PICTURES", "--workers", "0"), 2, "workers must be at least 1, got 0"),
        (("efficientnet_b0", "PICTURES", "--workers", "0", "--dry-run"), 2, "workers must be at least 1, got 0"),
        (("efficientnet_b0", "PICTURES", "--threads", "0"), 2, "threads must be at least 1, got 0"),
        (("efficientnet_b0", "PICTURES", "--ratio", "1000"), 2, "ratio must be between 0.1 and 100, got 1000; the paper's is 2"),
        (("efficientnet_b0", "PICTURES", "--tolerance", "0"), 2, "tolerance must be between 0 and 1"),
        (("efficientnet_b0", "nowhere", "--alpha", "1:x"), 2, "alpha: can't read '1:x' as a range"),
        (("efficientnet_b0", "PICTURES", "--ratio", "30"), 2, "the nearest, α 1.6, β 1.4, γ 1.3, costs"),
        (("efficientnet_b0", "PICTURES", "--params", "1M"), 2, "needs 7.88M of params where 1M are allowed; raise --params"),
        (("efficientnet_b0", "PICTURES", "--storage", "mysql://me:secret@host/db"), 2, "can't keep a study in 'mysql://me:***@host/db'"),
        (
            ("efficientnet_b0", "PICTURES", "--storage", "journal:nowhere/study.log"),
            2,
            "no folder nowhere to keep the journal study.log in",
        ),
        (("efficientnet_b0", "PICTURES", "--storage", "grpc://host"), 2, "write grpc://HOST:PORT"),
        (("efficientnet_b0", "PICTURES", "-o", "FILE"), 2, "is a file; name another folder with -o"),
        (("--resume", "nowhere"), 2, "nowhere is no study"),
        (("--resume", "nowhere", "--epochs", "3", "-o", "x"), 2, "has decided that already; leave out --epochs, -o, or start a new study"),
        (("--resume", "nowhere", "--join", "nowhere"), 2, "leave out one of them"),
        (("--join", "nowhere", "efficientnet_b0", "PICTURES"), 2, "has its baseline"),
        (("--join", "sqlite:///nowhere.db"), 2, "needs the images on this machine"),
        (("--join", "sqlite:///FOLDER/empty.db", "PICTURES"), 1, "no study 'search' in sqlite:///"),
    ],
)
def test_what_search_refuses(
    arguments: tuple[str, ...], status: int, says: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phiscale: Phiscale
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    given = [str(pictures) if word == "PICTURES" else word.replace("FOLDER", str(tmp_path)) for word in arguments]
    made, out, said = phiscale("search", *given, *(SMALL if "PICTURES" in arguments and "--join" not in arguments else ()))
    assert (made, out) == (status, ""), said
    assert says in said
    assert not (tmp_path / "studies").exists() or not list((tmp_path / "studies").rglob("*.json"))


def test_a_dry_run_prints_the_grid_with_costs_and_time_and_writes_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phiscale: Phiscale
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = phiscale("search", "efficientnet_b0", pictures, *SMALL, "--dry-run")
    *rows, last = out.splitlines()
    assert status == 0
    assert rows[0].split()[:4] == ["α", "β", "γ", "×"]
    assert f"{len(rows) - 1} networks of 80 points; about" in last
    assert "ms an image here, just now" in last
    status, out, _ = phiscale("search", "efficientnet_b0", pictures, *SMALL, "--pruner", "none", "--dry-run", "--json")
    held = json.loads(out)
    assert [1.9 <= point["ratio"] <= 2.1 for point in held["points"]] == [True] * (len(rows) - 1)
    assert held["seconds"] == held["seconds_without_pruning"] > 0
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def runs() -> list[Run]:
    done, going, out, broken, *_ = feasible(design("efficientnet_b0"))
    return [
        Run(point=done, seed=0, state="done", top1=0.5, curve=((1, 0.25), (2, 0.5))),
        Run(point=going, seed=0, state="running", curve=((1, 0.375),)),
        Run(point=out, seed=0, state="pruned", curve=((1, 0.125),)),
        Run(point=broken, seed=0, state="failed", why="the loss is nan"),
    ]


def test_the_table_on_a_terminal_shows_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with _Live() as live:
        live.show(runs())
        drawn = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "1 running, 1 done, 1 pruned, 1 failed" in drawn
    order = [drawn.index(text) for text in ("37.5%", "50.0%", "12.5%")]
    assert order == sorted(order)  # what runs comes first


def test_without_a_terminal_each_end_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with _Live() as live:
        live.show(runs())
        live.show(runs())
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert said[0].startswith("3/4  α ")
    assert said[0].endswith("seed 0: done, 50.0% after 2 epochs")
    assert said[2].endswith("failed, the loss is nan")
