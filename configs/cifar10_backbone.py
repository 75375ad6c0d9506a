"""ResNet-20 for small images on CIFAR-10, read from a folder of image files.

With the 50,000 + 10,000 images as DIR/{train,test}/<class>/<number>.jpg (or .png):

    jaxsplit train --config cifar10_backbone --config.data=folder:DIR \
        --workdir runs/cifar10_resnet20

The argument is `resnet20` (its 45 epochs in one go have not been run) or `smoke` (embedded images,
10 seconds). The weights in the package are of two runs, on images re-encoded as small JPEG files:
`--config.epochs=18`, which reaches 85.52 % of the 10,000 test images in 77 minutes on two busy
cores, and from there `--config.initial=FIRST/weights.safetensors --config.seed=1
--config.epochs=24`: 87.47 % after 100 more.
"""

import ml_collections

# Argument → epochs.
VARIANTS = {"resnet20": 45, "smoke": 1}


def get_config(arg: str = "resnet20") -> ml_collections.ConfigDict:
    """The training of one backbone."""
    config = ml_collections.ConfigDict()
    config.kind = "backbone"
    config.model = "resnet20_small"
    config.data = "embedded" if arg == "smoke" else "folder:cifar10"
    config.preprocessing = {
        "size": (32, 32),
        "channels": 3,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
    }
    config.augmentation = {"padding": 4, "flip": True}
    config.epochs = VARIANTS[arg]
    config.batch_size = 128
    config.learning_rate = 0.1
    config.weight_decay = 5e-4
    config.label_smoothing = 0.0
    config.seed = 0
    if arg == "smoke":
        config.max_samples = 500
    return config
