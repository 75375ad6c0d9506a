"""Errors and warnings of jaxsplit, with one base class each.

A message says what was got, what was expected and what to do. The command line prints it on one
line and exits with status 2.
"""

import difflib
import errno
import importlib
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterable


class JaxsplitError(Exception):
    """Base class of all errors that jaxsplit raises deliberately.

    Args:
      message: one line.
      shell: the same line for the command line, where it names options in place of arguments.

    >>> import jaxsplit
    >>> try:
    ...     jaxsplit.open_source("mnist")
    ... except jaxsplit.JaxsplitError as error:
    ...     print(error)
    unknown data source 'mnist': expected embedded, tfds:NAME[/CONFIG] or folder:PATH
    """

    def __init__(self, *message: object, shell: str | None = None) -> None:
        super().__init__(*message)
        self.shell = shell


class DataError(JaxsplitError):
    """A dataset is missing, empty or unreadable, or an image file is not an image."""


class ConfigError(JaxsplitError):
    """A configuration or an argument names something that does not exist or is invalid."""


class WeightsError(JaxsplitError):
    """Weights do not fit the network that they are loaded into."""


class FamilyError(JaxsplitError):
    """A family on disk is missing or damaged, belongs to another backbone, or lacks a rate."""


class BudgetError(FamilyError):
    """An image takes more bytes at every rate than it may."""


class CheckpointError(JaxsplitError):
    """A training checkpoint is missing, damaged or belongs to another configuration."""


class NonFiniteError(JaxsplitError):
    """The loss or a parameter of a training is no longer finite."""


class ProcessError(JaxsplitError):
    """Another process of a multi-host training was lost or never connected."""


class BitstreamError(JaxsplitError):
    """Bytes are corrupted, truncated, or come from another family, rate or format version."""


class ReadError(BitstreamError, OSError):
    """The file or connection of a stream failed while it was read."""


class ReadTimeoutError(ReadError, TimeoutError):
    """A stream did not arrive in the time that its reader or its connection gives it."""


class ConnectionLostError(ReadError, ConnectionError):
    """The connection of a stream was reset or broken, perhaps within a frame."""


class NewerVersionError(BitstreamError):
    """A file or stream has a format version that this library cannot read yet."""


class OtherFamilyError(BitstreamError):
    """A file or stream was encoded with another family than the receiver's."""


class OtherTablesError(BitstreamError):
    """A file or stream names this family, but other rates, tables or shapes than it has."""


class CoderError(BitstreamError):
    """The installed entropy coder deviates from the format's specification."""


class ServiceError(JaxsplitError):
    """A service cannot be reached, or refuses a stream or a frame.

    Attributes:
      code: status code of gRPC, see `jaxsplit.deploy.protocol.Code`.
    """

    def __init__(self, *message: object, code: int = 14, shell: str | None = None) -> None:
        super().__init__(*message, shell=shell)
        self.code = code


