"""Labelled images: sources (`open_source`) and the input pipeline (`batches`).

>>> from jaxsplit.data import Preprocessing, batches, open_source
>>> source = open_source("embedded", split="train", max_samples=64)
>>> [batch["image"].shape for batch in batches(source, Preprocessing((28, 28), 1), 32, seed=0)]
[(32, 28, 28, 1), (32, 28, 28, 1)]
"""

from jaxsplit.data.arrays import AnySource, as_source, from_arrays
from jaxsplit.data.augmentation import Augmentation, Views
from jaxsplit.data.holdout import hold_out, open_parts, readable
from jaxsplit.data.images import decode_image
from jaxsplit.data.pipeline import batches, load_arrays, num_batches, windows
from jaxsplit.data.preprocessing import Preprocessing
from jaxsplit.data.sources import Source, open_source, portable_name
from jaxsplit.data.splits import spread
from jaxsplit.data.targets import LABELS, TargetReader

__all__ = [
    "LABELS",
    "AnySource",
    "Augmentation",
    "Preprocessing",
    "Source",
    "TargetReader",
    "Views",
    "as_source",
    "batches",
    "decode_image",
    "from_arrays",
    "hold_out",
    "load_arrays",
    "num_batches",
    "open_parts",
    "open_source",
    "portable_name",
    "readable",
    "spread",
    "windows",
]
