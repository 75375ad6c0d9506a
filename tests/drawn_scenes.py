"""Drawn scenes with masks, and a small fully convolutional network, for tests of segmentation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxsplit import networks
from jaxsplit.data import Preprocessing
from jaxsplit.networks.layers import Chain, Conv, ConvBlock, NormConfig
from jaxsplit.tasks import Segmentation

NAMES = ("ground", "sky", "house", "tree")
COLOURS = ((120, 90, 60), (90, 160, 230), (200, 60, 50), (40, 130, 50))
UNKNOWN = 4  # index of a stripe that belongs to no class
SIZE = (32, 48)
PREPROCESSING = Preprocessing(SIZE, 3, mean=(0.45,) * 3, std=(0.25,) * 3)


def scene(number, size=SIZE):
    """Returns an image uint8 [H, W, 3] and its mask uint8 [H, W]: sky, ground, house and trees."""
    draw = np.random.default_rng(number)
    height, width = size
    rows, columns = np.mgrid[:height, :width] / [[[height]], [[width]]]
    horizon = draw.uniform(0.4, 0.6)
    mask = np.where(rows < horizon, 1, 0).astype(np.uint8)
    left, side = draw.uniform(0.05, 0.6), draw.uniform(0.15, 0.35)
    mask[(abs(columns - left - side / 2) < side / 2) & (abs(rows - horizon) < side / 2)] = 2
    for _ in range(2):
        at, radius = draw.uniform(0, 1), draw.uniform(0.08, 0.16)
        mask[(columns - at) ** 2 + (rows - horizon) ** 2 < radius**2] = 3
    image = np.array(COLOURS)[mask] + draw.normal(0, 12, (height, width, 3))
    mask[:, : width // 24] = UNKNOWN
    return image.clip(0, 255).astype(np.uint8), mask


def scenes(count, first=0, size=SIZE):
    """Returns images uint8 [N, H, W, 3] and masks uint8 [N, H, W]."""
    images, masks = zip(*(scene(first + i, size) for i in range(count)), strict=True)
    return np.stack(images), np.stack(masks)


def write_folder(root, counts, size=SIZE, palette=True):
    """Writes scenes as images/SPLIT/x.png and masks/SPLIT/x.png; split → how many."""
    first = 0
    for split, count in counts.items():
        for i in range(first, first + count):
            image, mask = scene(i, size)
            picture = Image.fromarray(mask)
            if palette and i % 2:
                picture.putpalette(np.array(COLOURS, np.uint8).tobytes().ljust(768, b"\0"))
            for kind, one in (("images", Image.fromarray(image)), ("masks", picture)):
                path = root / kind / split / f"{i:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                one.save(path)
        first += count


class Pixels(nn.Module):
    """1×1 convolution: [B, h, w, c] → logits [B, h, w, K]."""

    count: int

    @nn.compact
    def __call__(self, x, train):
        return Conv(self.count, bias=True, name="conv")(x)


class SmallSegmenter(Chain):
    """Three convolutions: images [B, H, W, 3] → logits [B, H/4, W/4, K]."""

    def chain(self):
        config = NormConfig(1e-5, self.axis_name, self.folded)
        block = functools.partial(ConvBlock, config=config)
        return {
            "stem": functools.partial(block, 8, 3, 2),
            "body": functools.partial(block, 16, 3, 2),
            "head": functools.partial(block, 16, 3, 1),
            "logits": functools.partial(Pixels, self.num_classes),
        }


def task():
    return Segmentation(NAMES, COLOURS, ignored=UNKNOWN)


def untrained(seed=0):
    """Returns a backbone with random weights."""
    module = SmallSegmenter(num_classes=len(NAMES))
    variables = module.init(jax.random.key(seed), jnp.zeros((1, *SIZE, 3)))
    return networks.make_backbone("small_segmenter", module, variables, PREPROCESSING, task())
