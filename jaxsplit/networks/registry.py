"""Networks by name: the included ones, and own ones that are registered for files of weights."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.errors import ConfigError, did_you_mean
from jaxsplit.networks.architectures import create, names
from jaxsplit.networks.layers import Chain
from jaxsplit.networks.network import (
    LinenNetwork,
    Network,
    Variables,
    as_network,
    variable_shapes,
)
from jaxsplit.tasks import Classification, Task
from jaxsplit.tasks.classification import check_classes
from jaxsplit.trees import Structs


class Registered(NamedTuple):
    """A network of `register`, its task if that is none of a file, and its variables' shapes."""

    network: Network
    task: Task | None
    shapes: Structs | None

    def variable_shapes(self, input_shape: tuple[int, ...]) -> Structs | None:
        """Returns the shapes of the variables for an image (H, W, c); None if unknown."""
        if self.shapes is None and isinstance(self.network, LinenNetwork):
            return variable_shapes(self.network.module, input_shape)
        return self.shapes


_OWN: dict[str, Registered] = {}
#: End of a message for the command line about a network or a task that isn't registered.
REGISTERED = "commands know the included networks, others only in a program of Python"


def register(
    name: str,
    network: Network | nn.Module,
    *,
    task: Task | None = None,
    variables: Variables | None = None,
) -> None:
    """Registers a network of your own, so that files of `Backbone.save` can be loaded.

    Files contain no code: register the network before you save its backbone, and in every program
    that loads the file. A name that you registered before is replaced.

    Args:
      name: that of the backbone.
      network: as in `make_backbone`.
      task: what the outputs mean; needed only if that is not a `Classification`.
      variables: the arrays of the network, or their shapes; needed only if they are neither
        those of a Linen module nor nested dictionaries, such as the state of an NNX model.

    Raises:
      ConfigError: the name is that of an included network, `network` is none, or has another
        number of logits than the task has classes.

    >>> from jaxsplit import networks
    >>> networks.register("own_resnet", networks.create("resnet8_small", num_classes=3))
    """
    if not isinstance(name, str) or not name.isprintable() or not name.strip():
        raise ConfigError(f"the name of a network is {name!r}; expected printable text")
    if name in names():
        raise ConfigError(f"{name} is an included network; register yours under another name")
    if task is not None and not isinstance(task, Task):
        raise ConfigError(f"the task is a {type(task).__name__}; expected a jaxsplit.Task")
    module = getattr(network, "module", network)
    if isinstance(task, Classification) and isinstance(module, Chain):
        check_classes(name, module.num_classes, len(task.class_names))
    shapes = None
    if variables is not None:
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jnp.float32), variables)
    _OWN[name] = Registered(as_network(network), task, shapes)


def is_registered(name: str) -> bool:
    """Returns whether a network was registered under the name."""
    return name in _OWN


def find_network(name: str, num_classes: int, width: float = 1.0) -> Registered:
    """Finds an included or a registered network by name.

    Args:
      name: of the network; a ConfigError if there is none such.
      num_classes, width: of an included network, see `create`; a registered one has its own.

    Returns:
      The network.
    """
    if name in _OWN:
        return _OWN[name]
    if name not in names():
        near, listed = did_you_mean(name, (*names(), *_OWN)), ", ".join(names())
        raise ConfigError(
            f"no network {name!r} is registered: call jaxsplit.networks.register({name!r}, "
            f"network) first{near}",
            shell=f"there is no network {name!r}: {REGISTERED}; there are {listed}{near}",
        )
    return Registered(as_network(create(name, num_classes, width=width)), None, None)
