"""What a curve was measured with and on, so that only what is comparable is compared."""

from __future__ import annotations

from dataclasses import dataclass, fields

from jaxsplit.errors import ConfigError
from jaxsplit.evaluation.checks import set_count


@dataclass(frozen=True)
class Origin:
    """The network and the images of a curve.

    Args:
      backbone, backbone_fingerprint: name of the network and sha256 of its parameters.
      cut: the endpoint after which it was cut.
      data, split: the images' source, without the folders of a machine, and their split.
      data_fingerprint: of just these images, the same for a copy elsewhere.
      classes: how many classes there are.
      jaxsplit, jax: versions.

    Raises:
      ConfigError: an entry is no text, or the number of classes is no whole number above 0.
    """

    backbone: str
    backbone_fingerprint: str
    cut: str
    data: str
    split: str
    data_fingerprint: str
    classes: int
    jaxsplit: str
    jax: str

    def __post_init__(self) -> None:
        set_count(self, "classes")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name != "classes" and not isinstance(value, str):
                raise ConfigError(f"{entry.name} is {value!r}, expected a text")

    def same_images(self, other: Origin) -> bool:
        """Whether the other's images are these, or other ones of the same data.

        The networks may differ: then two systems are compared that do the same.

        Raises:
          ConfigError: they are of other data or other classes.
        """
        if self.data_fingerprint == other.data_fingerprint:
            return True
        if (self.data, self.classes) != (other.data, other.classes):
            first, second = (f"{one.data} ({one.classes} classes)" for one in (self, other))
            raise ConfigError(
                f"one curve is of {first}, the other of {second}: a distance between them means "
                "nothing; evaluate both on the same images"
            )
        return False
