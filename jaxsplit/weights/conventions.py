"""Names of layers in the state dicts of other packages, by the names of our layers.

A convention maps a block and a layer of ours, such as ("stage1_block2", "conv3"), to the prefix of
its tensors' names, such as "layer1.1.conv3". Layers inside layers are joined by dots.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from jaxsplit.networks.convnext import ConvNeXt
from jaxsplit.networks.deeplab import DeepLab
from jaxsplit.networks.layers import Chain
from jaxsplit.networks.mobilenet_v3 import MobileNetV3
from jaxsplit.networks.residual import InvertedResidualNet, ResNet, ResNetSize
from jaxsplit.networks.vision_transformer import VisionTransformer
from jaxsplit.weights.deeplab_names import torchvision_name

Convention = Callable[[str, str], str]

TORCHVISION, TIMM, LITE = "torchvision", "timm", "efficientnet_lite_pytorch"
# Layers of inverted-residual networks outside the blocks, and their names in these packages.
_PACKAGES = (TORCHVISION, TIMM, LITE)
_ENDS = {
    "stem_conv": ("features.0.0", "conv_stem", "_conv_stem"),
    "stem_bn": ("features.0.1", "bn1", "_bn0"),
    "top_conv": ("features.18.0", "conv_head", "_conv_head"),
    "top_bn": ("features.18.1", "bn2", "_bn1"),
    "logits_dense": ("classifier.1", "classifier", "_fc"),
}
_MOBILE_ENDS = {
    TORCHVISION: {
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "top_conv": "features.16.0",
        "top_bn": "features.16.1",
        "pool_dense": "classifier.0",
        "logits_dense": "classifier.3",
    },
    TIMM: {
        "stem_conv": "conv_stem",
        "stem_bn": "bn1",
        "top_conv": "blocks.6.0.conv",
        "top_bn": "blocks.6.0.bn1",
        "pool_dense": "conv_head",
        "logits_dense": "classifier",
    },
}
_CONVNEXT_ENDS = {
    TORCHVISION: {
        "stem_conv": "features.0.0",
        "stem_norm": "features.0.1",
        "pool_norm": "classifier.0",
        "logits_dense": "classifier.2",
    },
    TIMM: {
        "stem_conv": "stem.0",
        "stem_norm": "stem.1",
        "pool_norm": "head.norm",
        "logits_dense": "head.fc",
    },
}
_CONVNEXT_LAYERS = {
    TORCHVISION: {
        "depthwise": "block.0",
        "norm": "block.2",
        "perceptron.expand": "block.3",
        "perceptron.project": "block.5",
        "layer_scale": "layer_scale",
    },
    TIMM: {
        "depthwise": "conv_dw",
        "norm": "norm",
        "perceptron.expand": "mlp.fc1",
        "perceptron.project": "mlp.fc2",
        "layer_scale": "gamma",
    },
}
_TRANSFORMER_LAYERS = {
    "embedding_conv": "patch_embed.proj",
    "embedding_position": "pos_embed",
    "block1_class_token": "cls_token",
    "pool_norm": "norm",
    "logits_dense": "head",
    "attention.qkv": "attn.qkv",
    "attention.project": "attn.proj",
    "perceptron.expand": "mlp.fc1",
    "perceptron.project": "mlp.fc2",
}


def packages(module: Chain) -> tuple[str, ...]:
    """Returns the packages that publish weights of a network; () for our own networks."""
    match module:
        case ResNet():
            return () if module.size.small else (TORCHVISION, TIMM)
        case DeepLab():
            return (TORCHVISION,) if isinstance(module.size.backbone, ResNetSize) else ()
        case InvertedResidualNet() if module.size.padding:
            return (LITE, TIMM)
        case InvertedResidualNet() | MobileNetV3() | ConvNeXt():
            return (TORCHVISION, TIMM)
        case VisionTransformer():
            return (TIMM,)
    return ()


def convention(module: Chain, package: str) -> Convention:
    """Returns the convention of one of a network's `packages`."""
    blocks = [end.replace(".", "_") for end in module.endpoints() if end.startswith("stage")]
    match module:
        case InvertedResidualNet():
            return functools.partial(_inverted_residual, package, blocks)
        case MobileNetV3():
            squeezed = [block.squeeze for stage in module.size.stages for block in stage]
            known = dict(zip(blocks, squeezed, strict=True))
            return functools.partial(_mobilenet_v3, package, known)
        case ConvNeXt():
            return functools.partial(_convnext, package)
        case VisionTransformer():
            return _vision_transformer
        case DeepLab():
            return functools.partial(torchvision_name, _resnet)
    return _resnet


