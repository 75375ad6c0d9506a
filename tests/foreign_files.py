"""Weights and units as other packages would write them, with random content."""

import json

import jax
import numpy as np
from flax import traverse_util

from jaxsplit import networks
from jaxsplit.weights import name_maps


def torch_layout(value):
    """An array of ours as PyTorch lays it out."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim)
    return value if axes is None else np.ascontiguousarray(value.transpose(axes))


def random_network(name, package=None, classes=1000, seed=0):
    """Random variables of a network, and the same tensors under a package's names."""
    module = networks.create(name, classes)
    side = 224 if name.startswith("deit") else 64  # positions are of the whole image
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    shapes = traverse_util.flatten_dict(jax.eval_shape(module.init, jax.random.key(0), image))
    rng = np.random.default_rng(seed)
    flat = {
        path: rng.uniform(0.01, 0.1, leaf.shape).astype(np.float32) for path, leaf in shapes.items()
    }
    sources = name_maps.source_names(name, package or name_maps.packages(name)[0])
    assert len(set(sources.values())) == len(flat)
    tensors = {source: torch_layout(flat[path]) for path, source in sources.items()}
    _as_published(name, package, tensors)
    return traverse_util.unflatten_dict(flat), tensors


def _as_published(name, package, tensors):
    """Gives tensors the shapes that they have in the package, where ours are others."""
    if name.startswith("deit"):  # the class token's position is separate
        position = tensors["pos_embed"]
        tensors["pos_embed"] = np.concatenate([np.full_like(position[:, :1], 0.5), position], 1)
        tensors["cls_token"] = tensors["cls_token"] - np.float32(0.5)
    if (name, package) == ("convnext_tiny", "torchvision"):
        for key in tensors:
            if key.endswith("layer_scale"):
                tensors[key] = tensors[key].reshape(-1, 1, 1)
    if (name, package) == ("mobilenet_v3_large", "timm"):
        tensors["conv_head.weight"] = tensors["conv_head.weight"][..., None, None]


def random_resnet18(classes=5):
    """Variables of a ResNet-18, and the same tensors as torchvision names them."""
    return random_network("resnet18", "torchvision", classes)


def random_tensors(site, stride, channels, seed=0):
    """The variables of a published file, with the hyperprior that inference doesn't need."""
    rng = np.random.default_rng(seed)
    width, kernel = site.shape[-1], site.decoder_windows[stride][0]
    tensors = {
        "conv2_2.weight": rng.normal(0, 1 / 3, (width, 1, 3, 3)),
        "conv2_3.weight": rng.normal(0, width**-0.5, (channels, width, 1, 1)),
        "conv2_4.weight": rng.normal(0, channels**-0.5, (channels, width, 1, 1)),
        "conv2_5.weight": rng.normal(0, 1, (width, 1, kernel, kernel)),
        "priorEncoder.conv1.weight": rng.normal(size=(2, 3)),
        "priorDecoder.bn2.num_batches_tracked": np.array(7),
        "bitEstimator_z.f1.h": rng.normal(size=(1, 8, 1, 1)),
    }
    for norm, size in {"bn2_1": width, "bn3_1": channels, "bn4_1": width, "bn5_1": width}.items():
        tensors[f"{norm}.weight"] = rng.uniform(1, 3, size)
        tensors[f"{norm}.bias"] = rng.normal(1, 1, size)
        tensors[f"{norm}.running_mean"] = rng.normal(size=size)
        tensors[f"{norm}.running_var"] = rng.uniform(0.3, 2, size)
        tensors[f"{norm}.num_batches_tracked"] = np.array(9)
    tensors["bn3_1.bias"] += 3  # or the last ReLU may leave nothing
    return {
        name: tensor.astype(np.float32 if tensor.ndim else np.int64)
        for name, tensor in tensors.items()
    }


def write_folder(folder, task, units):
    """A folder as the authors publish one; units: name → (stride, channels, tensors)."""
    index = {}
    for name, (stride, channels, tensors) in units.items():
        np.savez(folder / f"{name}.npz", **tensors)
        index[name] = {
            "step": 0.125,
            "stride": stride,
            "channels": channels,
            "weights": f"{name}.npz",
            "symbol_counts": {"0": 900.0, "1": 90.0, "4": 10.0},
        }
    (folder / f"{task}.json").write_text(json.dumps(index))
