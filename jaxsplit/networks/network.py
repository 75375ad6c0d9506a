"""The interface of a frozen network: a head before each cut, and a tail behind it."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.errors import ConfigError
from jaxsplit.networks.layers import Chain, LayerVariables, fold_normalization, shapes_only
from jaxsplit.tasks import Outputs
from jaxsplit.trees import Structs, Traced, Tree

#: Whatever crosses a cut: one array [B, H, W, C], tokens [B, N, D], or a dictionary of several.
Features = Tree
#: The network's arrays, such as {"params", "batch_stats"}.
Variables = Tree


class Network(abc.ABC):
    """A frozen network that can be cut, as pure functions of its variables.

    A network is hashable: the key of compiled programs. Subclasses define `cuts`, `head` and
    `tail`. `tail(head(images))` must equal the unsplit network at every cut; the tail sees nothing
    but the features.

    >>> from jaxsplit import networks
    >>> as_network(networks.create("resnet8_small", num_classes=10)).cuts()[0]
    'stem'
    """

    @abc.abstractmethod
    def cuts(self) -> tuple[str, ...]:
        """Returns the names of the cuts, from the image to the outputs."""

    @abc.abstractmethod
    def head(self, variables: Variables, images: jax.Array, cut: str) -> Features:
        """Runs the network up to a cut.

        Args:
          variables: the network's arrays.
          images: normalized, float [B, h, w, c].
          cut: one of `cuts()`.

        Returns:
          The features there: an array [B, …], or a dictionary of several.
        """

    @abc.abstractmethod
    def tail(self, variables: Variables, features: Features, cut: str) -> Outputs:
        """Runs the network behind a cut.

        Args:
          variables, features, cut: those of `head`, and what it returned.

        Returns:
          The outputs, arrays [B, …]: logits [B, K] of a classifier.
        """

    def __call__(self, variables: Variables, images: jax.Array) -> Outputs:
        """Runs the unsplit network.

        Args:
          variables, images: as in `head`.

        Returns:
          The outputs, arrays [B, …].
        """
        return self.at_cuts(variables, images, self.cuts()[-1:])[1]

    def at_cuts(
        self, variables: Variables, images: jax.Array, cuts: Sequence[str]
    ) -> tuple[dict[str, Features], Outputs]:
        """Runs the unsplit network and returns what passes some cuts.

        Args:
          variables, images: as in `head`.
          cuts: in the network's order.

        Returns:
          Cut → features, and the outputs.
        """
        features = {cut: self.head(variables, images, cut) for cut in cuts}
        return features, self.tail(variables, features[cuts[-1]], cuts[-1])

    def feature_shapes(self, variables: Traced, input_shape: tuple[int, ...]) -> dict[str, Structs]:
        """Returns the features of one image at every cut, without running anything.

        Args:
          variables: the network's arrays, or their shapes.
          input_shape: (h, w, c) of one image; a ConfigError if there is no such image.

        Returns:
          Cut → `jax.ShapeDtypeStruct`, or a tree of them, without the leading axis.
        """

        def run(variables: Variables, image: jax.Array) -> dict[str, Features]:
            return self.at_cuts(variables, image, self.cuts())[0]

        shapes = per_image_shapes(run, variables, input_shape)
        return {cut: shapes[cut] for cut in self.cuts()}

    def fold(self, variables: Variables) -> tuple[Self, Variables]:
        """Folds batch normalization into convolutions, where the network knows how.

        Args:
          variables: the network's arrays, unfolded or folded.

        Returns:
          The network that runs with folded arrays, and these; by default both as they are.
        """
        return self, variables

    @property
    def folded(self) -> bool:
        """True after `fold`; cached features depend on it."""
        return False


@dataclasses.dataclass(frozen=True)
class LinenNetwork(Network):
    """A Linen module with named endpoints.

    Attributes:
      module: has `endpoints()`, its parts in order, the outputs last, and takes
        `(x, start=…, stop=…)`, as `Chain` does.

    >>> from jaxsplit import networks
    >>> networks.LinenNetwork(networks.create("resnet8_small", num_classes=10)).cuts()
    ('stem', 'stage1.block1', 'stage2.block1', 'stage3.block1')
    """

    module: Any  # Linen has no type for a module with these arguments

    def __repr__(self) -> str:
        return f"LinenNetwork({type(self.module).__name__})"  # a module's own has a line a field

    def cuts(self) -> tuple[str, ...]:
        """Returns the endpoints but the last."""
        return tuple(self.module.endpoints()[:-1])

    def head(self, variables: Variables, images: jax.Array, cut: str) -> Features:
        """Runs the module up to an endpoint; see `Network.head`."""
        return self.module.apply(variables, images, stop=cut)

    def tail(self, variables: Variables, features: Features, cut: str) -> Outputs:
        """Runs the module behind an endpoint; see `Network.tail`."""
        return self.module.apply(variables, features, start=cut)

    def __call__(self, variables: Variables, images: jax.Array) -> Outputs:
        """Runs the module; see `Network`."""
        return self.module.apply(variables, images)

    def at_cuts(
        self, variables: Variables, images: jax.Array, cuts: Sequence[str]
    ) -> tuple[dict[str, Features], Outputs]:
        """Runs every part once; see `Network.at_cuts`."""
        x, start, features = images, None, {}
        for cut in cuts:
            features[cut] = x = self.module.apply(variables, x, start=start, stop=cut)
            start = cut
        return features, self.module.apply(variables, x, start=start)

    def feature_shapes(self, variables: Traced, input_shape: tuple[int, ...]) -> dict[str, Structs]:
        """Ignores the variables, and traces equal modules once; see `Network.feature_shapes`."""
        return dict(_linen_feature_shapes(self, tuple(input_shape)))

    def fold(self, variables: Variables) -> tuple[LinenNetwork, Variables]:
        """Folds the batch normalization of a module that knows `folded`; see `Network.fold`."""
        collections = cast("LayerVariables", variables)  # what Linen's modules take
        if not hasattr(self.module, "folded") or "batch_stats" not in collections:
            return self, variables
        folded = fold_normalization(collections, self.module.epsilon)
        return LinenNetwork(self.module.clone(folded=True)), folded

    @property
    def folded(self) -> bool:
        """True if the module's batch normalization is folded."""
        return getattr(self.module, "folded", False)


