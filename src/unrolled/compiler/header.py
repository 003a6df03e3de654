"""From ``csrc/unrolled.h`` to the ``ctypes`` structures of its structs: fields have names, not places."""

import re

_TYPES = {
    "int64_t": "Int",
    "double": "Float",
    "char*": "Text",
    "void*": "Address",
    "int64_t*": "Address",
    "uint8_t*": "Address",
}
_ARRAYS = {"Int": "c_int64", "Address": "c_void_p"}
_NOTE = '''\
"""The constants and structures of ``csrc/unrolled.h``; `make generate` writes it, a test compares.

They have ``__slots__``, so that a name that is no field is an error.
"""

from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Array, Structure, c_char_p, c_double, c_int64, c_void_p
from typing import Annotated, Any, TypeVar

Kind = TypeVar("Kind", bound=type[Structure])

Int = Annotated[int, c_int64]
Float = Annotated[float, c_double]
Text = Annotated[bytes, c_char_p]
Address = Annotated[int | None, c_void_p]


def structure(kind: Kind) -> Kind:
    """Let the fields of ``kind`` be what it annotates, each of the ctypes type behind Python's."""
    kind._fields_ = [(name, of.__metadata__[0]) for name, of in kind.__annotations__.items()]
    return kind


'''


def constants(header: str) -> dict[str, int]:
    """What the header defines as a number, by name without ``UNROLLED_``."""
    return {name: int(n) for name, n in re.findall(r"#define UNROLLED_(\w+) (\d+)", header)}


def fields(header: str) -> dict[str, dict[str, str]]:
    """By the name of each struct and of its fields, in order: the annotation.

    Raises:
        ValueError: a declaration is of a kind that this does not know.
    """
    structs: dict[str, dict[str, str]] = {}
    for body, name in re.findall(r"typedef struct {([^{}]*)} (\w+);", header):
        found: dict[str, str] = {}
        for declaration in re.sub(r"//.*", "", body).split(";")[:-1]:
            found |= _declared(" ".join(declaration.split()).replace("const ", ""), structs)
        structs[name] = found
    return structs


def _declared(text: str, structs: dict[str, dict[str, str]]) -> dict[str, str]:
    """The fields of one declaration."""
    function = re.fullmatch(r"(void|int64_t) \(\*(\w+)\)\((.*)\)", text)
    if function:
        result, name, given = function.groups()
        kinds = ["c_void_p" if "*" in kind else "c_int64" for kind in given.split(",")]
        kinds.insert(0, "None" if result == "void" else "c_int64")
        return {name: f"Annotated[Callable[..., Any], CFUNCTYPE({', '.join(kinds)})]"}
    kind, _, names = text.partition(" ")
    if kind.removesuffix("*") in structs:
        return {names: f"Annotated[Any, POINTER({class_name(kind[:-1])})]"}
    if kind not in _TYPES:
        raise ValueError(
            f"{text!r}: got a declaration of type {kind!r}, expected one of {[*_TYPES]}"
        )
    declared = {}
    for name, bound in re.findall(r"(\w+)(?:\[(?:UNROLLED_)?(\w+)\])?", names):
        c = _ARRAYS.get(_TYPES[kind])
        declared[name] = f"Annotated[Array[{c}], {c} * {bound}]" if bound else _TYPES[kind]
    return declared


def class_name(struct: str) -> str:
    """``unrolled_cross_entropy_call`` is ``CrossEntropyCall``."""
    return struct.removeprefix("unrolled_").title().replace("_", "")


def structures(header: str) -> str:
    """The Python module."""
    text = _NOTE + "".join(f"{name} = {value}\n" for name, value in constants(header).items())
    for struct, found in fields(header).items():
        text += (
            f'\n\n@structure\nclass {class_name(struct)}(Structure):\n    """``{struct}``."""\n\n'
        )
        text += "    __slots__ = ()\n"
        text += "".join(f"    {name}: {annotation}\n" for name, annotation in found.items())
    return text
