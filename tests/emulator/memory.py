"""Arrays at addresses that hurt."""

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