@dataclasses.dataclass(frozen=True)
class FunctionNetwork(Network):
    """A network as two functions: an NNX or Equinox model, or cuts through skip connections.

    Attributes:
      head_function, tail_function: see `Network.head` and `Network.tail`.
      names: of the cuts, in order.

    >>> def head(variables, images, cut):
    ...     return {"low": images[:, ::2, ::2], "mean": images.mean(axis=(1, 2))}
    >>> network = FunctionNetwork(head, lambda w, features, cut: features["mean"] @ w, ("middle",))
    >>> network(jnp.ones((3, 10)), jnp.ones((2, 8, 8, 3))).shape
    (2, 10)
    """

    head_function: Callable[..., Features]  # of their own kinds of variables and features
    tail_function: Callable[..., Outputs]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ConfigError(f"the cuts are {self.names}; expected different names, at least one")

    def cuts(self) -> tuple[str, ...]:
        """Returns `names`."""
        return self.names

    def head(self, variables: Variables, images: jax.Array, cut: str) -> Features:
        """Calls `head_function`."""
        return self.head_function(variables, images, cut)

    def tail(self, variables: Variables, features: Features, cut: str) -> Outputs:
        """Calls `tail_function`."""
        return self.tail_function(variables, features, cut)


def as_network(network: Network | nn.Module) -> Network:
    """Returns a network as it is, and a Linen module with endpoints as a `LinenNetwork`.

    Args:
      network: either; a ConfigError if it is neither.

    Returns:
      The network.

    >>> from jaxsplit import networks
    >>> type(as_network(networks.create("resnet8_small", num_classes=10))).__name__
    'LinenNetwork'
    """
    if isinstance(network, Network):
        return network
    if isinstance(network, nn.Module) and hasattr(network, "endpoints"):
        return LinenNetwork(network)
    if isinstance(network, str):
        raise ConfigError(f"{network!r} is a name: load the network with jaxsplit.load_backbone")
    raise ConfigError(
        f"{type(network).__name__} is no network: give a Linen module with endpoints(), a "
        "jaxsplit.networks.FunctionNetwork(head, tail, cuts), or a class derived from Network"
    )


def variable_shapes(module: nn.Module, input_shape: tuple[int, ...]) -> Mapping[str, Structs]:
    """Returns the shapes of a module's variables, of its `init` for an image (H, W, c)."""
    with shapes_only():
        image = abstract_image(input_shape)
        return jax.eval_shape(lambda x: module.init(jax.random.key(0), x), image)


def per_image_shapes(
    run: Callable[[Variables, jax.Array], Tree], variables: Traced, input_shape: tuple[int, ...]
) -> Any:  # a tree of `jax.ShapeDtypeStruct`s like `run`'s
    """Returns the shapes that `run` gives for one image (H, W, c), without the leading axis."""
    return without_batch(jax.eval_shape(run, variables, abstract_image(input_shape)))


def without_batch(shapes: Any) -> Any:  # trees of `jax.ShapeDtypeStruct`s
    """Returns the shapes of one image among those of a batch."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes)


def abstract_image(input_shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Returns the shape of a batch of one normalized image (H, W, c)."""
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ConfigError(f"images are {input_shape}; expected (H, W, channels), all positive")
    return jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)


def count_logits(network: Network, variables: Traced, input_shape: tuple[int, ...]) -> int | None:
    """Returns the number of logits of a network; None where its outputs are others.

    Args:
      network, variables: the network, and its arrays or their shapes.
      input_shape: (h, w, c) of one image.
    """
    if isinstance(network, LinenNetwork) and isinstance(network.module, Chain):
        return network.module.num_classes
    leaves, structure = jax.tree.flatten(variables)
    shapes = tuple((np.shape(leaf), str(getattr(leaf, "dtype", "float32"))) for leaf in leaves)
    try:
        return _traced_logits(network, structure, shapes, input_shape)
    except Exception:  # of the user's functions, which say it better where they run
        return None


@functools.lru_cache
def _traced_logits(
    network: Network,
    structure: Any,  # jax.tree_util.PyTreeDef
    shapes: tuple[tuple[tuple[int, ...], str], ...],
    input_shape: tuple[int, ...],
) -> int | None:
    leaves = [jax.ShapeDtypeStruct(*one) for one in shapes]
    outputs = per_image_shapes(network, jax.tree.unflatten(structure, leaves), input_shape)
    arrays = jax.tree.leaves(outputs)
    return arrays[0].shape[0] if len(arrays) == 1 and len(arrays[0].shape) == 1 else None


@functools.lru_cache
def _linen_feature_shapes(
    network: LinenNetwork, input_shape: tuple[int, ...]
) -> dict[str, Structs]:
    variables = variable_shapes(network.module, input_shape)
    return Network.feature_shapes(network, variables, input_shape)
