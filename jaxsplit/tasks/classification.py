"""Classification: one of K classes an image, from logits [B, K]."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsplit.data import Source
from jaxsplit.data.imagenet import named
from jaxsplit.data.sources import check_class_names
from jaxsplit.errors import ConfigError, DataError
from jaxsplit.tasks.metric import CLASSIFICATION_METRICS, Metric
from jaxsplit.tasks.task import Outputs, Targets, Task
from jaxsplit.trees import Tree

__all__ = ["UNNAMED_CLASSES", "Classification", "cross_entropy", "distillation"]

_TOP = 5


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes -log softmax(logits)[label], in nats.

    Args:
      logits: float [B, K].
      labels: true classes, int [B].

    Returns:
      float [B], at least 0.

    >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    >>> f"{cross_entropy(logits, jnp.array([0])).item():.4f}"
    '0.6931'
    """
    import optax  # for training only, and slow to import

    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def distillation(logits: jax.Array, teacher: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Computes T² · KL(softmax(teacher / T) ‖ softmax(logits / T)), in nats.

    Args:
      logits: through the unit, float [B, K].
      teacher: logits of the unsplit network, float [B, K].
      temperature: T; larger ones give unlikely classes more weight.

    Returns:
      float [B], exactly 0 for equal distributions.

    >>> teacher = jnp.array([[2.0, 0.0], [2.0, 0.0]])
    >>> logits = jnp.array([[3.0, 1.0], [0.0, 2.0]])  # the same distribution, and another one
    >>> [f"{nats:.3f}" for nats in distillation(logits, teacher).tolist()]
    ['0.000', '1.523']

    Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2.
    """
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """One of K classes an image; outputs are logits [B, K], targets labels int [B].

    Attributes:
      class_names: in the order of the logits.

    >>> task = Classification(("cat", "dog"))
    >>> logits, labels = jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0])
    >>> task.measure(logits, labels)["top1"].tolist(), task.describe(logits)[1]
    ([True, False], {'class': 'dog', 'probability': 0.9526})
    """

    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        shown = [*self.class_names[:2], "…"] if len(self.class_names) > 3 else self.class_names
        return f"{type(self).__name__}({len(self.class_names)} classes: {', '.join(shown)})"

    def __post_init__(self) -> None:
        check_class_names(self.class_names)

    name: ClassVar[str] = "classification"
    quality: ClassVar[str] = "top1"
    metrics: ClassVar[Mapping[str, Metric]] = CLASSIFICATION_METRICS

    def loss(self, outputs: Outputs, targets: Targets) -> jax.Array:
        """Computes `cross_entropy`: logits float [B, K], labels int [B] → nats [B]."""
        return cross_entropy(_array(outputs), jnp.asarray(targets))

    def smoothed_loss(
        self, outputs: Outputs, targets: Targets, label_smoothing: float
    ) -> jax.Array:
        """Computes the cross-entropy with smoothed labels; see `Task.smoothed_loss`."""
        import optax

        logits = _array(outputs)
        smoothed = optax.smooth_labels(
            jax.nn.one_hot(jnp.asarray(targets), logits.shape[-1]), label_smoothing
        )
        return optax.softmax_cross_entropy(logits, smoothed)

    def distillation(
        self, outputs: Outputs, teacher: Outputs, temperature: float = 1.0
    ) -> jax.Array:
        """Computes `distillation`: two logits float [B, K] → nats [B]."""
        return distillation(_array(outputs), _array(teacher), temperature)

    def measure(self, outputs: Outputs, targets: Targets) -> dict[str, jax.Array]:
        """Computes top-1, bool [B]: the label has the largest logit, the first of equal ones."""
        logits = _array(outputs)
        if jnp.ndim(logits) != 2:
            raise ConfigError(f"outputs are {jnp.shape(logits)}, expected logits [B, K]")
        return {"top1": jnp.argmax(logits, -1) == jnp.asarray(targets)}

    def evaluate(self, outputs: Outputs, targets: Targets) -> dict[str, np.ndarray]:
        """Computes top-1 and, for more than five classes, top-5, bool [B]; ties go to the first."""
        logits, labels = np.asarray(_array(outputs)), np.asarray(targets)
        correct = {"top1": logits.argmax(-1) == labels}
        if logits.shape[-1] > _TOP:
            likeliest = np.argsort(-logits, axis=-1, kind="stable")[..., :_TOP]
            correct["top5"] = (likeliest == labels[..., None]).any(-1)
        return correct

    def predict(self, outputs: Outputs) -> jax.Array:
        """Returns the class of the largest logit, int [B]; of equal ones the first."""
        return _array(outputs).argmax(-1)

    def sampled_log_likelihood(
        self, outputs: Outputs, key: jax.Array, temperature: float = 1.0
    ) -> jax.Array:
        """Draws a class from softmax(logits / T); returns its log-probability, float [B]."""
        log_p = jax.nn.log_softmax(_array(outputs) / temperature)
        drawn = jax.random.categorical(key, jax.lax.stop_gradient(log_p))
        return jnp.take_along_axis(log_p, drawn[:, None], axis=1)[:, 0]

    def check_source(self, source: Source) -> None:
        """Checks that labels have the network's classes, in its order; see `Task`."""
        ours, theirs = self.class_names, source.class_names
        if ours == theirs:
            return
        source.check_labelled()
        if not theirs:
            raise DataError(f"{source.name} has no classes of images, which are needed here")
        if len(ours) == len(theirs):
            i = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len({*pair}) > 1)
            differs = f"; number {i} is {theirs[i]}, but the backbone's {ours[i]}"
        else:
            differs = f" ({theirs[0]}, …); the backbone's {len(ours)} are others ({ours[0]}, …)"
        listing = source.name.startswith("folder:")
        advice = "; list the backbone's, in its order, in classes.txt" if listing else ""
        other = "; jaxsplit.fit_head fits the network's last layer to other classes"
        raise DataError(f"{source.name} has {len(theirs)} classes{differs}{advice}{other}")

    def describe(self, outputs: Outputs, top: int = 1) -> list[dict[str, object]]:
        """Returns the likeliest class of each image, and its probability; see `imagenet.named`.

        With `top` above 1, "top" lists so many of them.
        """
        logits = np.asarray(_array(outputs), np.float64)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        if top <= 1:
            return [self._named(row, row.argmax()) for row in probabilities]
        likeliest = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        listed = [
            [self._named(row, index) for index in indices]
            for row, indices in zip(probabilities, likeliest, strict=True)
        ]
        return [{**ranked[0], "top": ranked} for ranked in listed]

    def _named(self, probabilities: np.ndarray, index: int) -> dict[str, object]:
        return {
            **named(self.class_names[index]),
            "probability": round(float(probabilities[index]), 4),
        }


def check_classes(name: str, logits: int | None, count: int) -> None:
    """Raises a ConfigError unless a network has as many logits as there are class names."""
    if logits not in (None, count):
        raise ConfigError(
            f"{name} has {logits} logits, but there are {count} class names: give one for each "
            "logit, in their order"
        )


def _array(tree: Tree) -> jax.Array:
    return cast("jax.Array", tree)  # a classification's outputs are one array


#: The task of networks whose outputs are logits [B, K], where no class is named.
UNNAMED_CLASSES = Classification(())
