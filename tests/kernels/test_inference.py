"""Evaluation by the native engine is the module's; where it can't be, the module answers."""

from typing import Any

import pytest
import torch

from phiscale.architecture import NetworkSpec, Stage
from phiscale.kernels import accelerate, freeze_norms, inference
from phiscale.nn import Network
from phiscale.runtime.native import why_not

SPEC = NetworkSpec(
    stages=(Stage(kind="mbconv", depth=2, width=16, stride=2, expand=4, se=0.25), Stage(kind="fused", depth=1, width=24, expand=2)),
    head_width=64, num_classes=5,
)  # fmt: skip
NATIVE = pytest.mark.skipif(why_not(SPEC, "f32") is not None, reason=f"no native engine here: {why_not(SPEC, 'f32')}")


def network(**how: Any) -> Network:
    torch.manual_seed(0)
    made = Network(SPEC, **how)
    for part in made.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.running_mean, 0, 0.3)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
    torch.nn.init.normal_(made.classifier.weight)
    return made


def images(count: int = 5, side: int = 33) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=torch.channels_last)


@NATIVE
@pytest.mark.parametrize("as_trained", [lambda model: model, accelerate, lambda model: freeze_norms(accelerate(model))])
def test_the_engine_gives_the_modules_answers(as_trained: Any) -> None:
    model, x, threads = as_trained(network()).train(), images(), torch.get_num_threads()
    with torch.no_grad(), inference(model, x[:1]) as answer:
        assert answer.by == "native"
        assert not model.training
        assert torch.get_num_threads() == 1  # whatever it was; and so it is again
        torch.testing.assert_close(answer.logits(x), model(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(answer.pooled(x), model.forward_features(x).mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert torch.get_num_threads() == threads
    with torch.no_grad():
        model.classifier.bias.add_(3.0)
        with inference(model, x[:1]) as answer:  # the weights that it has now
            torch.testing.assert_close(answer.logits(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", [{"pooling": "max"}, {"resize_to": 48}])
def test_a_module_that_is_more_than_its_spec_answers_itself(how: dict[str, Any]) -> None:
    model, x = network(**how), images()
    with torch.no_grad(), inference(model, x[:1]) as answer:
        assert answer.by == "torch"
        assert torch.equal(answer.logits(x), model(x))


def test_what_the_engine_cannot_do_the_module_does() -> None:
    mixed = Network(NetworkSpec(stages=(Stage(kind="mbconv", depth=1, width=8, expand=2, experts=2),), num_classes=3))
    lost = network()
    torch.nn.init.constant_(lost.classifier.weight, float("nan"))
    for model in (mixed, lost):
        with torch.no_grad(), inference(model, images(1)) as answer:
            assert answer.by == "torch"
            assert answer.logits(images(2)).shape == (2, model.spec.num_classes)
    with torch.no_grad(), inference(network(), None) as answer:
        assert answer.by == "torch"
