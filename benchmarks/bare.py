"""What a person writes by hand: the default run's data, model and optimizer, one step.

python benchmarks/bare.py
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

data = load_file(Path(__file__).parents[1] / "src/trainctl/components/datasets/digits.safetensors")
images = (data["images"].float() / 16 - 0.305) / 0.376
labels = data["labels"].long()

torch.manual_seed(0)
model = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

index = torch.randperm(len(images))[:64]
loss = criterion(model(images[index]), labels[index])
optimizer.zero_grad()
loss.backward()
optimizer.step()
print(f"step 1/1  loss {loss.item():.4f}", flush=True)
