"""Takes weights of one network over into another, by the names of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import listed, quoted
from jaxsplit.networks import Backbone, Variables
from jaxsplit.networks.backbone_file import by_name

_LOGITS = "logits"  # the last block, of other classes


def take_over(variables: Variables, source: Backbone) -> Variables:
    """Replaces the blocks that a trained network has too, such as those of its ImageNet weights.

    Blocks are equal where their names are: stem and stages of `deeplabv3_resnet18` are those of
    `resnet18`. Those that only one of the networks has stay out, and the logits.

    Args:
      variables: of a new network, {"params", "batch_stats"}, such as from its `init`.
      source: the trained network, not folded.

    Returns:
      The same tree.

    Raises:
      WeightsError: no block has a name in common, or one has other shapes.

    >>> import jax
    >>> from jaxsplit import load_backbone, networks
    >>> known = load_backbone("fashion_mnist_resnet8")
    >>> module = networks.create("resnet8_small", num_classes=3)
    >>> fresh = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 28, 28, 1)))
    >>> found = take_over(fresh, known)["params"]["stem"]["conv"]["kernel"]
    >>> (found == known.variables["params"]["stem"]["conv"]["kernel"]).all().item()
    True
    """
    ours = cast("Mapping[str, Mapping[str, Any]]", variables)
    theirs = cast("Mapping[str, Mapping[str, Any]]", source.variables)
    shared = [name for name in ours["params"] if name in theirs["params"] and name != _LOGITS]
    if not shared:
        raise WeightsError(f"{source.name} has no block of this network; give another's weights")
    given = {
        kind: {block: theirs[kind][block] for block in shared if block in theirs.get(kind, {})}
        for kind in ours
    }
    wanted = {kind: {block: ours[kind][block] for block in given[kind]} for kind in ours}
    shapes, found = (
        {key: np.shape(leaf) for key, leaf in by_name(tree).items()} for tree in (wanted, given)
    )
    wrong = {key for key in shapes.keys() | found.keys() if shapes.get(key) != found.get(key)}
    if wrong:
        names = listed(map(quoted, sorted(wrong)))
        raise WeightsError(f"{source.name} has other shapes than this network: {names}")
    return {kind: {**ours[kind], **given[kind]} for kind in ours}
