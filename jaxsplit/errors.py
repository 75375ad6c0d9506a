"""The errors that jaxsplit raises: one family, so that a caller can catch them together.

Every message says what was got, what was expected and what to do. The command line prints the
message alone, on one line, and exits with 2.
"""

import difflib
import errno
import os
import sys
import warnings
from collections.abc import Iterable


class JaxsplitError(Exception):
    """Base of every error that jaxsplit raises on purpose.

    >>> import jaxsplit
    >>> try:
    ...     jaxsplit.open_source("embeded")
    ... except jaxsplit.JaxsplitError as error:
    ...     print(error)
    unknown data source 'embeded': expected embedded, tfds:NAME[/CONFIG] or folder:PATH
    """


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


class JaxsplitWarning(UserWarning):
    """Something was done that may not be what was meant; the message says what to do about it.

    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always", JaxsplitWarning)
    ...     warnings.warn("an image is animated: …", JaxsplitWarning)
    >>> len(told)
    1
    """


_WARNED: set[str] = set()


def warn_once(kind: str, text: str) -> None:
    """Warns of the first thing of its kind in this process: a thousand images are one warning.

    It points at the line outside the package that led here.
    """
    if kind not in _WARNED:
        _WARNED.add(kind)
        warnings.warn(text, JaxsplitWarning, stacklevel=_outside())


def _outside() -> int:
    """`stacklevel`, in the function that calls this, of the first frame outside the package."""
    package, frame, level = os.path.dirname(__file__) + os.sep, sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    return level


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, if any is near.

    >>> did_you_mean("learning_rat", ["learning_rate", "seed"])
    '; did you mean learning_rate?'
    >>> did_you_mean("colour", ["learning_rate", "seed"])
    ''
    """
    lowered = {one.lower(): one for one in known}  # R3 is near r3
    near = difflib.get_close_matches(name.lower(), lowered, 1)
    return f"; did you mean {lowered[near[0]]}?" if near else ""


def one_line(error: OSError | MemoryError) -> str:
    """What the machine refused, and where, for people.

    >>> one_line(FileNotFoundError(2, "No such file or directory", "photo.png"))
    'photo.png: No such file or directory'
    """
    if isinstance(error, MemoryError):
        return "out of memory: take smaller batches, fewer images (--limit) or a larger machine"
    return f"{error.filename}: {reason(error)}" if error.filename else reason(error)


def reason(error: OSError) -> str:
    """Why the machine refused, and what helps.

    >>> reason(OSError(28, "No space left on device"))
    'No space left on device; free some, or write to another disk'
    """
    text = error.strerror or " ".join(str(error).split()) or type(error).__name__
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{text}; free some, or write to another disk" if full else text
