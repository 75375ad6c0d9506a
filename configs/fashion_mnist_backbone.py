"""Small residual networks on the 60,000 training images of Fashion-MNIST.

The first command runs once; its images are those of Debian's package dataset-fashion-mnist.
`jaxsplit[prepare]` downloads them instead.

    python tests/benchmarks/fashion_mnist.py --idx /usr/share/datasets/fashion-mnist \
        --out ~/tensorflow_datasets
    jaxsplit train --config fashion_mnist_backbone:resnet8 --workdir runs/fashion_mnist_resnet8

The argument is `resnet8` (92.76 % of the 10,000 test images; 41 minutes on two busy CPU cores),
`resnet20` (93.67 %; about 40 minutes) or `smoke` (7 seconds, on embedded images).
"""

import ml_collections

# Argument → epochs.
VARIANTS = {"resnet8": 18, "resnet20": 12, "smoke": 1}


def get_config(arg: str = "resnet8") -> ml_collections.ConfigDict:
    """The training of one backbone."""
    depth = "resnet8" if arg == "smoke" else arg
    config = ml_collections.ConfigDict()
    config.kind = "backbone"
    config.model = f"{depth}_small"
    config.data = "embedded" if arg == "smoke" else "tfds:fashion_mnist"
    config.preprocessing = {"size": (28, 28), "channels": 1, "mean": (0.2860,), "std": (0.3530,)}
    config.augmentation = {"padding": 2, "flip": True}
    config.epochs = VARIANTS[arg]
    config.batch_size = 128
    config.learning_rate = 0.1
    config.weight_decay = 5e-4
    config.label_smoothing = 0.0
    config.seed = 0
    if arg == "smoke":
        config.max_samples = 1000
    return config
