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
