"""torch.optim's AdamW, Adam and SGD, and Lion and LAMB, for weights in 16 bits: `from halfops.optim import AdamW`."""

from halfops.optim.adam import Adam
from halfops.optim.adamw import AdamW
from halfops.optim.base import HalfOptimizer
from halfops.optim.lamb import LAMB
from halfops.optim.lion import Lion
from halfops.optim.sgd import SGD

__all__ = ["LAMB", "SGD", "Adam", "AdamW", "HalfOptimizer", "Lion"]
