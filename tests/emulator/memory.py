"""Arrays at addresses that hurt, and between guards."""

from __future__ import annotations

import numpy as np


def misaligned(values: np.ndarray, offset: int) -> np.ndarray:
    """A copy whose first element lies `offset` elements behind a multiple of 16 bytes."""
    size = values.dtype.itemsize
    room = np.zeros(values.nbytes + 32 + offset * size, np.uint8)
    begin = -room.ctypes.data % 16 + offset * size
    copy = room[begin : begin + values.nbytes].view(values.dtype)
    copy[...] = values
    return copy


class Guarded:
    """A copy between bytes that nobody may write, at the same distance from a multiple of 16.

    The guards are all ones: a number that is read from there is a NaN. `write_back` copies to the original and says
    which guard has changed.
    """

    SIZE = 64

    def __init__(self, original: np.ndarray) -> None:
        self.original = original
        self.room = np.full(original.nbytes + 2 * self.SIZE + 32, 0xFF, np.uint8)
        shift = (original.ctypes.data - self.room.ctypes.data) % 16
        self.begin = self.SIZE + shift
        self.end = self.begin + original.nbytes
        self.address = self.room.ctypes.data + self.begin
        self.room[self.begin : self.end] = np.frombuffer(original.tobytes(), np.uint8)

    def write_back(self) -> str:
        content = self.room[self.begin : self.end].tobytes()
        self.original[...] = np.frombuffer(content, self.original.dtype).reshape(self.original.shape)
        if (self.room[: self.begin] != 0xFF).any():
            return "in front of"
        return "behind" if (self.room[self.end :] != 0xFF).any() else ""
