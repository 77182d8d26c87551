"""Every recipe trains, is written and read back, and says what is wrong with a file."""

from dataclasses import fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from pictures import PREPROCESS, draw, network

from phiscale.architecture.catalog import design
from phiscale.architecture.toml import dumps
from phiscale.data.find import ImageSet
from phiscale.errors import ArgumentError, SpecError
from phiscale.jobs.changes import Changes
from phiscale.nn import Network
from phiscale.training import RECIPES, Outcome, Recipe, train
from phiscale.training.recipe import PARTS, WHERE
from phiscale.training.recipes import like, named, paper, read_recipe, v2
from tiny import TINY, dying_at


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return draw(tmp_path_factory.mktemp("stripes"))


def run(images: ImageSet, recipe: Recipe, folder: Path, **options: object) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    return train(network(recipe), images, recipe=recipe, preprocess=PREPROCESS, folder=folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_three_epochs_and_leaves_the_plain_network(name: str, stripes: ImageSet, tmp_path: Path) -> None:
    """noisy_student: its student's part; the whole of it is in tests/jobs."""
    recipe = named(name, 200).changed({"epochs": 3, "batch": 8})
    outcome = run(stripes, recipe, tmp_path)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert len(rows) == 3 + recipe.probe
    assert all(np.isfinite(float(row.split(",")[3])) for row in rows)
    fresh = Network(TINY.spec)
    assert list(outcome.state) == list(fresh.state_dict())
    fresh.load_state_dict(outcome.state)


OPTIONS: dict[str, Changes] = {
    "multi-sample dropout, mixup and cutmix": {"dropout": 0.3, "dropout_samples": 3, "mixup": 0.2, "cutmix": 1.0},
    "weights, focal": {"class_weights": True, "focal": 2.0},
    "balanced, bce": {"sampling": "balanced", "loss": "bce"},
    "augmix, erasing": {"policy": "augmix", "erase": 0.5},
    "trivial, layer decay": {"policy": "trivial", "layer_decay": 0.8},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_train_on_any_recipe(options: Changes, stripes: ImageSet, tmp_path: Path) -> None:
    recipe = named("scratch", 200).changed({"epochs": 8, "batch": 8, "ema_decay": 0.9, "learning_rate": 0.05, **options})
    assert run(stripes, recipe, tmp_path).val.top1 >= 0.75


def test_a_student_follows_its_teacher_against_the_labels(stripes: ImageSet, tmp_path: Path) -> None:
    """The teacher says the opposite of every label; with all of the loss its own, so does the student."""
    right = run(stripes, named("scratch", 200).changed({"epochs": 10, "batch": 8, "ema_decay": 0.9}), tmp_path / "teacher")
    assert right.val.top1 >= 0.9
    taught = Network(TINY.spec).eval()
    taught.load_state_dict(right.state)

    def teacher(images: torch.Tensor) -> torch.Tensor:
        return taught(images).flip(1)

    recipe = named("scratch", 200).changed({"epochs": 10, "batch": 8, "ema_decay": 0.9, "distill": "it", "distill_weight": 1.0})
    recipe = replace(recipe, name="student")
    student = run(stripes, replace(recipe, loss=replace(recipe.loss, distill="")), tmp_path / "without")
    assert student.val.top1 >= 0.9
    scores = run(stripes, recipe, tmp_path / "student", teacher=teacher, judged=None)
    metrics = (tmp_path / "student" / "metrics.csv").read_text().splitlines()[1:]
    assert float(metrics[-1].split(",")[6]) <= 0.1
    assert scores.epoch < 10  # the best by the labels was before it had learned


def test_a_progressive_training_that_is_stopped_goes_on_in_its_stage(stripes: ImageSet, tmp_path: Path) -> None:
    recipe = v2(200).changed({"epochs": 4, "batch": 8, "mixup": 0.4, "learning_rate": 0.5, "ema_decay": 0.9})
    whole = run(stripes, recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt), dying_at(12):
        run(stripes, recipe, tmp_path / "killed")
    resumed = run(stripes, recipe, tmp_path / "killed")
    assert all(torch.equal(value, resumed.state[key]) for key, value in whole.state.items())


# --- as values and as files


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("network", [None, "efficientnet_b7", "efficientnetv2_m"])
def test_recipes_survive_being_written(name: str, network: str | None, tmp_path: Path) -> None:
    recipe = RECIPES[name](5000, design(network) if network else None)
    (tmp_path / "r.toml").write_text(dumps(recipe.to_dict()), encoding="utf-8")
    assert read_recipe(tmp_path / "r.toml", 5000) == recipe


def test_a_file_can_change_a_named_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('based_on = "paper"\nepochs = 35\nmixup = 0.2\n[loss]\nfocal = 1.5\n')
    made = read_recipe(tmp_path / "mine.toml", 5000, design("efficientnet_b3"))
    base = paper(5000, design("efficientnet_b3"))
    assert made == replace(base.lasting(35), name="mine", mixing=replace(base.mixing, mixup=0.2), loss=replace(base.loss, focal=1.5))
    assert made.dropout == 0.3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"\nlearning_rte = 1.0', r"bad\.toml: .*'learning_rte'; did you mean 'learning_rate'"),
        ('name = "x"\n[loss]\nfocl = 1.0', r"recipe: loss: no field 'focl'; did you mean 'focal'"),
        ('based_on = "paper"\nmixpu = 1.0', "did you mean 'mixup'"),
        ('based_on = "papre"', "no recipe 'papre'; known: finetune"),
        ('name = "x"\nepochs = "ten"', "epochs must be a whole number"),
        ('name = "x"\nloss = "bce"', "recipe: loss: expected a table"),
        ('name = "x"\n[augment]\npolicy = "best"', "augment: policy must be one of none, auto, rand"),
        ('name = "x"\n[progressive]\nstages = 0', "progressive: stages must be"),
        ('name = "x"\nbatch = 0', "recipe: batch must be"),
        ("name = ", "no TOML file"),
    ],
)
def test_a_wrong_file_names_the_part_and_the_field(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(SpecError, match=said):
        read_recipe(tmp_path / "bad.toml", 100)


def test_a_file_that_is_not_there_is_said() -> None:
    with pytest.raises(ArgumentError, match=r"can't read the recipe none\.toml"):
        read_recipe(Path("none.toml"), 100)


def test_every_option_of_fit_is_a_field_of_the_recipe_with_the_same_choices() -> None:
    hints = get_type_hints(Changes)
    parts = {name: get_type_hints(kind) for name, kind in PARTS.items()}
    own = get_type_hints(Recipe)
    for name, hint in hints.items():
        if name in PARTS:
            theirs = parts[name]["name"]
        else:
            theirs = parts[WHERE[name]][name] if name in WHERE else own[name]
        assert get_args(hint) == get_args(theirs), name
        assert get_args(hint) or hint == theirs, name


def test_names_of_parts_fields_are_unambiguous() -> None:
    for part, kind in PARTS.items():
        for f in fields(kind):
            assert f.name == "name" or part == "progressive" or WHERE[f.name] == part


def test_dropout_is_the_published_networks() -> None:
    assert [paper(1, design(f"efficientnet_b{n}")).dropout for n in range(8)] == [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]
    from phiscale.architecture.scaling import scale

    grown = scale(design("efficientnet_b0"), phi=2.0)
    assert like(grown).name == "efficientnet_b3"
    assert paper(1, grown).dropout == 0.3


def test_progressive_sizes_are_the_references() -> None:
    """int(128 + (train size - 128) * (stage + 1) / 4) pixels, of efficientnetv2 main.py."""
    for name, last in (("efficientnetv2_s", 300), ("efficientnetv2_m", 384), ("efficientnet_b7", 600)):
        of = design(name)
        recipe = v2(10**6, of)
        sizes = [round(recipe.at(epoch).train_size * of.resolution) for epoch in (0, 100, 200, 349)]
        assert sizes == [int(128 + (last - 128) * (stage + 1) / 4) for stage in range(4)]
