"""Sealed files: what was saved comes back, anyone can read it, and no damage goes unseen."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from scarcity_ray.results.reading import BrokenFile, RunError
from scarcity_ray.results.sealed import load_sealed, save_sealed

METADATA = {"position": ["fed_avg", 7, 3], "bytes": 12, "nothing": None, "name": 'sealed":"1:"', "words": {"ä": [True, 0.1]}}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(4, 6, generator=generator)
    return {
        "w": base,
        "transposed": base.T,
        "mask": torch.tensor([True, False, True]),
        "count": torch.tensor(5),
        "none": torch.empty(0, 3),
        "double": torch.tensor([1.5, float("nan"), float("-inf")], dtype=torch.float64),
        "half": torch.arange(3).to(torch.bfloat16),
        "far": torch.empty_strided((1,), (6,)).fill_(2.0),  # as the last number of a column
        "learned": torch.nn.Parameter(torch.ones(2)),
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    def bits(one: Tensor) -> Any:
        return one.dtype, tuple(one.shape), one.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).tolist()

    return {name: bits(one) for name, one in a.items()} == {name: bits(one) for name, one in b.items()}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save_sealed(tmp_path / "a.safetensors", tensors(), METADATA)
    found, told = load_sealed(tmp_path / "a.safetensors")
    assert same(found, tensors())
    assert told == METADATA
    save_sealed(tmp_path / "empty.safetensors", {}, {})
    assert load_sealed(tmp_path / "empty.safetensors") == ({}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "empty.safetensors"]


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    save_sealed(tmp_path / "a", tensors(), METADATA)
    save_sealed(tmp_path / "b", dict(reversed(tensors().items())), METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_reader_of_safetensors_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_sealed(path, tensors(), METADATA)
    assert same(load_file(path), tensors())
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["position"]) == ["fed_avg", 7, 3]


def test_what_the_format_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(ValueError, match="own"):
        save_sealed(path, {}, {"sealed": 1})
    with pytest.raises(ValueError, match="own"):
        save_sealed(path, {"__metadata__": torch.ones(1)}, {})
    with pytest.raises(TypeError, match="complex64"):
        save_sealed(path, {"w": torch.ones(1, dtype=torch.complex64)}, {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_sealed(path, {}, {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_link_left_under_the_drafts_name_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".a.new").symlink_to(victim)
    save_sealed(tmp_path / "a", tensors(), {})
    assert victim.read_text() == "mine"
    assert same(load_sealed(tmp_path / "a")[0], tensors())


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("sealed") / "a.safetensors"
    save_sealed(path, tensors(), METADATA)
    return path.with_name("damaged.safetensors"), path.read_bytes()


@given(st.data())
def test_any_flipped_bit_is_found(sealed: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = sealed
    flipped = data.draw(st.sets(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=4))
    damaged = bytearray(content)
    for bit in flipped:
        damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    with pytest.raises(BrokenFile, match=r"damaged\.safetensors cannot be read"):
        load_sealed(path)


def test_every_single_bit_counts(tmp_path: Path) -> None:
    """Of the length, the seal, the names, the shapes, the padding and the numbers."""
    path = tmp_path / "a"
    save_sealed(path, {"w": torch.ones(2)}, {"é": "é"})
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(BrokenFile):
            load_sealed(path)


@given(st.data())
def test_any_cut_and_any_surplus_is_found(sealed: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = sealed
    keep = data.draw(st.integers(0, len(content) - 1))
    more = data.draw(st.binary(max_size=40))
    for damaged in (content[:keep], content[:keep] + more, content + more + b"\0", content[keep + 1 :]):
        path.write_bytes(damaged)
        if damaged != content:
            with pytest.raises(BrokenFile):
                load_sealed(path)


def forged(header: str, body: bytes = b"") -> bytes:
    """A file made by hand, with a digest that is right."""
    blank = f'{{"__metadata__":{{"sealed":"1:{"0" * 64}"{header}'.encode()
    content = len(blank).to_bytes(8, "little") + blank + body
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


FORGERIES = {
    "terabytes": ('},"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}', b""),
    "overflow": ('},"w":{"dtype":"F64","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}', b"\0" * 8),
    "backwards": ('},"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}', b"\0" * 8),
    "negative": ('},"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', b"\0" * 8),
    "overlapping": (
        '},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"\0" * 8,
    ),
    "an unknown type": ('},"w":{"dtype":"object","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
    "a type of half bytes": ('},"w":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', b"\0"),
    "a byte more": ('},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 9),
    "a number in the metadata": (',"a":1}}', b""),
    "no JSON in the metadata": (',"a":"{"}}', b""),
    "depth in the metadata": (',"a":"' + "[" * 20_000 + '"}}', b""),
    "digits in the metadata": (',"a":"' + "9" * 20_000 + '"}}', b""),
    "no end": ("", b""),
    "half an end": ("}", b""),
    "depth": ('},"w":' + "[" * 50_000, b""),
    "a tensor that is a number": ('},"w":7}', b""),
    "metadata twice": ('},"__metadata__":[]}', b""),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_forged_file_with_the_right_digest_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "forged"
    path.write_bytes(forged(*FORGERIES[case]))
    with pytest.raises(BrokenFile, match="forged cannot be read"):
        load_sealed(path)


def test_forging_is_what_this_test_thinks_it_is(tmp_path: Path) -> None:
    (tmp_path / "forged").write_bytes(forged('},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8))
    assert load_sealed(tmp_path / "forged")[0]["w"].tolist() == [0, 0]


def test_another_version_is_named(sealed: tuple[Path, bytes]) -> None:
    path, content = sealed
    path.write_bytes(content.replace(b'"sealed":"1:', b'"sealed":"2:'))
    with pytest.raises(BrokenFile, match="version 2 of this format; this program reads version 1"):
        load_sealed(path)


def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "endless", "loop", "missing", "."):
        with pytest.raises(RunError, match="cannot be read"):
            load_sealed(tmp_path / name)


def test_what_is_larger_than_promised_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(2**43)  # sparse: eight terabytes that take no room on disk
    with pytest.raises(BrokenFile, match="8,796,093,022,208 bytes"):
        load_sealed(path)
    save_sealed(path, tensors(), {})
    with pytest.raises(BrokenFile, match="at most 100 are read"):
        load_sealed(path, most=100)
