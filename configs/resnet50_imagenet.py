"""The paper's experiment: ResNet-50 on the whole of ImageNet, on all cores of a TPU.

    jaxsplit import backbone resnet50 resnet50-11ad3fa6.pth -o resnet50.safetensors
    python -m jaxsplit.data.prepare imagenet2012
    jaxsplit train --config resnet50_imagenet:S2 --workdir runs/resnet50/S2

torchvision's weights are a file that you download; TFDS needs ImageNet's two archives in
`~/tensorflow_datasets/downloads/manual`. Every core of the machine takes a part of each batch
(`pmap`); on several hosts start the command on each, see configs/README.md. The same command
resumes after an interruption, from checkpoints of every 1,000 steps. The validation images are
evaluated after the last step, beside JPEG and WebP.

What it takes, by count:

| | S1 | S2 | S3 | stem |
|---|---|---|---|---|
| GMAC of head, tail | 4.09, 0.002 | 3.65, 0.44 | 3.06, 1.03 | 0.12, 3.97 |
| GMAC an image and step, six rates | 4.1 | 9.4 | 16.5 | 51.7 |
| the same, one unit for all rates | 4.1 | 5.0 | 6.2 | 12.0 |
| features in bfloat16, an image | 201 kB | 201 kB | 401 kB | 401 kB |
| features of 1,281,167 images | 257 GB | 257 GB | 514 GB | 514 GB |

A step runs head and tail forward once, for the teacher, and for every rate the tail forward and
back to its input, which is as many MACs again. No host has room for the features of all images:
with `cache` "auto" the head runs in the step where they take more than `cache_gib`.

Nothing of this was measured on a TPU.

The argument is `S1` (after stage4.block3), `S2` (stage4.block1) or `S3` (stage3.block5), the cuts
of the paper with its unit of 64 channels and stride 2 at six rates; `S1.variable`, `S2.variable`
or `S3.variable`, where one unit serves all rates; `stem`, before the first stage, with a residual
unit for all rates, for a weak device; or `smoke`.
"""

import ml_collections

# Argument → cut, one unit for all rates.
VARIANTS = {
    "S1": ("stage4.block3", False),
    "S2": ("stage4.block1", False),
    "S3": ("stage3.block5", False),
    "S1.variable": ("stage4.block3", True),
    "S2.variable": ("stage4.block1", True),
    "S3.variable": ("stage3.block5", True),
    "stem": ("stem", True),
    "smoke": ("stage4.block3", False),
}
LAMBDAS = (8e-4, 4e-4, 2e-4, 1e-4, 5e-5, 2e-5)
UNIT = {"channels": 64, "stride": 2}
RESIDUAL = {
    "kind": "residual",
    "channels": 96,
    "stride": 4,
    "width": 96,
    "blocks": 2,
    "expansion": 1,
    "decoder_width": 192,
    "decoder_expansion": 2,
}


def get_config(arg: str = "S2") -> ml_collections.ConfigDict:
    """The training of six rates at one cut."""
    smoke = arg == "smoke"
    config = ml_collections.ConfigDict()
    config.kind = "curve"
    config.backbone = "resnet50.safetensors"
    config.cut, config.variable_rate = VARIANTS[arg]
    if arg == "stem":
        config.spec = RESIDUAL
    else:
        config.spec = UNIT if config.variable_rate else {**UNIT, "latent_activation": "relu"}
    config.lambdas = {f"r{i}": lmbda for i, lmbda in enumerate(LAMBDAS, 1)}
    config.phases = (
        {
            "steps": 1 if smoke else 5_000,
            "distortion": {"distillation": 0.0, "features": 10.0},
            "quantization": "round",
        },
        {
            "steps": 1 if smoke else 95_000,
            "distortion": {"distillation": 1.0},
            "quantization": "round",
        },
    )
    config.batch_size = 256
    config.learning_rate = 1e-2
    config.compute_dtype = "bfloat16"
    config.feature_dtype = "bfloat16"
    config.augmentations_per_image = 1
    config.flip = True
    config.tables = "channels"
    config.data = "folder:imagenet" if smoke else "tfds:imagenet2012"
    config.test_split = "val" if smoke else "validation"
    config.seed = 0
    if smoke:
        config.max_samples = 16
        config.batch_size = 16
        config.baselines = ()
    return config
