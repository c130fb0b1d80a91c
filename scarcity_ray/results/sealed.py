"""Tensors in a safetensors file with a digest over all of it, so that a cut or altered file is found.

The digest finds accidents. It is no signature: anybody who can write the file can write its digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from scarcity_ray.results.environment import memory_bytes
from scarcity_ray.results.files import new_file
from scarcity_ray.results.reading import BrokenFile, read_whole

__all__ = ["VERSION", "BrokenFile", "as_bytes", "load_sealed", "save_sealed"]

VERSION = 1
"""Of the form of sealed files; another one is refused."""

# The seal comes first in the file, so that it is checked before anything else is used. SHA-256 takes 0.6 ms for 700 KB,
# BLAKE2b 1.3 ms; CRC-32 takes 0.2 ms, and misses one in 4 billion damages.
_BLANK = "0" * 64
_SEAL = re.compile(rb'\{"__metadata__":\{"sealed":"([0-9]{1,9}):([0-9a-f]{64})"')
_START = 8  # the header's length comes before it

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def as_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """The numbers of a tensor of any layout, row by row."""
    whole = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # one number is contiguous in torch with any stride
    bytes: NDArray[np.uint8] = whole.reshape(-1).view(torch.uint8).numpy()
    return bytes


def save_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes tensors and metadata, the whole file or nothing. The same content gives the same bytes.

    metadata: values of any JSON form, finite. Raises ValueError for the name `sealed` in it, or for a tensor `__metadata__`;
    TypeError for what JSON or the format has no form for; OSError.
    """
    if "sealed" in metadata or "__metadata__" in tensors:
        raise ValueError("the names sealed (in metadata) and __metadata__ (of a tensor) are the format's own")
    if unknown := {str(tensor.dtype) for tensor in tensors.values()} - {str(dtype) for dtype in _TYPES}:
        raise TypeError(f"the format has no name for {', '.join(sorted(unknown))}")
    # The widest types first, as the format requires: each tensor is then aligned for its type.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    parts = [as_bytes(tensors[name]).data for name in names]
    header: dict[str, Any] = {
        "__metadata__": {"sealed": f"{VERSION}:{_BLANK}"} | {key: json.dumps(value, allow_nan=False) for key, value in metadata.items()}
    }
    end = 0
    for name, part in zip(names, parts, strict=True):
        start, end = end, end + part.nbytes
        header[name] = {"dtype": _TYPES[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(first)
    for part in parts:
        digest.update(part)
    with new_file(path) as draft, draft.open("xb") as file:  # a new file: a link that somebody left under this name is not followed
        file.write(first.replace(_BLANK.encode(), digest.hexdigest().encode(), 1))
        for part in parts:
            file.write(part)


def load_sealed(path: Path, *, most: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata of a file of `save_sealed`; nothing in it is run. most: bytes; this machine's memory if left out.

    Raises BrokenFile where the file is missing, cut, altered in any bit, of another version, or larger than it says or than `most`.
    """
    content = read_whole(path, memory_bytes() or 2**40 if most is None else most)
    seal = _SEAL.match(content, _START)
    if seal is None:
        raise BrokenFile(path, "it is cut or altered, or was not written by this program")
    if int(seal[1]) != VERSION:
        raise BrokenFile(path, f"it has version {int(seal[1])} of this format; this program reads version {VERSION}")
    view = memoryview(content)
    digest = hashlib.sha256(view[: seal.start(2)])
    digest.update(_BLANK.encode())
    digest.update(view[seal.end(2) :])
    if digest.hexdigest().encode() != seal[2]:
        raise BrokenFile(path, "it is cut or altered: its content is not what its digest says")
    try:
        # A file with the right digest may still be forged: `load` compares sizes before it takes memory for them.
        tensors = load(content)
        header = json.loads(content[_START : _START + int.from_bytes(content[:_START], "little")])
        metadata = {key: json.loads(value) for key, value in header["__metadata__"].items() if key != "sealed"}
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, MemoryError, RecursionError) as error:
        raise BrokenFile(path, error) from error
    return dict(tensors), metadata
