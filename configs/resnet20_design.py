"""Search for cuts and units of ResNet-20 for small images.

    jaxsplit design --config resnet20_design --workdir runs/design

Every block of the network but the last is a cut. The search takes a quarter of an hour on two CPU
cores, most of it in the tails.
The argument is `fashion_mnist` (the images that come with the package), `cifar10` (a folder of
images, as for its backbone) or `smoke` (a minute).
"""

import ml_collections

# Argument → data.
VARIANTS = {"fashion_mnist": "embedded", "cifar10": "folder:cifar10", "smoke": "embedded"}


def get_config(arg: str = "fashion_mnist") -> ml_collections.ConfigDict:
    """The search over cuts, channels, strides and lambdas."""
    config = ml_collections.ConfigDict()
    config.kind = "design"
    config.backbone = "cifar10_resnet20" if arg == "cifar10" else "fashion_mnist_resnet20"
    config.data = VARIANTS[arg]
    config.channels = (4, 8, 16)
    config.strides = (2, 4)
    config.lambdas = (1e-3, 2.5e-4, 6e-5)
    config.minutes = 15.0
    if arg == "smoke":
        config.backbone = "fashion_mnist_resnet8"
        config.cuts = ("stage2.block1",)
        config.channels, config.strides, config.lambdas = (4,), (2,), (1e-3, 6e-5)
        config.max_samples, config.max_eval_samples, config.minutes, config.rungs = 64, 64, 0.02, 2
    return config
