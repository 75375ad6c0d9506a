"""Runs the pickle programs in torch files on a machine that can build data and nothing else.

A pickle is a program for a stack machine. This one knows the opcodes that build numbers, strings,
dicts, lists and tuples. A global is a name to be looked up in a table that the caller gives:
nothing is imported, no object's method is called, no attribute is set. Every loop is bounded by
the number of opcodes, and every opcode takes memory and time in proportion to its own bytes: keys
of dicts are short, so that long strings, made once, are never compared again and again.

The value may share parts and contain itself; who walks it counts the steps.
"""

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import shown

#: A checkpoint has about 40 opcodes a tensor.
MAX_OPCODES = 1_000_000
MAX_BYTES = 2**24
MAX_ARGUMENTS = 16
#: Characters. Two long keys that are equal would be compared as often as either is used.
MAX_KEY = 1024

_HANDLED = {
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    "BINPERSID",
}
_OPCODES = {op.code.encode("latin-1"): op for op in pickletools.opcodes if op.name in _HANDLED}
_NAMES = {op.code.encode("latin-1"): op.name for op in pickletools.opcodes}


def run(
    data: bytes,
    names: Mapping[str, object],
    load: Callable[[object], object],
    max_opcodes: int = MAX_OPCODES,
) -> tuple[Any, int]:
    """The value of the pickle that `data` begins with, and the bytes that the pickle takes.

    Args:
      data: at least the whole pickle; at most MAX_BYTES of it are looked at.
      names: what a global stands for, by its full name ("collections.OrderedDict"). Functions in
        it may be called by the program, with any arguments; they raise for those that don't fit,
        and take no time in proportion to what they are given, as it may be given many times.
      load: makes a value of a persistent id.
      max_opcodes: after how many the program is given up.

    Raises:
      WeightsError: truncated or malformed, too long, or it asks for a global that `names` lacks.
    """
    file = io.BytesIO(data[:MAX_BYTES])
    machine = _Machine(names, load)
    try:
        for _ in range(max_opcodes):
            code = file.read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise WeightsError(_unknown(code, len(data)))
            argument = _argument(opcode, file)
            if opcode.name == "STOP":
                return machine.stack.pop(), file.tell()
            machine.step(opcode.name, argument)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = shown(str(error) or type(error).__name__)
        raise WeightsError(
            f"its pickle is malformed at byte {file.tell()} ({reason}); get the file again"
        ) from error
    raise WeightsError(
        f"its pickle has more than {max_opcodes} opcodes; save the model's state_dict() alone"
    )


def _argument(opcode: pickletools.OpcodeInfo, file: io.BytesIO) -> Any:
    if opcode.name == "GLOBAL":
        # pickletools would look for escapes, which Python warns of.
        lines = file.readline(), file.readline()
        if not all(line.endswith(b"\n") for line in lines):
            raise ValueError("a name without an end")
        return ".".join(line[:-1].decode() for line in lines)
    return opcode.arg.reader(file) if opcode.arg else None


def _unknown(code: bytes, size: int) -> str:
    if code in _NAMES:
        return (
            f"its pickle uses the opcode {_NAMES[code]}, expected those that tensors need; "
            "in torch, save model.state_dict() with the default pickle protocol"
        )
    if not code and size > MAX_BYTES:
        return f"its pickle has more than {MAX_BYTES} bytes; save the model's state_dict() alone"
    what = f"has the byte {code.hex()} for an opcode" if code else "is truncated"
    return f"its pickle {what}; get the file again"


class _Machine:
    """The stack, the memo, and one step of the program."""

    def __init__(self, names: Mapping[str, object], load: Callable[[object], object]) -> None:
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._names = names
        self._load = load

    def step(self, name: str, argument: Any) -> None:
        """Does what one opcode asks for; malformed programs end in the errors that `run` knows."""
        stack = self.stack
        match name:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise LookupError(f"nothing is in the memo at {argument}")
                stack.append(self._memo[argument])
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "BININT" | "BININT1" | "BININT2" | "BINFLOAT":
                stack.append(argument)
            case "LONG1":
                if argument.bit_length() > 64:
                    raise ValueError(f"an integer of {argument.bit_length()} bits")
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "MARK":
                self._marked.append(stack)
                self.stack = []
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                self._from_mark().append(tuple(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise IndexError("an empty stack")
                stack[-count:] = [tuple(stack[-count:])]
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                item = stack.pop()
                _expected(stack[-1], list).append(item)
            case "APPENDS":
                _expected(self._from_mark()[-1], list).extend(stack)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                put(_expected(stack[-1], dict), key, value)
            case "SETITEMS":
                target = _expected(self._from_mark()[-1], dict)
                for key, value in zip(stack[::2], stack[1::2], strict=True):
                    put(target, key, value)
            case "GLOBAL":
                stack.append(self._global(argument))
            case "STACK_GLOBAL":
                last, first = _expected(stack.pop(), str), _expected(stack.pop(), str)
                stack.append(self._global(f"{first}.{last}"))
            case "BINPERSID":
                stack.append(self._load(stack.pop()))
            case "REDUCE":
                arguments, function = _expected(stack.pop(), tuple), stack.pop()
                if not callable(function):  # only values of the table are
                    raise TypeError("a call of what is no function")
                # Many calls may share one long tuple: each would take time for all of it.
                if len(arguments) > MAX_ARGUMENTS:
                    raise TypeError(f"a call with {len(arguments)} arguments")
                stack.append(function(*arguments))
            case "BUILD":
                stack.pop()  # attributes, such as a state dict's _metadata: dropped
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._from_mark()
            case "DUP":
                stack.append(stack[-1])
            case _:
                assert name in ("PROTO", "FRAME"), name

    def _from_mark(self) -> list[Any]:
        """Ends what the last mark began, which is `self.stack`; the stack below it."""
        self.stack = self._marked.pop()
        return self.stack

    def _global(self, name: str) -> object:
        if name not in self._names:
            tensor = name.startswith("torch._utils._rebuild") or name.endswith("Storage")
            raise WeightsError(
                f"it holds a tensor of an unusual kind ({shown(name)}), expected dense numbers of "
                "8 to 64 bits; in torch, save it as float32"
                if tensor
                else f"it holds an object of {shown(name)}, expected only tensors, dicts, lists, "
                "numbers and strings; in torch, save model.state_dict() rather than the model"
            )
        return self._names[name]


def put(target: dict[Any, Any], key: object, value: object) -> None:
    """Sets an item. Only keys whose hash takes no time: that of nested tuples is exponential.

    Raises:
      TypeError: the key is neither a string nor an integer.
      ValueError: it is longer than MAX_KEY.
    """
    if not isinstance(key, str | int):
        raise TypeError(f"a key of type {type(key).__name__}, expected str or int")
    if isinstance(key, str) and len(key) > MAX_KEY:
        raise ValueError(f"a key of {len(key)} characters, expected at most {MAX_KEY}")
    target[key] = value


def _expected(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__}, expected a {kind.__name__}")
    return value
