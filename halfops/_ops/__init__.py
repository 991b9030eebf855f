"""The only user of torch.ops.halfops: loads the library, then adds what Python gives an op.

One module a room: its fake kernels, autograd formulas and autocast rules. Everything else in the package calls
the functions exported here.
"""

import torch

from halfops import _C  # type: ignore[attr-defined]  # noqa: F401  (importing it registers the ops)

ops = torch.ops.halfops

from halfops._ops import linear, scale  # noqa: E402, F401  (each room's module needs `ops`)
