"""Every command through the door that a person uses: arguments in; output, messages and exit status out."""

import json
import os
import subprocess
import sys

import pytest

from phiscale.architecture.catalog import rows
from phiscale.cli import main
from phiscale.cli.app import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_with_its_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import import_module

    from phiscale.cli.app import application

    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out
    command = import_module(f"phiscale.cli.{name}").command
    for argument in application()[name].assemble_argument_collection():
        assert argument.parameter.help, argument.name
        if not argument.required and argument.field_info.default is None:
            assert "Default: " in argument.parameter.help, f"{name} {argument.name}"
    assert command.__doc__


def test_design_is_the_largest_inside_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["design", "efficientnet_b0", "--macs", "1G", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert 0.98e9 < said["macs"] <= 1e9
    assert set(said) >= {"params", "macs", "activations", "peak_bytes", "resolution", "depth", "width", "phi"}


def test_every_network_is_listed_with_what_was_published_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(rows()) <= set(lines)
    assert "77.1 %" in lines["efficientnet_b0"]
    assert "arXiv 1905.11946 v5, table 2" in lines["efficientnet_b0"]
    assert "none known" in lines["efficientnet_x_b0"]
    assert main(["list", "--json"]) == 0
    said = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(said) == list(rows())
    for name, entry in said.items():
        assert (entry["params"], entry["top1"], entry["source"]) == (rows()[name].params, rows()[name].top1, rows()[name].source)
        assert entry["macs"] > 0
    assert "timm/efficientnet_b1_pruned.in1k" in said["efficientnet_b1_pruned"]["weights"]


def test_a_network_under_another_projects_name_is_answered_with_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tf_efficientnet_es"]) == 2
    assert "as timm's it is efficientnet_edgetpu_s here" in capsys.readouterr().err
    assert main(["show", "EfficientNetV2S"]) == 0
    said = capsys.readouterr().out
    for part in (
        "83.9 % (arXiv 2104.00298, table 7)",
        "384 px out of 384, bilinear",
        "trained at 300",
        "dropout 0.2, drop path 0.2",
        "published files, best t",
    ):
        assert part in said
    assert main(["show", "EfficientNetV2S", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "efficientnetv2_s"


def test_weights_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "efficientnet_lite0", "--weights"]) == 0
    assert "timm/tf_efficientnet_lite0.in1k" in capsys.readouterr().out
    assert main(["list", "--weights", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said) == 354
    assert set(said[0]) >= {"name", "network", "files", "licence", "training_data", "top1", "preprocess", "at_hand"}
    best = next(entry for entry in said if entry["network"] == "efficientnet_b0")
    assert best["name"] == "timm/efficientnet_b0.ra4_e3600_r224_in1k"
    assert main(["list", "no-such-weights", "--weights"]) == 2


@pytest.mark.parametrize(("given", "there"), [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")])
def test_threads_of_torch_wait_shortly_unless_told(given: dict[str, str], there: str) -> None:
    """Set before anything opens torch, and for the processes that a job starts."""
    code = (
        "import atexit, os, sys; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)); "
        "sys.argv[1:] = ['--version']; from phiscale.cli import command_line; command_line()"
    )
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=plain | given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{there} False"
