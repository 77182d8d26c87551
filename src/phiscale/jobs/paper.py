"""What arXiv 1905.11946 v5 prints in its tables, to set beside our own numbers. FLOPs are multiply-adds, in the paper's billions."""

from dataclasses import dataclass

SOURCE = "arXiv 1905.11946 v5"


@dataclass(frozen=True, slots=True)
class Printed:
    """A row of table 2: percent, millions, billions. `params_ratio`, `flops_ratio`: to the EfficientNet of its group, as claimed."""

    name: str
    top1: float
    top5: float
    params: float
    flops: float | None
    params_ratio: float = 1.0
    flops_ratio: float | None = 1.0
    network: str | None = None  # its name in the catalog


# stage, operator, input resolution, channels, layers
TABLE1 = (
    (1, "Conv3x3", 224, 32, 1),
    (2, "MBConv1, k3x3", 112, 16, 1),
    (3, "MBConv6, k3x3", 112, 24, 2),
    (4, "MBConv6, k5x5", 56, 40, 2),
    (5, "MBConv6, k3x3", 28, 80, 3),
    (6, "MBConv6, k5x5", 14, 112, 3),
    (7, "MBConv6, k5x5", 14, 192, 4),
    (8, "MBConv6, k3x3", 7, 320, 1),
    (9, "Conv1x1 & Pooling & FC", 7, 1280, 1),
)


def _b(number: int, top1: float, top5: float, params: float, flops: float) -> Printed:
    return Printed(f"EfficientNet-B{number}", top1, top5, params, flops, network=f"efficientnet_b{number}")


TABLE2 = (
    _b(0, 77.1, 93.3, 5.3, 0.39),
    Printed("ResNet-50", 76.0, 93.0, 26, 4.1, 4.9, 11, "resnet50"),
    Printed("DenseNet-169", 76.2, 93.2, 14, 3.5, 2.6, 8.9),
    _b(1, 79.1, 94.4, 7.8, 0.70),
    Printed("ResNet-152", 77.8, 93.8, 60, 11, 7.6, 16, "resnet152"),
    Printed("DenseNet-264", 77.9, 93.9, 34, 6.0, 4.3, 8.6),
    Printed("Inception-v3", 78.8, 94.4, 24, 5.7, 3.0, 8.1),
    Printed("Xception", 79.0, 94.5, 23, 8.4, 3.0, 12),
    _b(2, 80.1, 94.9, 9.2, 1.0),
    Printed("Inception-v4", 80.0, 95.0, 48, 13, 5.2, 13),
    Printed("Inception-resnet-v2", 80.1, 95.1, 56, 13, 6.1, 13),
    _b(3, 81.6, 95.7, 12, 1.8),
    Printed("ResNeXt-101", 80.9, 95.6, 84, 32, 7.0, 18),
    Printed("PolyNet", 81.3, 95.8, 92, 35, 7.7, 19),
    _b(4, 82.9, 96.4, 19, 4.2),
    Printed("SENet", 82.7, 96.2, 146, 42, 7.7, 10),
    Printed("NASNet-A", 82.7, 96.2, 89, 24, 4.7, 5.7),
    Printed("AmoebaNet-A", 82.8, 96.1, 87, 23, 4.6, 5.5),
    Printed("PNASNet", 82.9, 96.2, 86, 23, 4.5, 6.0),
    _b(5, 83.6, 96.7, 30, 9.9),
    Printed("AmoebaNet-C", 83.5, 96.5, 155, 41, 5.2, 4.1),
    _b(6, 84.0, 96.8, 43, 19),
    _b(7, 84.3, 97.0, 66, 37),
    Printed("GPipe", 84.3, 97.0, 557, None, 8.4, None),
)

Factors = tuple[float, float, float]  # depth, width, resolution
BASE, DEPTH, WIDTH, RESOLUTION, COMPOUND = (1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 1.0, 2.0), (1.4, 1.2, 1.3)

# network, factors, FLOPs, top-1. The compound factors are printed for MobileNetV1 and table 7 alone, and taken for all
TABLE3: tuple[tuple[str, Factors, float, float], ...] = (
    ("mobilenet_v1", BASE, 0.6, 70.6),
    ("mobilenet_v1", WIDTH, 2.2, 74.2),
    ("mobilenet_v1", RESOLUTION, 2.2, 72.7),
    ("mobilenet_v1", COMPOUND, 2.3, 75.6),
    ("mobilenet_v2", BASE, 0.3, 72.0),
    ("mobilenet_v2", DEPTH, 1.2, 76.8),
    ("mobilenet_v2", WIDTH, 1.1, 76.4),
    ("mobilenet_v2", RESOLUTION, 1.2, 74.8),
    ("mobilenet_v2", COMPOUND, 1.3, 77.4),
    ("resnet50", BASE, 4.1, 76.0),
    ("resnet50", DEPTH, 16.2, 78.1),
    ("resnet50", WIDTH, 14.7, 77.7),
    ("resnet50", RESOLUTION, 16.4, 77.5),
    ("resnet50", COMPOUND, 16.7, 78.8),
)
TABLE7: tuple[tuple[str, Factors, float, float], ...] = (
    ("efficientnet_b0", BASE, 0.4, 77.3),
    ("efficientnet_b0", DEPTH, 1.8, 79.0),
    ("efficientnet_b0", WIDTH, 1.8, 78.9),
    ("efficientnet_b0", RESOLUTION, 1.9, 79.1),
    ("efficientnet_b0", COMPOUND, 1.8, 81.1),
)

# accuracy, seconds of one image on one core of a Xeon E5-2690, mean of 20 runs
TABLE4 = {"resnet152": (77.8, 0.554), "efficientnet_b1": (78.8, 0.098), "gpipe": (84.3, 19.0), "efficientnet_b7": (84.4, 3.1)}
TABLE4_SPEEDUPS = {"efficientnet_b1": 5.7, "efficientnet_b7": 6.1}
