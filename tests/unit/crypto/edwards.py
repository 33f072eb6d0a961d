"""The curve of Ed25519 in plain integers (RFC 8032, section 5.1), to make odd signatures with.

Slow and not constant-time: for tests only.
"""

import hashlib
from typing import TypeAlias

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, P) % P
_ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)

Point: TypeAlias = tuple[int, int]
IDENTITY: Point = (0, 1)


def add(first: Point, second: Point) -> Point:
    """Addition on -x^2 + y^2 = 1 + d x^2 y^2."""
    (x1, y1), (x2, y2) = first, second
    product = _D * x1 * x2 * y1 * y2 % P
    x3 = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    y3 = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P
    return x3, y3


def multiply(factor: int, point: Point) -> Point:
    """factor times point."""
    result = IDENTITY
    while factor:
        if factor & 1:
            result = add(result, point)
        point = add(point, point)
        factor >>= 1
    return result


def encode(point: Point) -> bytes:
    """The canonical 32 bytes."""
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def with_y(y: int) -> Point | None:
    """The point with this y and an even x, None if there is none."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * _ROOT_OF_MINUS_ONE % P
    if (x * x - square) % P:
        return None
    return (P - x if x & 1 else x), y


def _torsion_of_order_8() -> Point:
    for y in range(2, 100):
        point = with_y(y)
        if point is not None:
            torsion = multiply(ORDER, point)
            if multiply(4, torsion) != IDENTITY:
                return torsion
    raise AssertionError("one in two points has a torsion part of order 8")


_base = with_y(4 * pow(5, -1, P) % P)
assert _base is not None
BASE: Point = _base
TORSION: Point = _torsion_of_order_8()


def secret_scalar(seed: bytes) -> int:
    """a, of which a times BASE is the public key."""
    scalar = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    return scalar & ((1 << 254) - 8) | 1 << 254


def challenge(commitment: bytes, public: bytes, data: bytes) -> int:
    """h = SHA-512(R, A, M), not reduced."""
    return int.from_bytes(hashlib.sha512(commitment + public + data).digest(), "little")


def scalar_bytes(scalar: int) -> bytes:
    """S as it stands in a signature."""
    return scalar.to_bytes(32, "little")
