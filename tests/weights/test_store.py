import json

import pytest
import torch

from phiscale.architecture import Design, NetworkSpec, Preprocess, Stage, Stem
from phiscale.errors import ArgumentError, RunError, WeightsError
from phiscale.nn import Network
from phiscale.weights import load_folder, save_model
from phiscale.weights.store import labels_text

SPEC = NetworkSpec(
    stages=(Stage(kind="mbconv", depth=2, width=8, se=0.25, expand=2),),
    stem=Stem(widths=(8,)),
    head_width=16,
    num_classes=3,
)
DESIGN = Design(spec=SPEC, resolution=32)
PREPROCESS = Preprocess(crop=32, resize=36)
LABELS = ("ant", "bée", "a\nb")


@pytest.fixture
def saved(tmp_path):
    model = Network(SPEC)
    return save_model(tmp_path / "run", model_or_state=model, design=DESIGN, preprocess=PREPROCESS, labels=LABELS), model


def test_a_saved_model_comes_back_whole(saved):
    folder, model = saved
    state, design, preprocess, labels = load_folder(folder)
    assert (design, preprocess, labels) == (DESIGN, PREPROCESS, LABELS)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "labels.txt", "model.safetensors"]


def test_weights_of_another_network_are_not_saved(tmp_path):
    with pytest.raises(WeightsError, match=r"classifier\.weight"):
        save_model(
            tmp_path / "run", model_or_state=Network(SPEC).state_dict(), design=DESIGN.with_classes(4), preprocess=PREPROCESS, labels=None
        )
    other = Design(spec=NetworkSpec.from_dict(SPEC.to_dict() | {"padding": "symmetric"}), resolution=32)
    with pytest.raises(WeightsError, match=r"model\.spec"):
        save_model(tmp_path / "run", model_or_state=Network(SPEC), design=other, preprocess=PREPROCESS)
    assert not (tmp_path / "run").exists()


def test_a_diverged_model_is_not_saved(tmp_path):
    model = Network(SPEC)
    model.stages[0][0].project.bn.weight.data[0] = torch.nan
    with pytest.raises(WeightsError, match=r"stages\.0\.0\.project\.bn\.weight .*not finite"):
        save_model(tmp_path / "run", model_or_state=model, design=DESIGN, preprocess=PREPROCESS)
    assert not (tmp_path / "run").exists()


def test_labels_must_fit_the_classifier(tmp_path):
    with pytest.raises(ArgumentError, match="2 labels for a network of 3"):
        save_model(tmp_path, model_or_state=Network(SPEC), design=DESIGN, preprocess=PREPROCESS, labels=["a", "b"])


def test_labels_stay_one_a_line():
    assert labels_text(LABELS) == 'ant\nbée\n"a\\nb"\n'


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("model.safetensors", lambda raw: raw[: len(raw) // 2], "not a readable safetensors file"),
        ("model.safetensors", lambda _: b"", "not a readable safetensors file"),
        ("model.safetensors", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "changed or damaged"),
        ("config.json", lambda raw: raw[:50], "can't read config.json"),
        ("config.json", lambda _: b"{}", "not written by phiscale"),
        ("config.json", lambda raw: raw.replace(b'"schema": 1', b'"schema": 99', 1), "newer phiscale"),
        ("config.json", lambda raw: raw.replace(b'"head_width": 16', b'"head_width": 24'), r"head\.conv\.weight"),
    ],
)
def test_a_damaged_folder_is_refused(saved, file, damage, says):
    path = saved[0] / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=says):
        load_folder(saved[0])


def test_a_failed_write_leaves_the_old_model(saved, monkeypatch):
    folder, _ = saved
    before = (folder / "model.safetensors").read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunError, match="full"):
        save_model(folder, model_or_state=Network(SPEC), design=DESIGN, preprocess=PREPROCESS)
    assert (folder / "model.safetensors").read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_config_is_plain_json(saved):
    config = json.loads((saved[0] / "config.json").read_text(encoding="utf-8"))
    assert config["design"]["network"]["bn_eps"] == 1e-3
    assert config["preprocess"]["crop"] == 32