class Interrupted(KeyboardInterrupt):
    """A training stopped between two steps after Ctrl-C or SIGTERM.

    Attributes:
      signal: number of the signal; the command line exits with 128 plus this number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message, signal)  # both, for pickles
        self.signal = signal

    def __str__(self) -> str:
        return str(self.args[0])


class Terminated(KeyboardInterrupt):
    """SIGTERM ends a command outside of the steps of a training.

    Attributes:
      signal: its number.
    """

    signal = signal.SIGTERM


class JaxsplitWarning(UserWarning):
    """A result may not be what was intended; the message says what to do.

    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", JaxsplitWarning)  # none is shown in this block
    """


_WARNED: set[str] = set()
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 400
_SHORTEST, _SUGGESTED = 3, 3  # letters of a name within others, and names in a message


def warn_once(kind: str, text: str) -> None:
    """Emits the first warning of its kind in this process, at the line outside the package."""
    if kind not in _WARNED:
        _WARNED.add(kind)
        warnings.warn(text, JaxsplitWarning, stacklevel=_outside())


def _outside() -> int:
    """Returns the `stacklevel` of the first frame outside the package, for the caller."""
    inside = os.path.dirname(__file__) + os.sep, os.path.dirname(importlib.__file__), "<frozen imp"
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame = frame.f_back
        level += "<frozen imp" not in frame.f_code.co_filename  # `warnings` doesn't count these
    return level


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Returns the end of a message about an unknown name: similar known ones, or nothing.

    Those are up to three that begin with it or contain it as whole words, else the most similar.

    >>> did_you_mean("learning_rat", ["learning_rate", "seed"]), did_you_mean("a", ["seed"])
    ('; did you mean learning_rate?', '')
    >>> did_you_mean("resnet8", ["resnet18", "cifar10_resnet8"])
    '; did you mean cifar10_resnet8?'
    >>> did_you_mean("ResNet8", ["resnet8", "cifar10_resnet8"])
    '; did you mean resnet8?'
    """
    lowered = {str(one).lower(): str(one) for one in known}  # R3 is similar to r3
    text = str(name).lower()
    words = re.compile(rf"(?<![a-z0-9]){re.escape(text)}(?![a-z0-9])")
    long = lowered if len(text) >= _SHORTEST else ()
    inside = [one for one in long if one.startswith(text) or words.search(one)]
    inside.sort(key=lambda one: not one.startswith(text))
    if text in lowered:  # in other letters
        inside = [text]
    near = inside[:_SUGGESTED] or difflib.get_close_matches(text, lowered, 1)
    return f"; did you mean {' or '.join(lowered[one] for one in near)}?" if near else ""


def choices(name: object, known: Iterable[object], joint: str = ", ") -> str:
    """Returns the end of a message about an unknown name: all known ones, and what was meant.

    >>> choices("wepb", ["jpeg", "webp"])
    'jpeg, webp; did you mean webp?'
    """
    known = list(known)
    return f"{joint.join(map(str, known))}{did_you_mean(name, known)}"


def escaped(text: str) -> str:
    """Escapes what a terminal obeys: control characters, line breaks, changes of direction.

    What files contain is printed only through this function. Bytes of a file's name that are not
    text are escaped too.

    >>> escaped("cat\\x1b[2J dog")
    'cat\\\\x1b[2J dog'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(error: BaseException) -> str | None:
    """Formats an error that is no bug as one line; None for others: they need their traceback.

    Those are of this package, of the operating system, of memory, and of jax's runtime. Options are
    named as on the command line.

    >>> one_line(FileNotFoundError(2, "No such file or directory", "photo.png"))
    'photo.png: No such file or directory'
    """
    text = " ".join(str(error).split())
    if isinstance(error, JaxsplitError):
        return text if error.shell is None else " ".join(error.shell.split())
    if out_of_memory(error):
        images = "fewer images (--max-samples, or max_samples of a configuration)"
        return f"out of memory: use smaller batches, {images} or a larger machine"
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return f"{text}: this machine allows no more; end other programs, or raise ulimit -u"
    if isinstance(error, SystemError):  # of a C extension that lost the reason
        return f"{text[:_LONGEST]}: a library failed, perhaps because memory ran out"
    if isinstance(error, OSError):
        return f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    jax = sys.modules.get("jax")
    # An assertion fails where the package of a backend isn't installed.
    if jax is None or not isinstance(error, RuntimeError | AssertionError):
        return None
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as problem:
        text = " ".join(str(problem).split()) or (
            f"jax has no backend for JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} (set "
            "JAX_PLATFORMS='' to choose one automatically)"
        )
    else:
        if not isinstance(error, jax.errors.JaxRuntimeError):
            return None
    # jax's messages may be pages, with a hint at the end.
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def out_of_memory(error: BaseException) -> bool:
    """Returns whether Python or XLA ran out of memory, on the host or on a device."""
    if isinstance(error, RuntimeError):
        return "RESOURCE_EXHAUSTED" in str(error)
    return isinstance(error, MemoryError)


def reason(error: OSError) -> str:
    """Formats the reason of an operating system error, with advice for a full disk.

    >>> reason(OSError(28, "No space left on device"))
    'No space left on device; free some, or write to another disk'
    """
    text = error.strerror or " ".join(str(error).split()) or type(error).__name__
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{text}; free some, or write to another disk" if full else text
