"""Loss scaling on the device: torch.amp's GradScaler for 16-bit gradients, with bounds, memory and names.

scaler = GradScaler()
scaler.scale(loss).backward()
scaler.step(optimizer)
scaler.update()
"""

from torch.amp import autocast

from halfops._ops.fresh import wgrad_stats
from halfops.amp.grad_scaler import GradScaler
from halfops.amp.report import Report, TensorReport

__all__ = ["GradScaler", "Report", "TensorReport", "autocast", "wgrad_stats"]
