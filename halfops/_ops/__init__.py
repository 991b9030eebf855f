"""The only user of torch.ops.halfops: loads the library, then adds what Python gives an op.

One module a room: its fake kernels, autograd formulas and autocast rules. Everything else in the package calls
the functions exported here.
"""

import torch

try:
    import halfops._C as _C  # noqa: F401  (importing it registers the ops)
except ImportError as error:
    raise ImportError(
        f"halfops: the compiled part cannot be loaded ({error}). Ways out:\n"
        "  1. in a checkout: python setup.py build_ext --inplace\n"
        "  2. as a package: pip install --no-build-isolation --force-reinstall --no-deps .\n"
        f"This torch is {torch.__version__}; halfops needs 2.11 or newer."
    ) from error

ops = torch.ops.halfops

from halfops._ops import linear, optim, optim_plan, registry, scale  # noqa: E402, F401  (each room's module needs `ops`)
