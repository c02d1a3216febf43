"""An ONNX model written from arrays: the few messages of its protobuf format that a feed-forward graph needs.

Field numbers are those of ``onnx.proto3``. Operators without a domain are of ONNX itself; the others are onnxruntime's
fused ones (``com.microsoft``, in its ContribOperators.md), which every build of it for the CPU has.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FUSED = "com.microsoft"
_IR_VERSION, _OPSET = 8, 17
_FLOAT32, _UINT8 = 1, 2
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_INTS = 1, 2, 7
SCALED = 32
"""So many numbers of a column share a scale."""
_IN_INT8 = 4
"""onnxruntime's word for products of 8-bit numbers, instead of such that are made floats first."""
Attribute = float | int | Sequence[int]


def _varint(value: int) -> bytes:
    # Negative numbers are 64-bit two's complement on the wire.
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _block(field: int, *content: bytes) -> bytes:
    """A string, bytes or a message."""
    return b"".join((_varint(field << 3 | 2), _varint(sum(map(len, content))), *content))


def _text(field: int, value: str) -> bytes:
    return _block(field, value.encode())


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, float):
        content = _varint(2 << 3 | 5) + struct.pack("<f", value) + _number(20, _ATTRIBUTE_FLOAT)
    elif isinstance(value, int):
        content = _number(3, value) + _number(20, _ATTRIBUTE_INT)
    else:
        content = b"".join(_number(8, item) for item in value) + _number(20, _ATTRIBUTE_INTS)
    return _block(5, _text(1, name), content)


def _tensor_type(name: str, shape: Sequence[int | str]) -> bytes:
    """A float32 input or output; a dimension that varies has a name."""
    dims = [_block(1, _text(2, dim) if isinstance(dim, str) else _number(1, dim)) for dim in shape]
    return _text(1, name) + _block(2, _block(1, _number(1, _FLOAT32), _block(2, *dims)))


class GraphWriter:
    """Collects nodes and weights; each call gives the name of what it made."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._weights: list[bytes] = []

    def weight(self, values: NDArray[np.float32]) -> str:
        """A constant of float32 of any shape."""
        return self._constant(np.ascontiguousarray(values, dtype="<f4"), _FLOAT32)

    def matrix_of_bytes(self, values: NDArray[np.float32], x: str) -> str:
        """The product of ``x`` and a constant matrix, (inner, outer), kept in 8 bits.

        Half of the time of float32 and a quarter of the memory; sentence vectors turn by a degree or two.
        """
        inner, outer = values.shape
        columns = np.ascontiguousarray(values.T).reshape(outer, inner // SCALED, SCALED)
        scale = np.maximum(np.abs(columns).max(axis=2, keepdims=True), np.float32(1e-9)) / 127
        rounded = np.rint(columns / scale) + 128
        constants = self._constant(rounded.astype(np.uint8), _UINT8), self.weight(scale[:, :, 0])
        sizes = {"K": inner, "N": outer, "bits": 8, "block_size": SCALED, "accuracy_level": _IN_INT8}
        return self.node("MatMulNBits", x, *constants, domain=FUSED, attributes=sizes)

    def _constant(self, values: NDArray[np.generic], kind: int) -> str:
        name = f"w{len(self._weights)}"
        dims = b"".join(_number(1, dim) for dim in values.shape)
        self._weights.append(_block(5, dims, _number(2, kind), _text(8, name), _block(9, values.tobytes())))
        return name

    def node(self, kind: str, *inputs: str, domain: str = "", attributes: Mapping[str, Attribute] | None = None) -> str:
        """An operator with one output."""
        name = f"n{len(self._nodes)}"
        content = [_text(1, item) for item in inputs] + [_text(2, name), _text(4, kind)]
        content += [_attribute(key, value) for key, value in (attributes or {}).items()]
        self._nodes.append(_block(1, *content, _text(7, domain)))
        return name

    def model(self, entry: tuple[str, Sequence[int | str]], result: tuple[str, Sequence[int | str]]) -> bytes:
        """The model's file. ``entry`` and ``result`` are name and shape of the only input and the only output."""
        graph = _block(
            7,
            *self._nodes,
            _text(2, "graph"),
            *self._weights,
            _block(11, _tensor_type(*entry)),
            _block(12, _tensor_type(*result)),
        )
        opsets = [_block(8, _text(1, domain), _number(2, number)) for domain, number in (("", _OPSET), (FUSED, 1))]
        return b"".join((_number(1, _IR_VERSION), graph, *opsets))
