"""What `list` and `show` print adds up to the design's cost, and says what the paper's table 1 says."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiscale.architecture import Design, NetworkSpec, scale
from phiscale.architecture.catalog import design, row, rows
from phiscale.cost import cost
from phiscale.cost.table import layer_table, network_table, stage_table, summary
from random_specs import specs

B0 = design("efficientnet_b0")


@given(spec=specs, resolution=st.integers(8, 80))
@settings(max_examples=50, deadline=None)
def test_rows_add_up_to_the_cost(spec: NetworkSpec, resolution: int) -> None:
    made = Design(spec=spec, resolution=resolution)
    for table in (stage_table(made), layer_table(made)):
        records = table.records()
        assert sum(record["params"] for record in records) == cost(made).params
        assert sum(record["MACs"] for record in records) == cost(made).macs
    assert sum(record["share"] for record in stage_table(made).records()) == pytest.approx(1)
    assert sum(record["activations"] for record in layer_table(made).records()) == cost(made).activations


def test_stages_of_b0_are_those_of_the_papers_table_1() -> None:
    records = stage_table(B0).records()
    assert [r["operator"].split(",")[0] for r in records] == ["Conv3x3", "MBConv1", *["MBConv6"] * 6, "Conv1x1", "Pooling & FC"]
    assert [r["resolution"] for r in records] == [
        "224x224", "112x112", "112x112", "56x56", "28x28", "14x14", "14x14", "7x7", "7x7", "7x7",
    ]  # fmt: skip
    assert [r["channels"] for r in records] == [32, 16, 24, 40, 80, 112, 192, 320, 1280, 1000]
    assert [r["layers"] for r in records] == [1, 1, 2, 2, 3, 3, 4, 1, 1, 1]


def test_a_pooled_stem_halves_what_the_first_stage_sees() -> None:
    assert [r["resolution"] for r in stage_table(design("resnet50")).records()] == ["224x224", "56x56", "56x56", "28x28", "14x14", "7x7"]


def test_a_summary_is_one_json_object() -> None:
    made = json.loads(json.dumps(summary(scale(B0, phi=1))))
    assert {"params", "macs", "activations", "peak_bytes", "resolution", "depth", "width", "phi"} <= set(made)
    assert (made["phi"], made["resolution"], made["depth"], made["width"]) == (1, 258, 1.2, 1.1)
    assert summary(B0)["phi"] is None


def test_markdown_and_terminal_say_the_same() -> None:
    from rich.console import Console

    table = network_table([row("efficientnet_b0"), row("efficientnet_x_b0")], {"efficientnet_b0": "9, 1 here", "efficientnet_x_b0": "–"})
    markdown = table.markdown().splitlines()
    assert len({line.count("|") for line in markdown}) == 1
    assert "| efficientnet_b0 | 5.29M | 386M |" in markdown[2]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.rich())
    printed = console.export_text()
    for word in ("efficientnet_x_b0", "386M", "77.1 %", "–"):
        assert word in printed
        assert word in table.markdown()


def test_every_network_has_a_line() -> None:
    assert [record["network"] for record in network_table(rows().values(), dict.fromkeys(rows(), "–")).records()] == list(rows())
