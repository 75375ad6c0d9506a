"""Two rates behind the embedded network, on few images: a configuration for real processes."""

import ml_collections


def get_config(arg: str = "short") -> ml_collections.ConfigDict:
    """`short`, or `long` enough to be stopped in its second phase; a checkpoint ends each."""
    steps = {"short": (6, 6), "long": (20, 180)}[arg]
    features = {"distillation": 0.0, "features": 1.0}
    config = ml_collections.ConfigDict()
    config.kind = "curve"
    config.backbone = "fashion_mnist_resnet8"
    config.cut = "stage3.block1"
    config.spec = {"channels": 3, "stride": 2}
    config.lambdas = {"a": 1e-3, "b": 1e-5}
    config.phases = (
        {"steps": steps[0], "distortion": features},
        {"steps": steps[1], "distortion": features, "quantization": "round"},
    )
    config.batch_size = 16
    config.max_samples = 64
    config.rate_vectorization = "vmap"  # the way that compiles soonest
    config.baselines = ()  # no test reads them, and their sweeps took 7 s of a training
    return config
