"""What a person writes by hand: the default run's 20 epochs, evaluated each, the best one tested and saved.

python benchmarks/bare_run.py [EPOCHS]
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 20

data = load_file(Path(__file__).parents[1] / "src/trainctl/components/datasets/digits.safetensors")
images, labels = (data["images"].float() / 16 - 0.305) / 0.376, data["labels"].long()
torch.manual_seed(0)
order = torch.randperm(len(images))
train, val, test = order[:1275], order[1275:1500], order[1500:]

model = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


@torch.no_grad()
def evaluate(index: torch.Tensor) -> tuple[float, float]:
    outputs = model(images[index])
    accuracy = (outputs.argmax(1) == labels[index]).float().mean().item()
    return criterion(outputs, labels[index]).item(), accuracy


best, step = 0.0, 0
for epoch in range(1, EPOCHS + 1):
    for index in train[torch.randperm(len(train))].split(64):
        loss = criterion(model(images[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        print(f"step {step}  loss {loss.item():.4f}")
    val_loss, accuracy = evaluate(val)
    print(f"epoch {epoch}/{EPOCHS}  val loss {val_loss:.4f}  accuracy {accuracy:.4f}")
    if accuracy >= best:
        best = accuracy
        torch.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, "best.pt"
        )
model.load_state_dict(torch.load("best.pt")["model"])
test_loss, accuracy = evaluate(test)
print(f"test loss {test_loss:.4f}  accuracy {accuracy:.4f}", flush=True)
