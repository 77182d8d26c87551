"""Teachers: the same logits as the network they are, from images as the student gets them, in the student's order of classes."""

from pathlib import Path

import pytest
import torch

from phiscale.architecture import Design, NetworkSpec, Preprocess, Stage, Stem
from phiscale.architecture.preprocess import HALF
from phiscale.data.transform import normalise
from phiscale.errors import ArgumentError
from phiscale.nn import Network
from phiscale.training.teacher import TaughtBy, load_teacher
from phiscale.weights.store import save_model

SPEC = NetworkSpec(stem=Stem(widths=(8,)), stages=(Stage(kind="mbconv", depth=1, width=8, expand=2),), head_width=16, num_classes=3)
STUDENT = Preprocess(crop=16, resize=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    own = Preprocess(crop=16, resize=20, mean=HALF, std=HALF)
    design = Design(spec=SPEC, resolution=16)
    return save_model(tmp_path / "teacher", model_or_state=Network(SPEC), design=design, preprocess=own, labels=("c", "a", "b"))


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_run_teaches_by_the_names_of_its_classes_and_its_own_normalisation(folder: Path) -> None:
    teacher = load_teacher(folder, classes=("a", "b"), preprocess=STUDENT)
    model = Network(SPEC).eval()
    from phiscale.weights.store import load_folder

    state, _, own, _ = load_folder(folder)
    model.load_state_dict(state)
    expected = model(normalise(pixels(), own))[:, [1, 2]]
    assert torch.allclose(teacher(normalise(pixels(), STUDENT)), expected, atol=1e-5)
    assert torch.allclose(load_teacher(folder, classes=("a", "b"))(normalise(pixels(), own)), expected)


def test_images_are_brought_to_the_teachers_size() -> None:
    seen: list[tuple[int, ...]] = []

    class Looks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape))
            return x.mean((2, 3))

    teacher = TaughtBy(model=Looks(), preprocess=STUDENT.at(24), student=STUDENT)
    level = torch.full((2, 3, 16, 16), 0.25)
    assert torch.allclose(teacher(level), torch.full((2, 3), 0.25), atol=1e-5)
    assert seen == [(2, 3, 24, 24)]


def test_a_class_that_the_teacher_does_not_know_is_named(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="doesn't know dog, eel; it knows c, a, b"):
        load_teacher(folder, classes=("a", "dog", "eel"), preprocess=STUDENT)


def test_what_is_no_teacher_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="give a run folder, a published network, or timm:NAME"):
        load_teacher("resnet5000", classes=("a", "b"), preprocess=STUDENT)
    with pytest.raises(ArgumentError, match="no finished run"):
        load_teacher(tmp_path, classes=("a", "b"), preprocess=STUDENT)


def test_timms_networks_teach(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    theirs = timm.create_model("test_efficientnet", num_classes=3).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    side = theirs.pretrained_cfg["input_size"][1]
    teacher = load_teacher(f"timm:test_efficientnet:{tmp_path / 'theirs.pth'}", classes=("a", "b", "c"), preprocess=STUDENT.at(side))
    mean, std = (torch.tensor(theirs.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    given = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    expected = theirs((given / 255 - mean) / std)
    assert torch.allclose(teacher(normalise(given, STUDENT)), expected, atol=1e-4)
    for wrong, said in (("timm:no_such_network", "timm has no network"), ("timm:test_efficientnet:none.pth", "no file none.pth")):
        with pytest.raises(ArgumentError, match=said):
            load_teacher(wrong, classes=("a", "b", "c"), preprocess=STUDENT)
