"""The parts of a training, one claim each."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from phiscale.architecture.toml import dumps
from phiscale.errors import ArgumentError, RunError, SpecError
from phiscale.training import RECIPES, Recipe, checkpoint
from phiscale.training.ema import Ema
from phiscale.training.metrics import scores
from phiscale.training.probe import fit_probe


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("images", [200, 50_000])
def test_recipes_survive_being_written(name: str, images: int) -> None:
    import tomllib

    recipe = RECIPES[name](images)
    assert Recipe.from_dict(tomllib.loads(dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(("field", "value"), [("batch", 0), ("learning_rate", float("nan")), ("ema_decay", 1.0), ("epochs", -1)])
def test_a_recipe_refuses_what_makes_no_sense(field: str, value: float) -> None:
    with pytest.raises(ArgumentError, match=field):
        replace(RECIPES["finetune"](100), **{field: value})


def test_a_typo_in_a_recipe_names_the_nearest_field() -> None:
    with pytest.raises(SpecError, match="learning_rate"):
        Recipe.from_dict({"name": "x", "learning_rte": 1.0})


def test_probe_separates_what_is_linear() -> None:
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 20) + 4 * nn.functional.one_hot(labels, 20).float()
    weight, bias = fit_probe(features, labels, 3)
    assert ((features @ weight.T + bias).argmax(1) == labels).float().mean() > 0.98


def test_probe_on_noise_stays_humble() -> None:
    """The decay is chosen on images held out, so a fit of pure noise is pulled towards equal probabilities."""
    torch.manual_seed(0)
    weight, bias = fit_probe(torch.randn(60, 200), torch.arange(60) % 2, 2)
    confidence = (torch.randn(100, 200) @ weight.T + bias).softmax(1).max(1).values.mean()
    assert confidence < 0.75


def test_ema_follows_the_reference_form() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema = Ema(model, 0.9)
    expected = model.weight.item()
    for update in range(30):
        with torch.no_grad():
            model.weight.fill_(update)
        decay = min((1 + update) / (10 + update), 0.9)
        expected = decay * expected + (1 - decay) * update
        ema.update(model)
    assert ema.average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_scores_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [5.0, 0.0, 1.0]])
    found = scores(logits, torch.tensor([0, 1, 0, 2]))
    assert (found.top1, found.top5, found.n) == (0.5, 1.0, 4)


def test_a_broken_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, {"step": step, "tensor": torch.ones(5)}, step)
    second, newest = sorted(tmp_path.glob("*.pt"))
    assert newest.name.startswith("00000003-")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 2
    second.write_bytes(b"")
    with pytest.raises(RunError, match="broken"):
        checkpoint.load(tmp_path)


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "none") is None


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    import hashlib
    import io
    import os

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path}/ran",)

    buffer = io.BytesIO()
    torch.save({"x": Payload()}, buffer)
    total = hashlib.sha256(buffer.getvalue()).hexdigest()
    (tmp_path / f"00000001-{total[:32]}.pt").write_bytes(buffer.getvalue())
    with pytest.raises(RunError, match="start again"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "ran").exists()
