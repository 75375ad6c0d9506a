"""Curve of ResNet-8 for small images on Fashion-MNIST, cut after its first stage.

    jaxsplit train --config fashion_mnist --workdir runs/fashion_mnist

The argument is `full`, `quickstart` (what `jaxsplit quickstart` trains) or `smoke` (under a
minute). In full it takes a quarter of an hour on two CPU cores and loses 0.9 percentage points of
top-1 at 82.9 bytes an image, 1.6 at 61.0, 2.5 at 41.7, 3.4 at 29.1 and 5.4 at 18.1. That family
comes with the package as resnet8_small-fashion_mnist/stage1.block1.
"""

import ml_collections

# Argument → steps of the three phases.
VARIANTS = {"full": (200, 5000, 5000), "quickstart": (100, 700, 700), "smoke": (2, 2, 2)}


def get_config(arg: str = "full") -> ml_collections.ConfigDict:
    """The training of five rates at one cut."""
    steps = VARIANTS[arg]
    config = ml_collections.ConfigDict()
    config.kind = "curve"
    config.backbone = "fashion_mnist_resnet8"
    config.cut = "stage1.block1"
    config.spec = {"channels": 12, "stride": 4, "kernel": 4, "padding": 0, "multiplier": 4}
    config.lambdas = {"r1": 1e-3, "r2": 5e-4, "r3": 2.5e-4, "r4": 1.2e-4, "r5": 6e-5}
    config.phases = (
        {"steps": steps[0], "distortion": {"distillation": 0.0, "features": 10.0}},
        {"steps": steps[1], "distortion": {"distillation": 1.0}},
        {"steps": steps[2], "distortion": {"distillation": 1.0}, "quantization": "round"},
    )
    config.tables = "positions"
    config.data = "embedded"
    config.flip = arg == "full"
    config.batch_size = 32
    config.learning_rate = 1e-2
    config.seed = 0
    if arg == "smoke":
        config.max_samples = 64
        config.batch_size = 16
        config.rate_vectorization = "vmap"  # compiles fastest
    return config