def _numbers(block: str) -> tuple[int, int]:
    """Returns (2, 3) for "stage2_block3", and (2, 0) for "stage2_downsample"."""
    stage, number = map(int, (*re.findall(r"\d+", block), 0)[:2])
    return stage, number


def _resnet(block: str, layer: str) -> str:
    if block == "logits":
        return "fc"
    if block == "stem":
        return f"{layer}1"
    stage, number = _numbers(block)
    layer = {"conv_shortcut": "downsample.0", "bn_shortcut": "downsample.1"}.get(layer, layer)
    return f"layer{stage}.{number - 1}.{layer}"


def _inverted_residual(package: str, blocks: list[str], block: str, layer: str) -> str:
    if f"{block}_{layer}" in _ENDS:
        return _ENDS[f"{block}_{layer}"][_PACKAGES.index(package)]
    kind, role = layer.split("_")
    order = ("expand", "depthwise", "project")
    if package == LITE:
        own = f"_{role}_conv" if kind == "conv" else f"_bn{order.index(role)}"
        return f"_blocks.{blocks.index(block)}.{own}"
    # The first stage has no expansion: its blocks begin with the depthwise convolution.
    index = order.index(role) - (_numbers(block)[0] == 1)
    if package == TIMM:
        return _timm_block(block, kind, index)
    is_bn = int(kind == "bn")
    own = f"{index + is_bn}" if role == "project" else f"{index}.{is_bn}"
    return f"features.{blocks.index(block) + 1}.conv.{own}"


def _timm_block(block: str, kind: str, index: int) -> str:
    """Names the convolution of a block, or its normalization, by its place in the block."""
    stage, number = _numbers(block)
    convs = ("conv_dw", "conv_pw") if stage == 1 else ("conv_pw", "conv_dw", "conv_pwl")
    own = convs[index] if kind == "conv" else f"bn{index + 1}"
    return f"blocks.{stage - 1}.{number - 1}.{own}"


def _mobilenet_v3(package: str, squeezed: dict[str, bool], block: str, layer: str) -> str:
    if f"{block}_{layer}" in _MOBILE_ENDS[package]:
        return _MOBILE_ENDS[package][f"{block}_{layer}"]
    blocks, (stage, number) = list(squeezed), _numbers(block)
    first, place = block == blocks[0], f"features.{blocks.index(block) + 1}.block"
    if layer.startswith("squeeze."):
        role = layer.removeprefix("squeeze.")
        if package == TIMM:
            return f"blocks.{stage - 1}.{number - 1}.se.conv_{role}"
        return f"{place}.2.{'fc1' if role == 'reduce' else 'fc2'}"
    kind, role = layer.split("_")
    # The first block has no expansion.
    index = ("expand", "depthwise", "project").index(role) - first
    if package == TIMM:
        return _timm_block(block, kind, index)
    behind = squeezed[block] and role == "project"  # the squeeze-and-excitation
    return f"{place}.{index + behind}.{int(kind == 'bn')}"


def _convnext(package: str, block: str, layer: str) -> str:
    if f"{block}_{layer}" in _CONVNEXT_ENDS[package]:
        return _CONVNEXT_ENDS[package][f"{block}_{layer}"]
    stage, number = _numbers(block)
    if number:
        own = _CONVNEXT_LAYERS[package][layer]
        at = f"stages.{stage - 1}.blocks" if package == TIMM else f"features.{2 * stage - 1}"
        return f"{at}.{number - 1}.{own}"
    at = f"stages.{stage - 1}.downsample" if package == TIMM else f"features.{2 * stage - 2}"
    return f"{at}.{('norm', 'conv').index(layer)}"


def _vision_transformer(block: str, layer: str) -> str:
    if f"{block}_{layer}" in _TRANSFORMER_LAYERS:
        return _TRANSFORMER_LAYERS[f"{block}_{layer}"]
    return f"blocks.{int(block.removeprefix('block')) - 1}.{_TRANSFORMER_LAYERS.get(layer, layer)}"
