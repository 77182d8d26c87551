"""Distillation before training, from the network that weights were cut from."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from phiscale.architecture import NetworkSpec, Preprocess, Stage, Stem
from phiscale.data.find import ImageSet, Item
from phiscale.data.load import ImageDataset
from phiscale.data.transform import Augment, normalise
from phiscale.nn import Network
from phiscale.training.imitate import imitate
from phiscale.training.objective import distillation
from phiscale.training.recipe import Loss

PRE = Preprocess(crop=24, resize=24)


def spec(width: int) -> NetworkSpec:
    stages = (Stage(kind="mbconv", depth=1, width=width, expand=2), Stage(kind="mbconv", depth=1, width=2 * width, expand=2, stride=2))
    return NetworkSpec(stem=Stem(widths=(width,)), stages=stages, head_width=32, num_classes=5)


def test_a_student_comes_to_answer_as_its_source_and_always_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    items = []
    for number in range(40):
        small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((30, 30)).save(tmp_path / f"{number}.png")
        items.append(Item(tmp_path / f"{number}.png", 0))
    images = ImageSet(root=tmp_path, classes=("any",), splits={"train": tuple(items[:32]), "val": tuple(items[32:])})
    torch.manual_seed(0)
    source = Network(spec(16))
    with torch.no_grad():
        source.classifier.weight.mul_(8)
    source.eval()
    held = ImageDataset(images, "val", preprocess=PRE)
    pixels = normalise(torch.stack([held[0, index][0] for index in range(8)]), PRE)
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        student = Network(spec(8), bn_momentum=0.2)
        before = distillation(student.eval()(pixels), source(pixels), Loss())
        varied = ImageDataset(images, "train", preprocess=PRE, augment=Augment(), seed=5)
        torch.manual_seed(len(found))
        imitate(student, torch.no_grad()(source), varied, steps=60)
        after = distillation(student(pixels), source(pixels), Loss())
        assert after < before * 0.8
        found.append(student.state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
