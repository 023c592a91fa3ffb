"""A curve or a small picture as one text, so that a row of a table can hold it."""

import base64
import binascii
import re
import zlib

import numpy as np
from numpy.typing import ArrayLike

from jaxsens.table.rows import refuse

__all__ = ["image_to_text", "numbers_to_text", "text_to_image", "text_to_numbers"]

FLOATS = (np.float16, np.float32, np.float64)
IMAGES = ("uint8", "uint16", "int32")
HEADER = re.compile(rf"({'|'.join(IMAGES)}) ([1-9]\d*)x([1-9]\d*) (\S+)")


def numbers_to_text(values: ArrayLike) -> str:
    """Numbers in order, each in the fewest digits that give it back: [0.1, 2, nan] is "0.1 2.0 nan".

    The digits are those of the values' own precision, so numbers of float32 take half the room; whole numbers
    are written as float64. NaN and infinities are kept.

    Args:
        values: shape (n,), n >= 1, of float16, float32, float64 or whole numbers.

    Raises:
        TableError: other shapes or types, such as a None among them.
    """
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    if array.ndim != 1 or not array.size or array.dtype.type not in FLOATS:
        raise refuse(
            f"values of shape {array.shape} and type {array.dtype}",
            "(n,) numbers of at most 64 bits, n >= 1",
            "write nan where one is missing, and one row of an array at a time",
        )
    return " ".join(map(str, array))


def text_to_numbers(text: str) -> np.ndarray:
    """The numbers that `numbers_to_text` wrote, float64, shape (n,).

    Those written from float32 are the same again after `.astype(np.float32)`.

    Raises:
        TableError: a text that `numbers_to_text` does not write.
    """
    try:
        values = np.array([float(number) for number in text.split()])
    except ValueError as error:
        raise _no_numbers(text) from error
    if not values.size:
        raise _no_numbers(text)
    return values


def image_to_text(array: np.ndarray) -> str:
    """A picture or a map of labels, row by row: "uint8 28x28 " and its bytes, compressed, in base64.

    Args:
        array: shape (height, width), uint8, uint16 or int32.

    Raises:
        TableError: other shapes or types, or no pixels.
    """
    if array.ndim != 2 or not array.size or array.dtype.name not in IMAGES:
        raise refuse(
            f"an array of shape {array.shape} and type {array.dtype}",
            f"(height, width) of {', '.join(IMAGES)}",
            "scale or round it first, and write one channel at a time",
        )
    height, width = array.shape
    # Little-endian everywhere, so that files move between machines.
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    packed = base64.b64encode(zlib.compress(plain, 9)).decode("ascii")
    return f"{array.dtype.name} {height}x{width} {packed}"


def text_to_image(text: str) -> np.ndarray:
    """The array that `image_to_text` wrote, of its shape and type.

    Raises:
        TableError: a text that `image_to_text` does not write.
    """
    parts = HEADER.fullmatch(text)
    if not parts:
        raise _no_image(text)
    name, height, width, packed = parts.groups()
    try:
        plain = zlib.decompress(base64.b64decode(packed, validate=True))
        stored = np.frombuffer(plain, dtype=np.dtype(name).newbyteorder("<"))
        return stored.reshape(int(height), int(width)).astype(name)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise _no_image(text) from error


def _no_numbers(text: str) -> Exception:
    return refuse(f"{text[:40]!r}", "numbers such as '0.5 1e-05 nan'", "name a column of numbers as text")


def _no_image(text: str) -> Exception:
    return refuse(f"{text[:40]!r}", "a picture such as 'uint8 28x28 ...'", "name a column of pictures")
