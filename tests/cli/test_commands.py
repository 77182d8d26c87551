"""Every command through the door that a person uses: arguments in; output, messages and exit status out."""

import json

import pytest

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


def test_weights_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "efficientnet_lite0", "--weights"]) == 0
    assert "timm/tf_efficientnet_lite0.in1k" in capsys.readouterr().out
    assert main(["list", "--weights", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said) == 338
    assert set(said[0]) >= {"name", "network", "files", "licence", "training_data", "top1", "preprocess", "at_hand"}
    best = next(entry for entry in said if entry["network"] == "efficientnet_b0")
    assert best["name"] == "timm/efficientnet_b0.ra4_e3600_r224_in1k"
    assert main(["list", "no-such-weights", "--weights"]) == 2
