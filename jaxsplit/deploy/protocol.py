"""The service's protocol: paths of its calls, frames with checks, and errors as status codes.

Imports neither jax nor grpc: client and server share it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from jaxsplit import errors
from jaxsplit.bitstream import Frame, Header, unpack_frame
from jaxsplit.bitstream.container import CHECK_BYTES, frame_check
from jaxsplit.bitstream.frames import FileCursor
from jaxsplit.bitstream.header import FRAME_CHECKS, read_header
from jaxsplit.errors import BitstreamError, ConfigError, JaxsplitError, ServiceError

SERVICE = "jaxsplit.v1.Inference"
STREAM, PREDICT = f"/{SERVICE}/Stream", f"/{SERVICE}/Predict"
DEFAULT_PORT = 50051
#: Metadata of a call, and of a refusal: the name of the error's class.
TOKEN_KEY, ERROR_KEY = "authorization", "jaxsplit-error"
#: Metadata of a refusal: milliseconds after which to try again, as gRPC's own retries read it.
RETRY_KEY = "grpc-retry-pushback-ms"
#: Most bytes of a message by default.
MAX_MESSAGE_BYTES = 1 << 20


class Code(IntEnum):
    """Status codes of gRPC that a frame or a call may have."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Hello(NamedTuple):
    """A client's hello: header, format version of the frames, whether they carry checks, top k."""

    header: Header
    version: int
    checked: bool
    top: int = 1


def read_hello(data: bytes, top: int = 1) -> Hello:
    """Reads the header of a hello.

    Args:
      data: header of a container and nothing else; a BitstreamError otherwise, which is a
        NewerVersionError for a format that this library doesn't know.
      top: classes of a prediction; a ConfigError if it is above 1000.

    Returns:
      The header, whether frames carry checks, and at least one class.
    """
    if top > _MAX_TOP:
        raise ConfigError(f"top {top} is above {_MAX_TOP}")
    cursor = FileCursor(io.BytesIO(data), stream=True)
    header, version, flags = read_header(cursor)
    if rest := len(data) - cursor.position:
        raise BitstreamError(f"{rest} bytes follow the header of a hello; send frames behind it")
    return Hello(header, version, bool(flags & FRAME_CHECKS), max(top, 1))


def seal(frame: bytes, number: int, checked: bool) -> bytes:
    """Returns a frame as it is sent: with its check, if the hello said so.

    Args:
      frame: from a `Sender`.
      number: its id.
      checked: as in the hello.

    >>> len(seal(b"abc", 7, True)), len(seal(b"abc", 7, False))
    (7, 3)
    """
    return frame + frame_check(number, frame) if checked else frame


def unseal(data: bytes, number: int, hello: Hello) -> Frame:
    """Reads a frame that was sent.

    Args:
      data: from `seal`; a BitstreamError if it is damaged, or no frame of the hello's header.
      number: its id.
      hello: of its stream.

    Returns:
      The frame.
    """
    if hello.checked:
        data, check = data[:-CHECK_BYTES], data[-CHECK_BYTES:]
        if check != frame_check(number, data):
            raise BitstreamError(f"frame {number} fails its check; send it again")
    frame, stop = unpack_frame(data, hello.header.n_rates, version=hello.version)
    if stop != len(data):
        raise BitstreamError(
            f"frame {number} of {stop} bytes is followed by {len(data) - stop} more: it is damaged"
        )
    return frame


def code_of(error: JaxsplitError) -> Code:
    """Returns the status code of an error.

    >>> code_of(BitstreamError("damaged")), code_of(errors.OtherFamilyError("another"))
    (<Code.DATA_LOSS: 15>, <Code.FAILED_PRECONDITION: 9>)
    """
    if isinstance(error, ServiceError):
        return Code(error.code)
    mismatch = errors.OtherFamilyError, errors.OtherTablesError, errors.NewerVersionError
    if isinstance(error, mismatch):
        return Code.FAILED_PRECONDITION
    if isinstance(error, BitstreamError):
        return Code.DATA_LOSS
    return Code.INVALID_ARGUMENT if isinstance(error, ConfigError) else Code.INTERNAL


def error_of(code: int, message: str, name: str = "") -> JaxsplitError:
    """Returns the error of a refusal, of the class that the server raised.

    Args:
      code: of the status.
      message: its details.
      name: of the class; others than those of a refused hello are a `ServiceError`.

    >>> error_of(9, "encoded with another family", "OtherFamilyError")
    OtherFamilyError('encoded with another family')
    """
    if name in ("OtherFamilyError", "OtherTablesError", "NewerVersionError", "BitstreamError"):
        found: JaxsplitError = getattr(errors, name)(message)
        return found
    return ServiceError(message, code=code)


def prediction_text(prediction: Mapping[str, object], top: int) -> str:
    """Returns a prediction as the JSON of a result, with its `top` likeliest alone.

    >>> prediction_text({"class": "cat", "top": [{"class": "cat"}, {"class": "dog"}]}, 1)
    '{"class":"cat"}'
    """
    listed = prediction.get("top")
    if isinstance(listed, list):
        kept = {key: value for key, value in prediction.items() if key != "top"}
        prediction = {**kept, "top": listed[:top]} if top > 1 else kept
    return json.dumps(prediction, separators=(",", ":"), ensure_ascii=False)


_MAX_TOP = 1000
