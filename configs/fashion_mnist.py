"""Curve of ResNet-8 for small images on Fashion-MNIST, cut after its first stage.

    jaxsplit train --config configs/fashion_mnist.py --workdir runs/fashion_mnist

The argument is `full`, `quickstart` (what `jaxsplit quickstart` trains) or `smoke`.
"""

import ml_collections


def get_config(arg: str = "full") -> ml_collections.ConfigDict:
    """The training of five rates at one cut."""
    steps = {"full": (200, 5000, 5000), "quickstart": (100, 700, 700), "smoke": (10, 10, 10)}[arg]
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
    config.data = "embedded"
    config.flip = arg == "full"
    config.batch_size = 32
    config.learning_rate = 1e-2
    config.seed = 0
    if arg == "smoke":
        config.limit = 500
    return config
