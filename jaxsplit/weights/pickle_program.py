"""Interprets the pickle programs in torch files; they can build data and nothing else.

A pickle is a program for a stack machine. This interpreter implements the opcodes that build
numbers, strings, dicts, lists and tuples. A global is a name that is looked up in the caller's
table: nothing is imported, no method of an object is called, no attribute is set. Every loop is
bounded by the number of opcodes, and an opcode takes memory and time in proportion to its own
bytes. Dict keys are short, so that long strings are not compared repeatedly.

The result may share parts and contain itself, so code that traverses it must count its steps.
"""

import itertools
import pickletools
import warnings
from collections.abc import Callable, Mapping
from typing import TypeVar

from jaxsplit.errors import WeightsError
from jaxsplit.io.untrusted import damaged, quoted

#: A checkpoint has about 40 opcodes per tensor.
MAX_OPCODES = 1_000_000
MAX_PICKLE_BYTES = 2**24
MAX_ARGUMENTS = 16
#: Characters. Equal long keys would be compared on every use.
MAX_KEY = 1024

_T = TypeVar("_T")

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# Opcode → how many values it takes from the stack; None: all behind the last mark.
_TAKEN = {
    **{"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "APPENDS": None},
    **{"SETITEM": 2, "SETITEMS": None, "STACK_GLOBAL": 2, "BINPERSID": 1, "REDUCE": 2},
    **{"POP": 1, "POP_MARK": None, "BUILD": 1},
}


def run(
    data: bytes,
    names: Mapping[str, object],
    load: Callable[[object], object],
    max_opcodes: int = MAX_OPCODES,
) -> tuple[object, int]:
    """Runs the pickle at the beginning of `data`; returns its value and its size in bytes.

    At most MAX_PICKLE_BYTES are read, `max_opcodes` run. `names` has the values of globals by full
    name ("collections.OrderedDict"). The program may call functions among them with any arguments.
    They must raise for invalid ones and not take time in proportion to their arguments, which may
    be passed many times. `load` converts a persistent id to a value. Raises a WeightsError for a
    truncated, malformed or too long program, and for a global that `names` lacks.
    """
    machine, position = _Machine(names, load), 0
    opcodes = itertools.islice(pickletools.genops(data[:MAX_PICKLE_BYTES]), max_opcodes)
    try:
        with warnings.catch_warnings(action="ignore"):  # of invalid escapes in a name
            for opcode, argument, begin in opcodes:
                position = begin or 0
                if opcode.name == "STOP":
                    return machine.stack.pop(), position + 1
                machine.step(opcode.name, argument)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        where = f"behind byte {position}, of at most {MAX_PICKLE_BYTES}"
        reason = quoted(str(error) or type(error).__name__)
        raise damaged(f"its pickle is malformed {where} ({reason})") from error
    raise WeightsError(
        f"its pickle has more than {max_opcodes} opcodes; save the model's state_dict() alone"
    )


class _Machine:
    """The state of the stack machine: stack, marks and memo."""

    def __init__(self, names: Mapping[str, object], load: Callable[[object], object]) -> None:
        self.stack: list[object] = []
        self._marked: list[list[object]] = []
        self._memo: dict[object, object] = {}
        self._names, self._load = names, load

    def step(self, name: str, argument: object) -> None:
        """Executes one opcode; malformed programs raise the errors that `run` converts."""
        taken = self._take(_TAKEN[name]) if name in _TAKEN else []
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "POP" | "POP_MARK" | "BUILD":
                pass  # attributes, such as a state dict's _metadata, are dropped
            case "MARK":
                self._marked.append(stack)
                self.stack = []
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                index = len(self._memo) if argument is None else argument
                self._memo[index] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise LookupError(f"nothing is in the memo at {argument}")
                stack.append(self._memo[argument])
            case "DUP":
                stack.append(stack[-1])
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[name])
            case "EMPTY_LIST" | "EMPTY_DICT":
                stack.append([] if name == "EMPTY_LIST" else {})
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING" | "BINFLOAT":
                stack.append(argument)
            case "BININT" | "BININT1" | "BININT2" | "LONG1":
                number = _expected(argument, int)
                if number.bit_length() > 64:
                    raise ValueError(f"an integer of {number.bit_length()} bits")
                stack.append(number)
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(taken))
            case "APPEND" | "APPENDS":
                _expected(stack[-1], list).extend(taken)
            case "SETITEM" | "SETITEMS":
                target = _expected(stack[-1], dict)
                for key, value in zip(taken[::2], taken[1::2], strict=True):
                    put(target, key, value)
            case "GLOBAL":  # its two lines, joined by a space
                stack.append(self._global(_expected(argument, str).replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                stack.append(self._global(".".join(_expected(part, str) for part in taken)))
            case "BINPERSID":
                stack.append(self._load(*taken))
            case "REDUCE":
                stack.append(_call(*taken))
            case _:
                raise WeightsError(
                    f"its pickle uses the opcode {name}, expected those that tensors need; "
                    "in torch, save model.state_dict() with the default pickle protocol"
                )

    def _take(self, count: int | None) -> list[object]:
        """Removes the last `count` values of the stack, or, with the last mark, those behind it."""
        if count is None:
            taken, self.stack = self.stack, self._marked.pop()
            return taken
        if len(self.stack) < count:
            raise IndexError("an empty stack")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _global(self, name: str) -> object:
        if name in self._names:
            return self._names[name]
        if name.startswith("torch._utils._rebuild") or name.endswith("Storage"):
            raise WeightsError(
                f"it has a tensor of an unsupported kind ({quoted(name)}), expected dense numbers "
                "of 8 to 64 bits; in torch, save it as float32"
            )
        raise WeightsError(
            f"it has an object of {quoted(name)}, expected only tensors, dicts, lists, numbers and "
            "strings; in torch, save model.state_dict() rather than the model"
        )


def _call(function: object, arguments: object) -> object:
    if not callable(function):  # only values of the table are callable
        raise TypeError("a call of an object that is not a function")
    given = _expected(arguments, tuple)
    # Many calls may share one long tuple, and each takes time for all of it.
    if len(given) > MAX_ARGUMENTS:
        raise TypeError(f"a call with {len(given)} arguments")
    return function(*given)


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
