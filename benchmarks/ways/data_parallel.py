"""What a person writes by hand for two processes: MNIST, LeNet or a wider CNN, DistributedDataParallel.

torchrun --nproc-per-node=2 benchmarks/ways/data_parallel.py FOLDER lenet|wide STEPS
"""

import gzip
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

folder, kind, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.set_num_threads(1)
raw = folder / "MNIST" / "raw"
pixels = gzip.decompress((raw / "train-images-idx3-ubyte.gz").read_bytes())[16:]
digits = gzip.decompress((raw / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, 1, 28, 28)[:55000]
labels = torch.frombuffer(bytearray(digits), dtype=torch.uint8)[:55000].long()

torch.manual_seed(0)
lenet = nn.Sequential(
    nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
    nn.Linear(84, 10),
)  # fmt: skip
wide = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
    nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
)  # fmt: skip
model = lenet if kind == "lenet" else wide
model = nn.parallel.DistributedDataParallel(model)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
step, started, first = 0, 0.0, 50
while step < steps:
    for index in torch.randperm(len(images)).split(64):
        own = index.tensor_split(size)[rank]
        loss = criterion(model((images[own].float() / 255 - 0.1307) / 0.3081), labels[own])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        # Every step's loss is shown: that of the whole batch.
        shown = loss.detach().clone()
        dist.all_reduce(shown)
        step += 1
        if step == first:
            started = time.perf_counter()
        if step == steps:
            break
if rank == 0:
    print((steps - first) * 64 / (time.perf_counter() - started))
dist.destroy_process_group()
