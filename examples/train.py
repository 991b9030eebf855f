"""A training loop in half precision. Three lines make torch's loop for mixed precision into this one (marked <-)."""

import torch
from torch import nn

import halfops
from halfops.amp import GradScaler  # <- was: from torch.amp import GradScaler
from halfops.optim import AdamW  # <- was: from torch.optim import AdamW

torch.manual_seed(0)
device = "cpu"  # the optimizers have no CUDA kernels yet

model = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 1))
model = halfops.nn.convert(model).half().to(device)  # <- fused layers, 16-bit weights; same state_dict keys
optimizer = AdamW(model.parameters(), lr=3e-3, max_grad_norm=1.0)
scaler = GradScaler(device)

inputs = torch.randn(1024, 32, device=device)
targets = torch.sin(inputs.sum(1, keepdim=True))

for step in range(101):
    batch = torch.randint(0, len(inputs), (128,), device=device)
    loss = (model(inputs[batch].half()).float() - targets[batch]).square().mean()
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # unscale, overflow check, clip, update: one pass, no wait for the device
    scaler.update()
    if step % 20 == 0:
        print(f"step {step:3d}  loss {loss.item():.4f}")

print("weights:", model[0].weight.dtype, " loss scale:", scaler.get_scale(), " skipped:", int(scaler.skipped_steps))
