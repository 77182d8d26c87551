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


B0_STRINGS = (
    "r1_k3_s11_e1_i32_o16_se0.25 r2_k3_s22_e6_i16_o24_se0.25 r2_k5_s22_e6_i24_o40_se0.25 r3_k3_s22_e6_i40_o80_se0.25 "
    "r3_k5_s11_e6_i80_o112_se0.25 r4_k5_s22_e6_i112_o192_se0.25 r1_k3_s11_e6_i192_o320_se0.25"
)


def test_block_strings_are_a_baseline(capsys) -> None:
    own, published = (
        json.loads(said(capsys, "design", baseline, "--macs", "1G", "--json")) for baseline in (B0_STRINGS, "efficientnet_b0")
    )
    assert (own["macs"], own["params"], own["phi"]) == (published["macs"], published["params"], published["phi"])
    assert json.loads(said(capsys, "show", B0_STRINGS, "--json"))["params"] == 5_288_548
    assert "stage 2" in said(capsys, "design", B0_STRINGS.replace("r2_k3", "r2_k4"), "--macs", "1G", status=2)
    assert "stage 7: 'x9'" in said(capsys, "design", f"{B0_STRINGS}_x9", "--macs", "1G", status=2)


@pytest.mark.parametrize("factors", [(), ("--depth", "2")])
def test_a_latency_says_what_binds_and_what_is_left(capsys, tmp_path: Path, factors: tuple[str, ...]) -> None:
    table = tmp_path / "elsewhere.csv"
    columns = "baseline,alpha,beta,gamma,phi,resolution,macs,params,runtime,precision,threads,batch,p50,p90,p99,n"
    rows = [f"mobilenet_v2,1.2,1.1,1.15,0,224,{macs},1,openvino,f32,1,1,{macs / 1e8},1,1,9" for macs in (10**7, 10**10)]
    table.write_text("\n".join([columns, *rows]), encoding="utf-8")
    asked = ("design", "mobilenet_v2", "--latency", "8ms", "--latency-table", str(table), *factors, "--json")
    told = json.loads(said(capsys, *asked))
    assert told["fit"]["binds"] == ["latency"]
    assert 0.9 * 8e8 < told["macs"] <= 8e8
    assert told["depth"] == (2 if factors else pytest.approx(1.2 ** told["phi"]))
    narrower = json.loads(said(capsys, *asked, "--macs", "300M"))
    assert narrower["fit"]["binds"] == ["macs"]
    assert narrower["fit"]["left"]["macs"] == pytest.approx(3e8 - narrower["macs"])


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
        (("--latency", "5ms", "--depth", "2", "--width", "1", "--resolution", "1"), "all fixed"),
        (("--macs", "1G", "--depth", "2", "--plot", "nowhere.html"), "family of φ alone"),
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


def test_a_table_that_bench_wrote_designs_for_another_device(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phiscale.deploy.latency_budget.PHIS", (-8, -6, -4))
    table = tmp_path / "device.csv"
    measured = ("bench", "efficientnet_lite0", "--threads", "1", "--seconds", "0.001", "--table", str(table))
    rows = json.loads(said(capsys, *measured, "--json"))
    assert [float(row["phi"]) for row in rows] == [-8, -6, -4]
    asked = ("design", "efficientnet_lite0", "--latency", "10s", "--latency-table", str(table))
    told = json.loads(said(capsys, *asked, "--json"))
    assert told["macs"] == float(rows[-1]["macs"])  # nothing is claimed beyond the rows
    assert f"between the rows of {table}" in said(capsys, *asked)
    assert "--table is for the family of one network" in said(capsys, "bench", "mnasnet", "mobilenet_v2", "--table", str(table), status=2)
    assert "make it first" in said(capsys, "bench", "efficientnet_lite0", "--table", str(tmp_path / "nowhere" / "t.csv"), status=2)
