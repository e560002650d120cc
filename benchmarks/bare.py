"""What a person writes by hand: the default run's data, model and optimizer, one step.

python benchmarks/bare.py [DEVICE]
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

data = load_file(Path(__file__).parents[1] / "src/trainctl/components/datasets/digits.safetensors")
device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
images = (data["images"].to(device).float() / 16 - 0.305) / 0.376
labels = data["labels"].to(device).long()

torch.manual_seed(0)
model = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
).to(device)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

index = torch.randperm(len(images), device=device)[:64]
loss = criterion(model(images[index]), labels[index])
optimizer.zero_grad()
loss.backward()
optimizer.step()
print(f"step 1/1  loss {loss.item():.4f}", flush=True)
