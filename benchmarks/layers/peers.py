"""Which peers are installed, and in which versions."""

from functools import cache
from importlib.metadata import version
from importlib.util import find_spec

import unrolled

PEERS = {"JAX": ("jax", "jaxlib"), "ONNX Runtime": ("onnxruntime", "onnx")}


@cache
def installed(peer: str) -> bool:
    return all(find_spec(package) for package in PEERS[peer])


def versions() -> dict[str, str | None]:
    """Of every package that is measured; ``None`` for one that is not installed."""
    packages = ["torch", "numpy"] + [name for names in PEERS.values() for name in names]
    found = {name: version(name) if find_spec(name) else None for name in packages}
    return {"unrolled": unrolled.__version__} | found


def show_absent() -> None:
    for peer in PEERS:
        if not installed(peer):
            print(f"{peer}: not installed; make bench installs it")
