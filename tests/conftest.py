"""What every test starts from: the same seed, the fastest CPU variant, and each device that is there."""

from __future__ import annotations

import os

# Threads that wait for work sleep instead of spinning: the suite's matrices are small, and its machine is often shared.
# Read when torch loads its OpenMP, so it stands before that.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

from halfops._ops import ops, optim_plan
from halfops._ops.registry import has_kernel

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_configure(config):
    # Small matrices: more threads than cores only make the suite slower.
    torch.set_num_threads(min(torch.get_num_threads(), len(os.sched_getaffinity(0))))


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_variant_after():
    """A test that switches the CPU variant does not choose it for the next one."""
    before = ops.cpu_variant()
    yield
    if ops.cpu_variant() != before:
        ops.set_cpu_variant(before)


@pytest.fixture(params=[pytest.param(d, marks=pytest.mark.cuda) if d == "cuda" else d for d in DEVICES])
def device(request):
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _kernel_on_device(request):
    """A module that says `NEEDS_KERNEL = "op"` is skipped on a device for which that op has no kernel (yet)."""
    name = getattr(request.module, "NEEDS_KERNEL", None)
    if name is None or "device" not in request.fixturenames:
        return
    device = request.getfixturevalue("device").type
    if not has_kernel(name, device):
        pytest.skip(f"{name} has no {device} kernel in this build")


@pytest.fixture(params=["read", "given"])
def access(request):
    """Gradients read by C++, or given by Python."""
    before = optim_plan.grad_access()
    optim_plan.set_grad_access(request.param == "read")
    if optim_plan.grad_access() != (request.param == "read"):
        pytest.skip("this torch is none whose gradients are read")
    yield request.param == "read"
    optim_plan.set_grad_access(before)
