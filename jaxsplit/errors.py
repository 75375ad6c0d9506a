"""The errors that jaxsplit raises: one family, so that a caller can catch them together.

Every message says what was got, what was expected and what to do. The command line prints the
message alone, on one line, and exits with 2.
"""


class JaxsplitError(Exception):
    """Base of every error that jaxsplit raises on purpose."""


class DataError(JaxsplitError):
    """A dataset is missing, empty or unreadable, or an image file is not an image."""


class ConfigError(JaxsplitError):
    """A configuration or an argument names something that does not exist or does not fit."""


class WeightsError(JaxsplitError):
    """Weights do not fit the network that they are loaded into."""


class FamilyError(JaxsplitError):
    """A family on disk is missing, damaged or bound to another backbone, or lacks a rate."""


class CheckpointError(JaxsplitError):
    """A training checkpoint is missing, damaged or belongs to another configuration."""


class NonFiniteError(JaxsplitError):
    """A training's loss, or what it trains, is no longer a finite number."""


class ProcessError(JaxsplitError):
    """Another process of a training over several hosts is lost, or never came."""


class BitstreamError(JaxsplitError):
    """Bytes are corrupted, truncated, or come from another family, rate or format version."""


class NewerVersionError(BitstreamError):
    """A file or stream of a format version that this library is too old for."""


class OtherFamilyError(BitstreamError):
    """A file or stream that was encoded with another family than the receiver has."""


class OtherTablesError(BitstreamError):
    """A file or stream that names this family, but other rates, tables or shapes than it has."""


class CoderError(BitstreamError):
    """The installed entropy coder behaves differently from the one that the format describes."""


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop, by Ctrl-C or SIGTERM, and has stopped between two steps.

    Like `KeyboardInterrupt` it is no error, and no `except Exception` holds it up.

    Attributes:
      signal: number of the signal; a command that it ends exits with 128 more.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
