"""From ``csrc/unrolled.h`` to the ``ctypes`` structures of its structs: fields have names, not places."""

import re

_TYPES = {
    "int64_t": ("c_int64", "int"),
    "double": ("c_double", "float"),
    "char*": ("c_char_p", "bytes"),
    "void*": ("c_void_p", "int | None"),
    "int64_t*": ("c_void_p", "int | None"),
    "uint8_t*": ("c_void_p", "int | None"),
}
_NOTE = '''\
"""The constants and structures of ``csrc/unrolled.h``; `make generate` writes it, a test compares.

They have ``__slots__``, so that a name that is no field is an error.
"""

from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Array, Structure, c_char_p, c_double, c_int64, c_void_p
from typing import Any
'''


def constants(header: str) -> dict[str, int]:
    """What the header defines as a number, by name without ``UNROLLED_``."""
    return {name: int(n) for name, n in re.findall(r"#define UNROLLED_(\w+) (\d+)", header)}


def fields(header: str) -> dict[str, dict[str, tuple[str, str]]]:
    """By the name of each struct and of its fields, in order: the ctypes type, and Python's.

    Raises:
        ValueError: a declaration is of a kind that this does not know.
    """
    structs: dict[str, dict[str, tuple[str, str]]] = {}
    for body, name in re.findall(r"typedef struct {([^{}]*)} (\w+);", header):
        found: dict[str, tuple[str, str]] = {}
        for declaration in re.sub(r"//.*", "", body).split(";")[:-1]:
            found |= _declared(" ".join(declaration.split()).replace("const ", ""), structs)
        structs[name] = found
    return structs


def _declared(
    text: str, structs: dict[str, dict[str, tuple[str, str]]]
) -> dict[str, tuple[str, str]]:
    """The fields of one declaration."""
    function = re.fullmatch(r"(void|int64_t) \(\*(\w+)\)\((.*)\)", text)
    if function:
        result, name, given = function.groups()
        kinds = ["c_void_p" if "*" in kind else "c_int64" for kind in given.split(",")]
        returned = "None" if result == "void" else "c_int64"
        return {name: (f"CFUNCTYPE({', '.join((returned, *kinds))})", "Callable[..., Any]")}
    kind, _, names = text.partition(" ")
    if kind.removesuffix("*") in structs:
        return {names: (f"POINTER({class_name(kind[:-1])})", "Any")}
    if kind not in _TYPES:
        raise ValueError(
            f"{text!r}: got a declaration of type {kind!r}, expected one of {[*_TYPES]}"
        )
    c, python = _TYPES[kind]
    declared = {}
    for name, bound in re.findall(r"(\w+)(?:\[(?:UNROLLED_)?(\w+)\])?", names):
        declared[name] = (f"{c} * {bound}", f"Array[{c}]") if bound else (c, python)
    return declared


def class_name(struct: str) -> str:
    """``unrolled_cross_entropy_call`` is ``CrossEntropyCall``."""
    return struct.removeprefix("unrolled_").title().replace("_", "")


def structures(header: str) -> str:
    """The Python module."""
    parts = [_NOTE, *(f"{name} = {value}" for name, value in constants(header).items())]
    for struct, found in fields(header).items():
        parts += [
            "",
            "",
            f"class {class_name(struct)}(Structure):",
            f'    """``{struct}``."""',
            "",
        ]
        parts += [
            "    __slots__ = ()",
            "    _fields_ = [",
        ]
        parts += [f'        ("{name}", {c}),' for name, (c, _) in found.items()]
        parts += ["    ]", *(f"    {name}: {python}" for name, (_, python) in found.items())]
    return "\n".join(parts) + "\n"
