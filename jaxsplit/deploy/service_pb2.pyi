from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("hello", "frames")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("header", "top")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    top: int
    def __init__(self, header: _Optional[bytes] = ..., top: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("id", "data", "deadline_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    id: int
    data: bytes
    deadline_ms: int
    def __init__(self, id: _Optional[int] = ..., data: _Optional[bytes] = ..., deadline_ms: _Optional[int] = ...) -> None: ...

class Single(_message.Message):
    __slots__ = ("hello", "frame")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    frame: Frame
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("welcome", "results")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    results: _containers.RepeatedCompositeFieldContainer[Result]
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("max_in_flight", "max_message_bytes", "server")
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    max_in_flight: int
    max_message_bytes: int
    server: int
    def __init__(self, max_in_flight: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., server: _Optional[int] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("id", "code", "text", "server_us", "queue_us", "queue_length", "retry_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SERVER_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    RETRY_MS_FIELD_NUMBER: _ClassVar[int]
    id: int
    code: int
    text: str
    server_us: int
    queue_us: int
    queue_length: int
    retry_ms: int
    def __init__(self, id: _Optional[int] = ..., code: _Optional[int] = ..., text: _Optional[str] = ..., server_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., queue_length: _Optional[int] = ..., retry_ms: _Optional[int] = ...) -> None: ...
