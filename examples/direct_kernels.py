"""The kernels without a module: functions with gradients, and the operators beneath them."""

import torch

import halfops.functional as H

torch.manual_seed(0)
device = "cpu"  # not all of these have CUDA kernels yet
x, w = (torch.randn(64, 64, device=device).half() for _ in range(2))
b = torch.zeros(64, device=device).half()

# Any transposition is read through its strides; the product stays in float32 until its one rounding.
gram = H.matmul(x.mT, x, alpha=1 / 64, out_dtype=torch.float32)
print("gram matrix:", gram.dtype, "symmetric:", torch.equal(gram, gram.mT))

# A weight gradient added onto a float32 accumulator, in place.
total = torch.zeros(64, 64, device=device)
for _ in range(4):
    H.linear_wgrad(grad_output=x, input=x, accumulate_into=total)
print("accumulated:", total.dtype, "equals 4 gradients:", torch.allclose(total, 4 * 64 * gram, rtol=1e-5, atol=1e-3))

# The operator itself: it also hands out the rounded pre-activation that backward works from.
y, z = torch.ops.halfops.linear(x, w, b, None, "gelu", True)
print("operator:", tuple(y.shape), "same as the function:", torch.equal(y, H.linear(x, w, b, activation="gelu")))

# One read of any number of gradients: their norm, and whether one of them overflowed.
norm, found_inf = H.grad_norm([x, w])
print("norm:", f"{norm.item():.3f}", " overflow:", bool(found_inf))
