"""Statistics that a weight gradient's own kernel left behind, for checks and norms that then need not read it again.

`record` gives the gradient a number of its own as its version. Autograd's version counter belongs to a tensor and its
aliases, and every write through torch moves it: whatever has that number later, at that place in memory, holds what
was recorded. Autograd makes what `linear_wgrad` returned the parameter's `.grad` as it is, with its counter, or copies,
adds or replaces it; the target of `linear_wgrad_` is the `.grad`. `take` gives statistics to whoever comes first with
such a gradient, once; anything else is not fresh, and is read.

Writes that move no counter cannot be seen: through `.data`, in other libraries' kernels, in replays of CUDA graphs.
Collectives are of that kind, torch's and other libraries', so nothing is fresh where torch.distributed or the launcher
says that there are other processes, unless the user says so.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from halfops._ops.scale import GradStats

Source = Literal["read", "wgrad"]  # where statistics come from: a pass over gradients, or the kernels that made them


class _Setting(NamedTuple):
    enabled: bool | None = None  # None: 16-bit products on GPUs only
    distributed: bool = False


class _Record(NamedTuple):
    place: tuple[Any, ...]  # _place(gradient)
    capture: weakref.ref[Any] | None  # the CUDA graph whose replays write the statistics
    stats: Tensor


# Versions are 32-bit and grow by one a write: no tensor gets to these by itself.
_FIRST, _COUNT = 2**31, 2**30
# Records that nobody asks for go, the oldest first: without them the gradients are read.
_MOST = 2**14
# Process-wide: autograd runs backward passes in threads of its own.
_setting = _Setting()
_records: dict[int, _Record] = {}  # by the gradient's version
_numbers = (_FIRST + i % _COUNT for i in itertools.count())
_lock = threading.Lock()


class wgrad_stats:  # noqa: N801  named as torch.set_grad_enabled is
    """Sets whether linear layers' backward passes leave statistics of weight gradients, for checks and norms.

    A function, or a context manager that puts back what was set before; for the whole process, all threads.

    Args:
        enabled: True: on any device. False: never, and those that are there are not used. None, the default when
            nothing was set: of 16-bit products on GPUs; elsewhere they would cost the read that they spare, or more.
        distributed: True: also where torch.distributed, torchrun or MPI has several processes. That is right only if no
            gradient is reduced, averaged or otherwise changed by communication between backward and step.
    """

    def __init__(self, enabled: bool | None, *, distributed: bool = False) -> None:
        if enabled is not None and not isinstance(enabled, bool):
            raise TypeError(
                f"enabled: got {enabled!r} ({type(enabled).__name__}), wanted True, False, or None for the default"
            )
        self._before = _setting
        _set(_Setting(enabled, bool(distributed)))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        _set(self._before)


def _set(setting: _Setting) -> None:
    global _setting
    _setting = setting
    if setting.enabled is False:
        with _lock:
            _records.clear()


def wanted(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weight gradients from operands of this dtype, on this device, should leave their statistics."""
    enabled, distributed = _setting
    # Only the kernels of 16-bit products have them for nothing: where torch's ops serve, they are several passes.
    if not (device.type == "cuda" and dtype.itemsize == 2 if enabled is None else enabled):
        return False
    return distributed or not _several_processes()


def record(grad: Tensor, stats: Tensor) -> None:
    """Keeps the statistics [sum of squares, 1 if any element is not finite else 0, 0] of what is in `grad` now."""
    # With a graph of the gradient (create_graph) autograd makes another tensor the .grad. Wrappers and fakes have no
    # memory.
    if torch.is_grad_enabled() or grad.is_inference() or not (_plain(grad) and _plain(stats)):
        return
    capture = _capture(grad.device)
    entry = _Record(_place(grad), None if capture is None else weakref.ref(capture), stats)
    with _lock:
        _count_unscaling()
        version = next(_numbers)
        torch._C._autograd._unsafe_set_version_counter((grad,), (version,))
        _records[version] = entry
        if len(_records) > _MOST:
            del _records[next(iter(_records))]


def take(gradients: Sequence[Tensor]) -> dict[int, Tensor]:
    """The statistics of those gradients that hold what was recorded, by their position. They are given once."""
    if not _records or (not _setting.distributed and _several_processes()):
        return {}
    found = {}
    with _lock:
        for i, grad in enumerate(gradients):
            entry = None if grad.is_inference() else _records.get(grad._version)
            if entry is not None and _holds(entry, grad):
                del _records[grad._version]
                found[i] = entry.stats
    return found


def recorded() -> bool:
    """Whether `take` could find anything: spares gathering its argument."""
    return bool(_records)


def combined(stats: Sequence[Tensor]) -> GradStats:
    """As `grad_stats` of the gradients, whose sums were added in the order of the kernels that left them."""
    table = torch.stack(list(stats))
    return GradStats(table[:, 1].any().float(), table[:, 0].sum(), table)


def _plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.layout is torch.strided and torch._C._has_storage(tensor)


def _place(grad: Tensor) -> tuple[Any, ...]:
    return grad.data_ptr(), grad.dtype, grad.shape, grad.stride()


def _holds(entry: _Record, grad: Tensor) -> bool:
    if entry.place != _place(grad):
        return False
    # A captured kernel leaves statistics at each replay of its own graph: only what runs in the same replay may count
    # on them, and what a graph captures must not count on statistics from outside.
    current = _capture(grad.device)
    return current is None if entry.capture is None else current is not None and entry.capture() is current


def _capture(device: torch.device) -> Any:
    """The CUDA graph that is being captured, or None."""
    if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        return None
    current = getattr(torch.cuda.CUDAGraph, "get_currently_capturing_graph", _Unknown)
    return current()


class _Unknown:
    """A graph that an older torch does not name: equal to no other."""


def _several_processes() -> bool:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        return True
    return _launched_with_others()


# How many processes a launcher started: torchrun, Horovod's, Open MPI's, MPICH's and Intel's, MVAPICH's.
_LAUNCHERS = ("WORLD_SIZE", "HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


@functools.cache
def _launched_with_others() -> bool:
    """Horovod, for one, reduces gradients without torch.distributed."""
    return any(os.environ.get(name, "1") not in ("", "0", "1") for name in _LAUNCHERS)


_LIBRARY = torch.library.Library("aten", "IMPL")
_UNSCALE = "aten::_amp_foreach_non_finite_check_and_unscale_"


@functools.cache
def _count_unscaling() -> None:
    """Lets the op with which torch.amp.GradScaler unscales move version counters, as torch's other in-place ops do."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(_UNSCALE, "ADInplaceOrView"):
        return
    op = torch.ops.aten._amp_foreach_non_finite_check_and_unscale_.default

    def kernel(keys: Any, grads: list[Tensor], *others: Tensor) -> None:
        torch.autograd.graph.increment_version(grads)
        with torch._C._AutoDispatchBelowADInplaceOrView():
            op.redispatch(keys & torch._C._after_ADInplaceOrView_keyset, grads, *others)

    _LIBRARY.impl(_UNSCALE.removeprefix("aten::"), kernel, "ADInplaceOrView", with_keyset=True)
