"""The page of a family: the budget, the design that keeps it, and what grows with phi."""

import re
from pathlib import Path

import pytest
from reading import Page, words

from phiscale.architecture import Coefficients, scale
from phiscale.architecture.catalog import design
from phiscale.cost import Budget, fit_budget
from phiscale.errors import ArgumentError, RunError
from phiscale.report import write_family
from phiscale.report.family import phi_of

B0 = design("efficientnet_b0")
PUBLISHED = [(name, design(name)) for name in ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2")]


def test_page_shows_the_budget_the_design_and_the_published(tmp_path: Path) -> None:
    chosen = fit_budget(B0, macs="1G", memory="64MB")
    phi = chosen.origin.phi
    assert phi is not None
    page = write_family(
        tmp_path / "out.html",
        baseline=B0,
        chosen=chosen,
        budget=Budget.parse(macs="1G", memory="64MB", latency="15ms"),
        published=PUBLISHED,
        measured=[(0.0, 8.0), (phi, 14.2), (2.0, 30.0)],
    )
    text = page.read_text(encoding="utf-8")
    said = words(text)
    assert "1G MACs, 64MB memory, 15 ms" in said
    assert "What ends its growth is multiply-adds: 99" in said
    assert "14.2 ms" in said
    assert text.count('class="chart"') == 4
    assert text.count('class="mark"') == 4
    assert text.count('class="limit"') == 3  # params has none
    assert [name for name in ("b0", "b1", "b2") if f">{name}</text>" in text] == ["b0", "b1", "b2"]
    assert "efficientnet_b0, 224 px" in said
    assert f"{chosen.name}, {chosen.resolution} px" in said
    parsed = Page(text)
    assert parsed.open == []
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert "script" not in {tag for tag, _ in parsed.tags}


def test_what_was_not_measured_or_published_is_not_drawn(tmp_path: Path) -> None:
    chosen = fit_budget(B0, macs="100M")
    text = write_family(tmp_path / "out.html", baseline=B0, chosen=chosen, budget=Budget(macs=100e6)).read_text(encoding="utf-8")
    assert text.count('class="chart"') == 3
    assert "Dots are published members" not in text
    assert "latency" not in words(text)


def test_a_limit_that_is_overrun_is_said(tmp_path: Path) -> None:
    text = write_family(tmp_path / "out.html", baseline=B0, chosen=B0, budget=Budget(macs=B0.cost.macs - 1, params=9e6)).read_text(
        encoding="utf-8"
    )
    assert "exceeded" in words(text)
    assert "kept" in words(text)


def test_names_of_strangers_are_escaped(tmp_path: Path) -> None:
    published = [("<script>alert(1)</script>", B0), ("<b>", design("efficientnet_b1"))]
    text = write_family(tmp_path / "out.html", baseline=B0, chosen=B0, budget=Budget(), published=published).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "alert(1)" in text


def test_the_line_passes_through_the_chosen_design(tmp_path: Path) -> None:
    chosen = fit_budget(B0, params="7M")
    text = write_family(tmp_path / "out.html", baseline=B0, chosen=chosen, budget=Budget(params=7e6)).read_text(encoding="utf-8")
    for chart in re.findall(r"<svg.*?</svg>", text, flags=re.S):
        mark = re.search(r'class="mark" cx="([\d.]+)" cy="([\d.]+)"', chart)
        line = re.search(r'class="line b" points="([^"]+)"', chart)
        assert mark is not None
        assert line is not None
        assert f"{mark[1]},{mark[2]}" in line[1].split()


def test_place_on_the_axis() -> None:
    paper = Coefficients()
    assert phi_of(B0, B0, paper) == 0.0
    assert phi_of(scale(B0, phi=1.7), B0, paper) == 1.7
    # nearest phi of the published table, as the reference repository's issue 390 gives them
    for name, phi in (("b1", 0.5), ("b2", 1), ("b3", 2), ("b4", 3.5), ("b5", 5), ("b6", 6), ("b7", 7)):
        assert phi_of(design(f"efficientnet_{name}"), B0, paper) == pytest.approx(phi, abs=0.3)
    with pytest.raises(ArgumentError, match="γ = 1"):
        phi_of(design("efficientnet_b1"), B0, Coefficients(gamma=1.0))


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can't write"):
        write_family(tmp_path / "no" / "such" / "folder.html", baseline=B0, chosen=B0, budget=Budget())
