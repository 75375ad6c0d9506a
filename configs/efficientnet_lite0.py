"""Curves of EfficientNet-Lite0 on ImageNet, from a few hundred images without labels.

    pip install ".[imagenet]"
    jaxsplit train --config efficientnet_lite0:middle --config.data=folder:DIR \
        --workdir runs/efficientnet_lite0/middle

DIR holds `train` and `val`, in each a folder of JPEG files for every class, named by its synset,
and `classes.txt`, the 1000 synsets in order. (Here 500 images of as many classes: sorted by name,
every fifth is in `val`.) Labels only serve the metrics. The units are principal components (PCA) of
the features under the Fisher information of the network's outputs. No training step follows: none
improved the agreement.

It takes two minutes on two CPU cores, without the reading of images. Agreement with the unsplit
network on 400 images in four folds (tests/benchmarks/cross_validation.py; their scores only decided
that no steps follow): 96.00 % at 1,726 bytes an image (early), 98.25 % at 1,694 (middle) and
95.75 % at 1,668 (late). The families of the package are of the fold that chose cuts, channels and
components.

The argument is `early` (after 41 % of the multiply-accumulates), `middle` (69 %), `late` (87 %) or
`smoke`.
"""

import ml_collections

# Argument → cut, side of the patches that are transformed, channels.
VARIANTS = {
    "early": ("stage4.block3", 2, 160),
    "middle": ("stage6.block1", 1, 192),
    "late": ("stage6.block4", 1, 192),
    "smoke": ("stage6.block4", 1, 192),
}
LAMBDAS = {
    "early": (2e-4, 1e-4, 5e-5, 2.5e-5, 1.2e-5, 6e-6),
    "middle": (1e-4, 5e-5, 2.5e-5, 1.2e-5, 6e-6, 3e-6),
    "late": (1e-4, 5e-5, 2.5e-5, 1.2e-5, 6e-6, 3e-6),
}


def get_config(arg: str = "middle") -> ml_collections.ConfigDict:
    """The training of six rates at one cut."""
    smoke = arg == "smoke"
    config = ml_collections.ConfigDict()
    config.kind = "curve"
    config.backbone = "efficientnet_lite0"
    config.cut, side, channels = VARIANTS[arg]
    config.spec = {
        "channels": channels,
        "stride": side,
        "kernel": side,
        "padding": 0,
        "multiplier": side * side,
        "activation": "none",
        "output_activation": "none",
        "batch_norm": False,
    }
    lambdas = LAMBDAS["late" if smoke else arg]
    config.lambdas = {f"r{i}": lmbda for i, lmbda in enumerate(lambdas, 1)}
    config.initialization = "pca"
    config.phases = (
        {
            "steps": 0,
            "distortion": {"distillation": 3.0, "features": 0.1},
            "quantization": "round",
        },
    )
    config.tables = "channels"
    config.data = "folder:imagenet"
    config.test_split = "val"
    config.augmentations_per_image = 1 if smoke else 10
    config.augmentation = {"zoom": 0.7, "flip": True}
    config.feature_dtype = "float16"
    config.baselines = ("jpeg", "webp", "avif")
    config.compare_at = "agreement"
    config.seed = 0
    if smoke:
        config.max_samples = 32
        config.batch_size = 32
        config.baselines = ()
    return config
