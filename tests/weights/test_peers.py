"""Other projects' networks, with random weights and shaken batch norms, answer as phiscale does under their names, both ways.

Each peer is a test extra; one that isn't installed is a visible skip.
"""

import pytest
import torch
from torch import nn

from phiscale.architecture.catalog import design, rows
from phiscale.nn import Network
from phiscale.weights import records
from phiscale.weights.dialects import DIALECTS, as_filed, key_map, recognise, to_dialect, to_own
from phiscale.weights.numerics import TF, TF_PORT, TORCH, Numerics

# Sums in another order: peers pad before the convolution where phiscale lets it pad, and pool by other kernels. Seen: 2e-6
RTOL = 1e-5
SIZE = (65, 64)  # one odd and one even side: TF's padding differs between them
# geffnet strides in the 1x1 convolution after TF's 3x3 one, which is the same on odd sides alone (the official and timm's networks don't)
ODD = ("geffnet", ("tf_efficientnet_es", "tf_efficientnet_em", "tf_efficientnet_el"))

V1 = [f"efficientnet_b{n}" for n in range(9)]
LITE = [f"efficientnet_lite{n}" for n in range(5)]


@pytest.fixture(autouse=True)
def one_thread():
    """These networks are small at 64 pixels: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(peer: str, name: str) -> nn.Module:
    module = pytest.importorskip(peer)
    match peer:
        case "timm" | "geffnet":
            return module.create_model(name, pretrained=False)
        case "torchvision":
            return module.models.get_model(name, weights=None)
        case _:
            return module.EfficientNet.from_name(name.replace("_", "-"), image_size=None)


def peers() -> list[tuple[str, str, str, Numerics]]:
    """(package, its name, our name, numerics)."""
    found = [("torchvision", name, name, TORCH if int(name[-1]) < 5 else TF_PORT) for name in V1[:8]]
    for name in V1 + LITE:
        found += [("timm", name, name, TORCH), ("timm", f"tf_{name}", name, TF)]
    for name in V1 + LITE:
        found += [("geffnet", f"tf_{name}", name, TF)]
        found += [("geffnet", name, name, TORCH)] * (name in (*V1[:4], LITE[0]))  # the others differ from TF's in what these show
    for size in ("s", "m", "l", "xl"):
        found += [("timm", f"efficientnetv2_{size}", f"efficientnetv2_{size}", TORCH)]
        found += [("timm", f"tf_efficientnetv2_{size}", f"efficientnetv2_{size}", TF)]
    found += [("torchvision", f"efficientnet_v2_{size}", f"efficientnetv2_{size}", TF_PORT) for size in "sml"]
    found += [("timm", f"tf_efficientnetv2_b{n}", f"efficientnetv2_b{n}", TF) for n in range(4)]
    edge = [(f"efficientnet_e{size}", f"efficientnet_edgetpu_{size}") for size in "sml"]
    for theirs, ours in edge + [(f"efficientnet_cc_{name}",) * 2 for name in ("b0_4e", "b0_8e", "b1_8e")]:
        for package in ("timm", "geffnet"):
            found += [(package, theirs, ours, TORCH), (package, f"tf_{theirs}", ours, TF)]
    found += [("timm", name, name, TORCH) for name in ("efficientnet_x_b3", "efficientnet_x_b5", "efficientnet_h_b5")]
    found += [("timm", "mobilenetv1_100", "mobilenet_v1", TORCH), ("timm", "mobilenetv2_100", "mobilenet_v2", TORCH)]
    found += [("timm", "mnasnet_100", "mnasnet_b1", TORCH), ("timm", "semnasnet_100", "mnasnet_a1", TORCH)]
    found += [("geffnet", name, ours, TORCH) for name, ours in (("mobilenetv2_100", "mobilenet_v2"), ("mnasnet_b1", "mnasnet_b1"))]
    found += [("geffnet", "mnasnet_a1", "mnasnet_a1", TORCH)]
    found += [("timm", f"efficientnet_{name}_pruned", f"efficientnet_{name}_pruned", TF) for name in ("b1", "b2", "b3")]
    found += [("timm", f"efficientnetv2_rw_{size}", f"efficientnetv2_rw_{size}", TORCH) for size in "tsm"]
    found += [("timm", "test_efficientnet", "efficientnet_test", TORCH)]
    found += [("timm", "mobilenetv1_100h", "mobilenet_v1_h", TORCH), ("timm", "mobilenetv1_125", "mobilenet_v1_w125", TORCH)]
    found += [("timm", f"mobilenetv2_{width}", f"mobilenet_v2_w{width}", TORCH) for width in ("050", "110d", "120d", "140")]
    found += [("timm", "semnasnet_075", "mnasnet_a1_w075", TORCH), ("timm", "mnasnet_small", "mnasnet_small", TORCH)]
    found += [("timm", f"mnasnet_{width}", f"mnasnet_b1_w{width}", TORCH) for width in ("050", "075")]
    found += [
        ("torchvision", f"mnasnet{a}_{b}", f"mnasnet_b1_w{w}", TORCH)
        for a, b, w in (("0", "5", "050"), ("0", "75", "075"), ("1", "3", "130"))
    ]
    found += [("timm", "resnet50d", "xresnet50", TORCH)]
    found += [("timm", name, name, TORCH) for name in ("seresnet50", "resnet50", "resnet101", "resnet152", "wide_resnet50_2")]
    found += [("torchvision", "mobilenet_v2", "mobilenet_v2", TORCH), ("torchvision", "mnasnet1_0", "mnasnet_b1", TORCH)]
    found += [("torchvision", name, name, TORCH) for name in ("resnet50", "resnet101", "resnet152", "wide_resnet50_2")]
    found += [("efficientnet_pytorch", name, name, TF) for name in V1]
    return found + [("efficientnet_lite_pytorch", name, name, TF) for name in LITE[:3]]


def shake(module: nn.Module, seed: int = 0) -> None:
    """Values at which activations stay of one size, and a wrong epsilon, padding, order or transpose shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif name.endswith("running_var"):
            tensor.uniform_(0.05, 1.0, generator=generator)
        elif tensor.ndim == 2 and ".conv_" in name:  # mixed convolutions, flat: about the square root of its size comes in
            tensor.normal_(0, tensor[0].numel() ** -0.25, generator=generator)
        elif tensor.ndim > 1:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith("weight"):
            tensor.uniform_(0.4, 0.8, generator=generator)
        else:
            tensor.normal_(0, 0.1, generator=generator)


