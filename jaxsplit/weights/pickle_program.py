"""Interprets the pickle programs in torch files; they can build data and nothing else.

A pickle is a program for a stack machine. This interpreter implements the opcodes that build
numbers, strings, dicts, lists and tuples. A global is a name that is looked up in the caller's
table: nothing is imported, no method of an object is called, no attribute is set. Every loop is
bounded by the number of opcodes, and an opcode takes memory and time in proportion to its own
bytes. Dict keys are short, so that long strings are not compared repeatedly.

The result may share parts and contain itself, so code that traverses it must count its steps.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import TypeVar

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import damaged, shown

#: A checkpoint has about 40 opcodes per tensor.
MAX_OPCODES = 1_000_000
MAX_BYTES = 2**24
MAX_ARGUMENTS = 16
#: Characters. Equal long keys would be compared on every use.
MAX_KEY = 1024

_T = TypeVar("_T")

_OPCODES = {op.code.encode("latin-1"): op for op in pickletools.opcodes}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def run(
    data: bytes,
    names: Mapping[str, object],
    load: Callable[[object], object],
    max_opcodes: int = MAX_OPCODES,
) -> tuple[object, int]:
    """Runs the pickle at the beginning of `data`; returns its value and its size in bytes.

    At most MAX_BYTES are read, and `max_opcodes` run. `names` has the values of globals by full
    name ("collections.OrderedDict"). The program may call functions among them with any arguments.
    They must raise for invalid ones and not take time in proportion to their arguments, which may
    be passed many times. `load` converts a persistent id to a value. Raises a WeightsError for a
    truncated, malformed or too long program, and for a global that `names` lacks.
    """
    file = io.BytesIO(data[:MAX_BYTES])
    machine = _Machine(file, names, load)
    try:
        for _ in range(max_opcodes):
            code = file.read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                ends = f"is truncated, or has more than {MAX_BYTES} bytes"
                what = f"has the byte {code.hex()} for an opcode" if code else ends
                raise damaged(f"its pickle {what}")
            if opcode.name == "STOP":
                return machine.stack.pop(), file.tell()
            machine.step(opcode)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = shown(str(error) or type(error).__name__)
        raise damaged(f"its pickle is malformed at byte {file.tell()} ({reason})") from error
    raise WeightsError(
        f"its pickle has more than {max_opcodes} opcodes; save the model's state_dict() alone"
    )


class _Machine:
    """The state of the stack machine: stack, marks and memo."""

    def __init__(
        self, file: io.BytesIO, names: Mapping[str, object], load: Callable[[object], object]
    ) -> None:
        self.stack: list[object] = []
        self._marked: list[list[object]] = []
        self._memo: dict[object, object] = {}
        self._file, self._names, self._load = file, names, load

    def step(self, opcode: pickletools.OpcodeInfo) -> None:
        """Executes one opcode; malformed programs raise the errors that `run` converts."""
        stack, name = self.stack, opcode.name
        match name:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[self._argument(opcode)] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                place = self._argument(opcode)
                if place not in self._memo:
                    raise LookupError(f"nothing is in the memo at {place}")
                stack.append(self._memo[place])
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(self._argument(opcode))
            case "BININT" | "BININT1" | "BININT2" | "BINFLOAT":
                stack.append(self._argument(opcode))
            case "LONG1":
                number = _expected(self._argument(opcode), int)
                if number.bit_length() > 64:
                    raise ValueError(f"an integer of {number.bit_length()} bits")
                stack.append(number)
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[name])
            case "EMPTY_LIST" | "EMPTY_DICT":
                stack.append([] if name == "EMPTY_LIST" else {})
            case "MARK":
                self._marked.append(stack)
                self.stack = []
            case "TUPLE":
                self._from_mark().append(tuple(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise IndexError("an empty stack")
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _expected(stack[-1], list).append(item)
            case "APPENDS":
                _expected(self._from_mark()[-1], list).extend(stack)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                put(_expected(stack[-1], dict), key, value)
            case "SETITEMS":
                target = _expected(self._from_mark()[-1], dict)
                for key, value in zip(stack[::2], stack[1::2], strict=True):
                    put(target, key, value)
            case "GLOBAL":
                # pickletools decodes escapes, which gives a Python warning.
                lines = self._file.readline(), self._file.readline()
                if not all(line.endswith(b"\n") for line in lines):
                    raise ValueError("a name without an end")
                stack.append(self._global(".".join(line[:-1].decode() for line in lines)))
            case "STACK_GLOBAL":
                last, first = _expected(stack.pop(), str), _expected(stack.pop(), str)
                stack.append(self._global(f"{first}.{last}"))
            case "BINPERSID":
                stack.append(self._load(stack.pop()))
            case "REDUCE":
                arguments, function = _expected(stack.pop(), tuple), stack.pop()
                if not callable(function):  # only values of the table are callable
                    raise TypeError("a call of an object that is not a function")
                # Many calls may share one long tuple, and each takes time for all of it.
                if len(arguments) > MAX_ARGUMENTS:
                    raise TypeError(f"a call with {len(arguments)} arguments")
                stack.append(function(*arguments))
            case "POP" | "BUILD":  # attributes, such as a state dict's _metadata, are dropped
                stack.pop()
            case "POP_MARK":
                self._from_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PROTO" | "FRAME":
                self._argument(opcode)
            case _:
                raise WeightsError(
                    f"its pickle uses the opcode {name}, expected those that tensors need; "
                    "in torch, save model.state_dict() with the default pickle protocol"
                )

    def _argument(self, opcode: pickletools.OpcodeInfo) -> object:
        return opcode.arg.reader(self._file) if opcode.arg else None

    def _from_mark(self) -> list[object]:
        """Removes the last mark and returns the stack below it, which becomes `self.stack`."""
        self.stack = self._marked.pop()
        return self.stack

    def _global(self, name: str) -> object:
        if name in self._names:
            return self._names[name]
        if name.startswith("torch._utils._rebuild") or name.endswith("Storage"):
            raise WeightsError(
                f"it has a tensor of an unsupported kind ({shown(name)}), expected dense numbers "
                "of 8 to 64 bits; in torch, save it as float32"
            )
        raise WeightsError(
            f"it has an object of {shown(name)}, expected only tensors, dicts, lists, numbers and "
            "strings; in torch, save model.state_dict() rather than the model"
        )


def put(target: dict[object, object], key: object, value: object) -> None:
    """Sets an item whose key hashes in constant time; nested tuples can take exponential time.

    Raises a TypeError for a key that is neither str nor int, a ValueError for one over MAX_KEY.
    """
    if not isinstance(key, str | int):
        raise TypeError(f"a key of type {type(key).__name__}, expected str or int")
    if isinstance(key, str) and len(key) > MAX_KEY:
        raise ValueError(f"a key of {len(key)} characters, expected at most {MAX_KEY}")
    target[key] = value


def _expected(value: object, kind: type[_T]) -> _T:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__}, expected a {kind.__name__}")
    return value
