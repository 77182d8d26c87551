"""create_model for engineers: feature maps, dilation, recomputing, and what torch's tools make of it."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import phiscale
from phiscale.architecture import Design, NetworkSpec, Stage, Stem
from phiscale.architecture.catalog import design
from phiscale.errors import ArgumentError
from phiscale.nn.features import levels
from phiscale.weights.dialects import DIALECTS, to_dialect
from phiscale.weights.numerics import TF

TINY = NetworkSpec(
    stages=(
        Stage(kind="mbconv", depth=1, width=8, expand=1, se=0.25),
        Stage(kind="mbconv", depth=2, width=16, kernel=5, stride=2, expand=4, se=0.25),
        Stage(kind="fused", depth=1, width=24, stride=2, expand=2),
    ),
    stem=Stem(widths=(8,)),
    head_width=32,
    num_classes=5,
)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 65, 96, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize(("indices", "channels", "reductions"), [(None, (8, 16, 24), (2, 4, 8)), ((1, -1), (16, 24), (4, 8))])
def test_feature_maps_say_their_channels_and_reductions(images, indices, channels, reductions):
    pyramid = phiscale.create_model(TINY, features_only=True, out_indices=indices, seed=0).eval()
    assert (pyramid.channels, pyramid.reductions) == (channels, reductions)
    shapes = [(2, c, -(-65 // r), -(-96 // r)) for c, r in zip(channels, reductions, strict=True)]
    assert [tuple(level.shape) for level in pyramid(images)] == shapes
    whole = phiscale.create_model(TINY, seed=0).eval()
    assert torch.equal(whole.head(pyramid(images)[-1]), whole.forward_features(images))


def test_b0_gives_the_maps_that_everybody_uses():
    pyramid = phiscale.create_model("efficientnet_b0", features_only=True, out_indices=(1, 2, 3, 4))
    assert pyramid.channels == (24, 40, 112, 320)
    assert pyramid.reductions == (4, 8, 16, 32)
    assert len(phiscale.create_model("efficientnet_b0", features_only=True, out_indices=[0]).stages) == 1


def test_maps_that_do_not_exist_are_refused():
    with pytest.raises(ArgumentError, match=r"this network's 3 levels \(0: 1/2, 1: 1/4, 2: 1/8\)"):
        phiscale.create_model(TINY, features_only=True, out_indices=(3,))
    with pytest.raises(ArgumentError, match="add features_only=True"):
        phiscale.create_model(TINY, out_indices=(0,))


@torch.inference_mode()
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_maps_and_dilation_are_timms(output_stride):
    timm = pytest.importorskip("timm")
    ours = phiscale.create_model("efficientnet_b0", features_only=True, output_stride=output_stride, seed=0).eval()
    theirs = timm.create_model("tf_efficientnet_b0", features_only=True, output_stride=output_stride).eval()
    whole = phiscale.create_model("efficientnet_b0", seed=0)
    theirs.load_state_dict(to_dialect(whole.state_dict(), whole.spec, "timm"), strict=False)
    images = torch.randn(1, 3, 96, 64)
    expected = {map_.shape[1]: map_ for map_ in theirs(images)}  # by channels: with dilation timm keeps maps of equal size
    for channels, ours_map in zip(ours.channels, ours(images), strict=True):
        torch.testing.assert_close(ours_map, expected[channels], rtol=1e-4, atol=1e-5)
    assert ours.reductions[-1] == output_stride


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "theirs", "dialect"),
    [
        ("xresnet50", "resnet50d", "resnet"),  # its shortcuts stride by pooling
        ("efficientnet_cc_b0_4e", "tf_efficientnet_cc_b0_4e", "timm"),  # its convolutions are mixed from experts
        ("efficientnetv2_b0", "tf_efficientnetv2_b0", "timm"),
    ],
)
def test_every_kind_of_block_dilates_as_timms(name, theirs, dialect):
    timm = pytest.importorskip("timm")
    numerics = "tf" if theirs.startswith("tf_") else "torch"
    ours = phiscale.create_model(name, numerics=numerics, features_only=True, output_stride=8, seed=0).eval()
    peer = timm.create_model(theirs, features_only=True, output_stride=8).eval()
    whole = phiscale.create_model(name, numerics=numerics, seed=0)
    peer.load_state_dict(to_dialect(whole.state_dict(), whole.spec, dialect), strict=False)
    images = torch.randn(1, 3, 65, 48)
    expected = peer(images)[-1]
    assert expected.shape[-2:] == (9, 6)
    torch.testing.assert_close(ours(images)[-1], expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@torch.inference_mode()
def test_mixed_convolutions_take_channels_last():
    spec = NetworkSpec(stages=(Stage(kind="mbconv", depth=2, width=16, expand=4, experts=3),), stem=Stem(widths=(16,)))
    model = phiscale.create_model(spec, seed=0).eval()
    images, weight = torch.randn(2, 3, 32, 40), model.stages[0][0].depthwise.conv.weight
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    assert model.stages[0][0].depthwise.conv.weight is weight  # an optimiser that holds it still does
    torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-6)


def test_output_stride_must_be_possible():
    with pytest.raises(ArgumentError, match="power of 2, at least 2 for this network; got 12"):
        phiscale.create_model(TINY, output_stride=12)


def test_levels_with_dilation_keep_the_last_of_a_reduction():
    assert [(level.channels, level.reduction) for level in levels(design("efficientnet_b0").spec, 8)] == [(16, 2), (24, 4), (320, 8)]


def test_recomputing_gives_the_same_gradients_and_statistics(images):
    results = []
    for recompute in (False, True):
        model = phiscale.create_model(TINY, drop_path=0.5, recompute=recompute, seed=0).train()
        torch.manual_seed(0)
        model(images).square().sum().backward()
        results.append(({name: p.grad for name, p in model.named_parameters()}, model.state_dict()))
    for plain, again in zip(*results, strict=True):
        assert all(torch.equal(plain[name], again[name]) for name in plain)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("pooling", "pool"), [("max", lambda x: x.amax((2, 3))), ("avgmax", lambda x: (x.amax((2, 3)) + x.mean((2, 3))) / 2)]
)
def test_pooling_is_a_choice(images, pooling, pool):
    model = phiscale.create_model(TINY, num_classes=0, pooling=pooling, seed=0).eval()
    assert torch.equal(model(images), pool(model.forward_features(images)))
    with pytest.raises(ArgumentError, match="pooling must be one of avg, max, avgmax; got 'mean'"):
        phiscale.create_model(TINY, pooling="mean")


@torch.inference_mode()
def test_inputs_can_be_resized_inside_the_graph(images):
    model = phiscale.create_model(Design(spec=TINY, resolution=32), resize_input=True, seed=0).eval()
    assert model.forward_features(images).shape == (2, 32, 4, 4)
    small = nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    assert torch.equal(model(images), phiscale.create_model(TINY, seed=0).eval()(small))
    with pytest.raises(ArgumentError, match="needs a resolution"):
        phiscale.create_model(TINY, resize_input=True)


def test_the_start_is_the_references_or_torchvisions():
    name = "stages.5.1.depthwise.conv.weight"  # 1152 channels of 5x5
    tf = phiscale.create_model("efficientnet_b0", seed=0).state_dict()[name].std().item()
    torch_ = phiscale.create_model("efficientnet_b0", initialisation="torch", seed=0).state_dict()[name].std().item()
    assert tf == pytest.approx((2 / 25) ** 0.5, rel=0.02)
    assert torch_ == pytest.approx((2 / 25 / 1152) ** 0.5, rel=0.02)


def test_a_design_keeps_its_own_input_channels():
    grey = Design(spec=TINY.with_classes(5, 1), resolution=32)
    assert phiscale.create_model(grey).spec.in_channels == 1
    assert phiscale.create_model(grey, in_channels=4).spec.in_channels == 4


# What torch's tools make of it


# 1x1 convolutions of stride 2, then pooling of stride 4, beside 3x3 convolutions: sizes that must come out equal
STRIDED = Stage(kind="bottleneck", depth=1, width=16, stride=2, expand=0.5)
RESIDUAL = NetworkSpec(
    stages=(STRIDED, replace(STRIDED, stride=4, shortcut="pool")), stem=Stem(widths=(8,), pool=True), head_width=0, num_classes=5
)


MIXED = replace(TINY, stages=(TINY.stages[0], replace(TINY.stages[1], experts=3), TINY.stages[2]))
TRACED = {
    "mixed": MIXED,
    "same": TINY,
    "symmetric": replace(TINY, padding="symmetric"),
    "residual, same": RESIDUAL,
    "residual, symmetric": replace(RESIDUAL, padding="symmetric"),
}


@pytest.fixture(scope="module", params=TRACED)
def model(request):
    return phiscale.create_model(TRACED[request.param], seed=0).eval()


@pytest.mark.parametrize("features_only", [False, True])
def test_one_graph_for_the_compiler(images, features_only):
    module = phiscale.create_model(MIXED, features_only=features_only, seed=0).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, at import
        compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), module(images))
            torch.testing.assert_close(compiled(images[:1, :, :40, :51]), module(images[:1, :, :40, :51]))
    torch._dynamo.reset()


def test_exports_with_any_batch_height_and_width(images, model):
    auto = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (images,), dynamic_shapes=({0: auto, 2: auto, 3: auto},)).module()
    with torch.no_grad():
        for other in (images, images[:1, :, :40, :51]):
            torch.testing.assert_close(program(other), model(other))


def test_exports_with_named_bounds_and_no_guard_of_its_own(images, model):
    """As an engineer asks for it: torch refuses a program that holds for some sizes within the bounds alone."""
    batch, height, width = torch.export.Dim("batch", max=64), *(torch.export.Dim(name, min=33, max=999) for name in ("height", "width"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.export(model, (images,), dynamic_shapes=({0: batch, 2: height, 3: width},))


def test_traces(images, model):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated; sizes become constants
        traced = torch.jit.trace(model, images)
        for other in (images, images[:1], torch.cat([images, images])):
            torch.testing.assert_close(traced(other), model(other))


@torch.inference_mode()
def test_channels_last_gives_the_same(images, model):
    other = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(other), model(images), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_bf16_autocast_stays_near(images, model):
    with torch.autocast("cpu", torch.bfloat16):
        near = model(images)
    assert near.dtype == torch.bfloat16
    assert torch.isfinite(near).all()
    assert (near.float() - model(images)).abs().max() < 0.05 * model(images).abs().max() + 0.02


def test_numerics_can_be_asked_for_without_weights():
    assert phiscale.create_model("efficientnet_b0", numerics="torch").spec.bn_eps == 1e-5
    assert DIALECTS["timm"].numerics(design("efficientnet_b0").spec) is None
    assert design("efficientnet_b0").spec.bn_eps == TF.bn_eps
