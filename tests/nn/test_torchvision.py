"""The named networks against torchvision's definitions: every parameter's shape, and the FLOPs that torch counts."""

import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dlkit.core.spec import parse
from dlkit.nn.build import build

SAME = [
    *("alexnet", "vgg11", "vgg16_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "googlenet"),
    *("inception_v3", "densenet121", "densenet161", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2"),
    "efficientnet_b0",
]
WITHOUT_AUX = {"googlenet", "inception_v3"}


@pytest.fixture(scope="module")
def models():
    """torchvision's definitions; without its compiled operators, these are declared so that the import succeeds."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, second in [("nms", "scores"), ("qnms", "scores")]:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor {second}, float iou_threshold) -> Tensor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("torchvision.models")
    library._destroy()


def counted(model, shape):
    """The shapes of all parameters, sorted, and the FLOPs of one sample."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, *shape, device="meta"))
    return sorted(tuple(p.shape) for p in model.parameters()), counter.get_total_flops()


@pytest.mark.parametrize("name", SAME)
def test_the_same_network(models, name):
    net = parse(name)
    options = {"aux_logits": False, "init_weights": False} if name in WITHOUT_AUX else {}
    with torch.device("meta"):
        ours, theirs = build(net.graph, net.input), getattr(models, name)(**options)
    shapes, flops = counted(theirs, net.input)
    assert counted(ours, net.input) == (shapes, flops)