def shaken_peer(package: str, name: str) -> nn.Module:
    with torch.device("meta"):  # their initialisation takes longer than all the rest
        peer = build(package, name)
    peer = peer.to_empty(device="cpu").eval()
    shake(peer)
    return peer


def of_state(spec, state) -> Network:
    with torch.device("meta"):
        model = Network(spec)
    model.load_state_dict(state, assign=True)
    return model.eval()


def with_numerics(name: str, numerics: Numerics):
    spec = design(name).spec
    return type(spec).from_dict(spec.to_dict() | {"bn_eps": numerics.bn_eps, "padding": numerics.padding})


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize(("package", "theirs", "ours", "numerics"), peers(), ids=lambda value: value if isinstance(value, str) else "")
@torch.inference_mode()
def test_a_peer_answers_the_same_under_its_names(package, theirs, ours, numerics):
    peer = shaken_peer(package, theirs)
    state = peer.state_dict()
    dialect = recognise(frozenset(state))
    others = {"mobilenet_v2": "torchvision_mobilenet"}
    if package == "torchvision" and theirs.startswith("mnasnet"):
        others[theirs] = "torchvision_mnasnet"
    by_package = {"geffnet": "timm", "efficientnet_lite_pytorch": "efficientnet_pytorch"}
    assert dialect.name == ("resnet" if "resnet" in theirs else others.get(theirs) or by_package.get(package, package))
    spec = with_numerics(ours, numerics)
    assert dialect.numerics(spec) in (None, numerics)
    own = to_own(state, as_filed(state, spec, dialect), dialect)
    size = (65, 65) if package == ODD[0] and theirs in ODD[1] else SIZE
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    expected = peer(images)
    assert difference(of_state(spec, own)(images), expected) < RTOL
    assert expected.std(1).min() > 1e-3  # the comparison is of something

    back = to_dialect(own, spec, dialect.name)
    assert set(back) == set(state)
    assert all(back[key].dtype == value.dtype and torch.equal(back[key], value) for key, value in state.items())


@torch.inference_mode()
def test_the_comparison_sees_wrong_numerics():
    peer = shaken_peer("torchvision", "efficientnet_b0")
    own = to_own(peer.state_dict(), design("efficientnet_b0").spec, DIALECTS["torchvision"])
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    for wrong in (TF, TF_PORT, Numerics(bn_eps=1e-5, padding="same")):
        assert difference(of_state(with_numerics("efficientnet_b0", wrong), own)(images), peer(images)) > 100 * RTOL


LARGEST = [
    ("timm", "efficientnet_l2"),
    ("timm", "tf_efficientnet_l2"),
    ("geffnet", "tf_efficientnet_l2_ns"),
    ("geffnet", "efficientnet_l2"),
]


@pytest.mark.parametrize(("package", "theirs"), [*LARGEST, ("efficientnet_pytorch", "efficientnet_l2")])
def test_the_largest_has_the_same_keys_and_shapes(package, theirs):
    """L2's 480 M parameters would take a minute: it differs from B8 in numbers alone, which shapes show."""
    with torch.device("meta"):
        state = build(package, theirs).state_dict()
    spec = design("efficientnet_l2").spec
    dialect = recognise(frozenset(state))
    own = to_own(state, spec, dialect)
    assert {key_map(spec, dialect)[key] for key in own} == set(state)


def test_the_records_of_timms_files_have_the_numerics_that_its_networks_compute_with():
    """The registry's facts, held to the networks that answer alike above: a wrong one would load, and answer wrongly."""
    built = {(theirs, ours): numerics for package, theirs, ours, numerics in peers() if package == "timm"}
    built |= {(theirs, "efficientnet_l2"): TF if theirs.startswith("tf_") else TORCH for _, theirs in LARGEST}
    # timm has two more that are others' shapes with some weights at zero
    built |= {(f"efficientnet_e{size}_pruned", f"efficientnet_edgetpu_{size}"): TORCH for size in "sl"}
    wrong = []
    for record in records():
        source, _, rest = record.name.partition("/")
        if source == "timm" and record.network and built.get((rest.partition(".")[0], record.network)) != record.numerics:
            wrong.append(record.name)
    assert wrong == []


BUILT = {ours for _, _, ours, _ in peers()} | {"efficientnet_l2"}
# No project builds them; their parameters are the rows', and their blocks those of x_b3, x_b5, h_b5
OWN = ("efficientnet_x_", "efficientnet_h_")


def test_every_network_has_a_peer_or_says_why_not():
    assert [name for name in rows() if name not in BUILT and not name.startswith(OWN)] == []
