"""`phiscale design` and `phiscale reproduce`, as a person types them."""

import json
from pathlib import Path

import pytest

from phiscale.cli import main


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(arguments) == status
    out, err = capsys.readouterr()
    return err if status else out


def test_a_budget_says_what_binds_and_what_is_left(capsys) -> None:
    told = json.loads(said(capsys, "design", "efficientnet_b0", "--macs", "1G", "--params", "50M", "--json"))
    assert told["fit"]["binds"] == ["macs"]
    assert told["fit"]["left"]["macs"] == pytest.approx(1e9 - told["macs"])
    assert told["latency_ms"] is None


def test_policies_and_factors_by_hand_go_with_a_budget(capsys) -> None:
    told = json.loads(said(capsys, "design", "efficientnet_b0", "--macs", "1.5G", "--policy", "fast", "--json"))
    assert told["width"] > 1.3 > 1.15 > told["depth"]
    told = json.loads(said(capsys, "design", "efficientnet_b0", "--macs", "1.5G", "--resolution", "260px", "--json"))
    assert told["resolution"] == 260


def test_a_plot_is_one_page(capsys, tmp_path: Path) -> None:
    page = tmp_path / "family.html"
    said(capsys, "design", "efficientnet_b0", "--macs", "1G", "--plot", str(page))
    assert "1G asked" in page.read_text(encoding="utf-8")
    said(capsys, "design", "efficientnet_b0", "--macs", "1G", "--policy", "width", "--plot", str(page))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--macs", "1G", "--phi", "1"), "leave out --phi"),
        (("--macs", "lots"), "can't read 'lots'"),
        (("--macs", "1K"), "raise --macs"),
        (("--policy", "broad", "--phi", "1"), "known: compound, depth, width, resolution, fast"),
        (("--policy", "fast", "--coefficients", "1,1,1", "--phi", "1"), "leave out one"),
        (("--policy", "fast"), "need a φ"),
        (("--threads", "2", "--macs", "1G"), "give a --latency"),
        (("--latency", "5ms", "--depth", "2"), "kept by φ alone"),
        (("--latency", "5ms", "--runtime", "abacus"), "abacus"),
        (("--latency", "5ms", "--latency-table", "nowhere.csv"), "nowhere.csv"),
    ],
)
def test_what_makes_no_sense_is_said_and_writes_nothing(capsys, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    out = tmp_path / "x.toml"
    assert says in said(capsys, "design", "efficientnet_b0", *arguments, "-o", str(out), status=2)
    assert not out.exists()


def test_a_table_of_the_paper(capsys) -> None:
    assert "can't be had from the paper's own rounding rules" in said(capsys, "reproduce", "table7")
    assert len(json.loads(said(capsys, "reproduce", "table3", "--json"))["rows"]) == 14
    assert "possible: table1" in said(capsys, "reproduce", "table0", status=2)
