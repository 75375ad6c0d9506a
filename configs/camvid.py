"""One variable-rate unit for a segmentation network of CamVid's street scenes, at three cuts.

    pip install ".[imagenet]"
    jaxsplit train --config camvid:stage4.block3 --config.data=folder:DIR \
        --config.backbone=runs/camvid_backbone/weights.safetensors --workdir runs/camvid/middle

DIR and the network are those of `camvid_backbone`. The unit learns to reproduce the network's
outputs at every pixel; masks only serve the metrics. `val` is read once, at the end, where image
codecs are compared at equal mIoU.

Not trained yet: there are no figures.

The argument is the cut, `stage2.block2`, `stage4.block3` or `stage6.block4`; or `smoke`.
"""

import ml_collections

# Argument → side of the patches, channels, encoder's width and blocks, decoder's width.
VARIANTS = {
    "stage2.block2": (4, 96, 104, 2, 160),
    "stage4.block3": (2, 160, 160, 1, 256),
    "stage6.block4": (2, 192, 192, 1, 256),
    "smoke": (2, 16, 16, 0, 16),
}
LAMBDAS = (1e-4, 4e-5, 1.6e-5, 6.4e-6, 2.5e-6, 1e-6)


def get_config(arg: str = "stage4.block3") -> ml_collections.ConfigDict:
    """The training of one unit for six rates at one cut."""
    smoke = arg == "smoke"
    stride, channels, width, blocks, decoder_width = VARIANTS[arg]
    config = ml_collections.ConfigDict()
    config.kind = "curve"
    config.backbone = "runs/camvid_backbone/weights.safetensors"
    config.cut = "stage6.block4" if smoke else arg
    config.spec = {
        "kind": "residual",
        "channels": channels,
        "stride": stride,
        "width": width,
        "blocks": blocks,
        "kernel": 3,
        "expansion": 1,
        "decoder_width": decoder_width,
        "decoder_blocks": 0 if smoke else 2,
        "decoder_expansion": 2,
    }
    config.variable_rate = True
    config.lambda_weighting = 0.5
    config.lambdas = {f"r{i}": lmbda for i, lmbda in enumerate(LAMBDAS, 1)}
    config.initialization = "pca"
    config.phases = (
        {
            "steps": 2 if smoke else 2000,
            "distortion": {"distillation": 1.0, "features": 0.1},
            "quantization": "round",
        },
    )
    config.batch_size = 4
    config.learning_rate = 5e-4
    config.prior_lr_multiplier = 5.0
    config.linear_lr_multiplier = 0.05
    config.max_norm = float("inf")
    config.ema = 0.998
    config.flip = not smoke
    config.tables = "channels"
    config.data = "folder:camvid"
    config.test_split = "val"
    config.feature_dtype = "float16"
    config.baselines = () if smoke else ("jpeg", "webp", "avif")
    config.compare_at = "miou"
    config.seed = 0
    if smoke:
        config.max_samples = 8
    return config
