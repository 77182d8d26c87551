"""Ambiguous, foreign and wrong files; projects that can't be installed here, by their own names written out by hand."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import phiscale
from phiscale.architecture import NetworkSpec, Stage, Stem
from phiscale.architecture.catalog import design
from phiscale.architecture.layout import layout
from phiscale.errors import ArgumentError, WeightsError
from phiscale.nn import Network
from phiscale.weights.dialects import DIALECTS, key_map, numerics_of, recognise, to_dialect, to_own
from phiscale.weights.numerics import TF, TORCH

TINY = NetworkSpec(
    stages=(
        Stage(kind="mbconv", depth=1, width=8, expand=1, se=0.25),
        Stage(kind="mbconv", depth=2, width=16, kernel=5, stride=2, expand=6, se=0.25),
    ),
    stem=Stem(widths=(8,)),
    head_width=24,
    num_classes=4,
    bn_eps=1e-5,
    padding="symmetric",
)


class PyclsBlock(nn.Module):
    """As pycls/models/effnet.py and blocks.py name and join their parts."""

    def __init__(self, w_in, w_out, kernel, stride, expand):
        super().__init__()
        w_mid = w_in * expand
        self.exp = None
        if expand > 1:
            self.exp, self.exp_bn = nn.Conv2d(w_in, w_mid, 1, bias=False), nn.BatchNorm2d(w_mid)
        self.dwise = nn.Conv2d(w_mid, w_mid, kernel, stride, (kernel - 1) // 2, groups=w_mid, bias=False)
        self.dwise_bn = nn.BatchNorm2d(w_mid)
        self.se = nn.Module()
        self.se.f_ex = nn.Sequential(nn.Conv2d(w_mid, w_in // 4, 1), nn.SiLU(), nn.Conv2d(w_in // 4, w_mid, 1), nn.Sigmoid())
        self.lin_proj, self.lin_proj_bn = nn.Conv2d(w_mid, w_out, 1, bias=False), nn.BatchNorm2d(w_out)
        self.skips = stride == 1 and w_in == w_out

    def forward(self, x):
        y = x if self.exp is None else nn.functional.silu(self.exp_bn(self.exp(x)))
        y = nn.functional.silu(self.dwise_bn(self.dwise(y)))
        y = y * self.se.f_ex(nn.functional.adaptive_avg_pool2d(y, 1))
        y = self.lin_proj_bn(self.lin_proj(y))
        return x + y if self.skips else y


class Pycls(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv, self.stem.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.s1, self.s2 = nn.Module(), nn.Module()
        self.s1.b1 = PyclsBlock(8, 8, 3, 1, 1)
        self.s2.b1, self.s2.b2 = PyclsBlock(8, 16, 5, 2, 6), PyclsBlock(16, 16, 5, 1, 6)
        self.head = nn.Module()
        self.head.conv, self.head.conv_bn, self.head.fc = nn.Conv2d(16, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Linear(24, 4)

    def forward(self, x):
        x = nn.functional.silu(self.stem.bn(self.stem.conv(x)))
        x = self.s2.b2(self.s2.b1(self.s1.b1(x)))
        x = nn.functional.silu(self.head.conv_bn(self.head.conv(x)))
        return self.head.fc(x.mean((2, 3)))


@torch.inference_mode()
def test_a_pycls_checkpoint_gives_its_logits(tmp_path):
    torch.manual_seed(0)
    peer = Pycls().eval()
    for name, tensor in peer.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.1, 1)
    torch.save({"epoch": 9, "model_state": peer.state_dict(), "ema_state": {}}, tmp_path / "EN.pyth")
    model = phiscale.create_model(TINY).eval()
    assert phiscale.load_weights(model, tmp_path / "EN.pyth").dialect == "pycls"
    images = torch.randn(2, 3, 33, 48)
    torch.testing.assert_close(model(images), peer(images), rtol=1e-5, atol=1e-6)


def test_mmpretrain_joins_stages_of_stride_one_as_its_source_does():
    names = key_map(design("efficientnet_b0").spec, DIALECTS["mmpretrain"])
    expected = {
        "stem.0.conv.weight": "backbone.layers.0.conv.weight",
        "stages.0.0.depthwise.bn.bias": "backbone.layers.1.0.depthwise_conv.bn.bias",
        "stages.3.2.expand.conv.weight": "backbone.layers.4.2.expand_conv.conv.weight",
        "stages.4.0.se.reduce.bias": "backbone.layers.4.3.se.conv1.conv.bias",  # 112 channels, stride 1: in the layer of the 80
        "stages.6.0.project.conv.weight": "backbone.layers.5.4.linear_conv.conv.weight",
        "head.bn.running_var": "backbone.layers.6.bn.running_var",
        "classifier.bias": "head.fc.bias",
    }
    assert {key: names[key] for key in expected} == expected


KEYS = json.loads((Path(__file__).parents[1] / "golden" / "keys.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("project", "name"), [(project, name) for project in ("keras", "mmpretrain", "pycls") for name in KEYS[project]], ids=str
)
def test_keys_and_shapes_are_those_of_the_projects_own_networks(project, name):
    spec, dialect = design(name).spec, DIALECTS[project]
    names, shapes = key_map(spec, dialect), layout(spec)
    theirs = {names[own]: dialect.leaves.write(own, torch.empty(shape, device="meta")).shape for own, shape in shapes.items() if names[own]}
    lines = sorted(f"{key} {tuple(shape)}" for key, shape in theirs.items())
    found = {"tensors": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}
    assert found == KEYS[project][name], lines[:5]


def state_of(spec: NetworkSpec) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Network(spec).state_dict()


@pytest.fixture(scope="module")
def timm_b0():
    return to_dialect(state_of(design("efficientnet_b0").spec), design("efficientnet_b0").spec, "timm")


def test_a_timm_file_that_could_be_two_networks_asks_which(tmp_path, timm_b0):
    path = tmp_path / "b0.pth"
    torch.save(timm_b0, path)
    model = phiscale.create_model("efficientnet_b0")
    with pytest.raises(WeightsError, match=r'efficientnet_b0 .*or tf_efficientnet_b0 .*numerics="torch" or numerics="tf"'):
        phiscale.load_weights(model, path)
    phiscale.load_weights(model, path, numerics="torch")
    assert numerics_of(model.spec) == TORCH
    assert {part.eps for part in model.modules() if isinstance(part, nn.BatchNorm2d)} == {1e-5}
    phiscale.load_weights(model, path, numerics="tf")
    assert numerics_of(model.spec) == TF
    assert numerics_of(phiscale.create_model("efficientnet_b0", weights=path, numerics="torch").spec) == TORCH
    with pytest.raises(ArgumentError, match="numerics must be one of tf, torch"):
        phiscale.load_weights(model, path, numerics="timm")


@pytest.mark.parametrize(("architecture", "numerics"), [("tf_efficientnet_b0", TF), ("efficientnet_b0", TORCH)])
def test_a_hub_folder_says_itself_which_of_the_two(tmp_path, timm_b0, architecture, numerics):
    torch.save(timm_b0, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture}))
    model = phiscale.create_model("efficientnet_b0")
    phiscale.load_weights(model, tmp_path / "pytorch_model.bin")
    assert numerics_of(model.spec) == numerics


def test_numerics_that_a_project_fixes_can_not_be_denied(tmp_path):
    spec = design("efficientnet_b0").spec
    torch.save(to_dialect(state_of(spec), spec, "efficientnet_pytorch"), tmp_path / "b0.pth")
    with pytest.raises(ArgumentError, match=r"epsilon 0\.001, same padding, not with"):
        phiscale.load_weights(Network(spec), tmp_path / "b0.pth", numerics="torch")


def test_a_file_of_another_network_is_named(tmp_path, timm_b0):
    torch.save(timm_b0, tmp_path / "b0.pth")
    with pytest.raises(WeightsError, match=r"blocks\.0\.1\.conv_dw\.weight.*they are of efficientnet_b0$"):
        phiscale.create_model("efficientnet_b1", weights=tmp_path / "b0.pth", numerics="tf")
    del timm_b0["conv_head.weight"]
    torch.save(timm_b0, tmp_path / "b0.pth")
    with pytest.raises(WeightsError, match=r"did you mean efficientnet_b0\? \(99% of"):
        phiscale.create_model("efficientnet_b1", weights=tmp_path / "b0.pth", numerics="tf")


def test_unknown_names_are_refused_with_their_first_keys():
    with pytest.raises(WeightsError, match=re.escape("keys: a.weight, b.weight")):
        recognise(frozenset({"a.weight", "b.weight"}))


def test_old_files_without_batch_counters_load():
    spec = design("efficientnet_lite0").spec
    state = to_dialect(state_of(spec), spec, "timm")
    old = {key: value for key, value in state.items() if "num_batches" not in key}
    own = to_own(old, spec, DIALECTS["timm"])
    assert own["head.bn.num_batches_tracked"].item() == 0
    assert set(own) == set(state_of(spec))


def test_networks_that_a_project_does_not_have_are_not_written_in_its_names():
    spec = NetworkSpec(stages=(Stage(kind="fused", depth=1, width=8, expand=4),), stem=Stem(widths=(8,)))
    with pytest.raises(ArgumentError, match=r"efficientnet_pytorch has no name for stages\.0\.0\.expand\.conv"):
        to_dialect(state_of(spec), spec, "efficientnet_pytorch")
    with pytest.raises(ArgumentError, match="possible: phiscale, efficientnet_pytorch, timm, torchvision"):
        to_dialect(state_of(spec), spec, "keras")
