"""The tutorials' loop: torchvision's dataset, a transform a sample, DataLoader, Adam."""

import torch
import torchvision
from torch.utils.data import DataLoader
from work import Clock, arguments, criterion, items, loader_options, network

given = arguments()
loader = DataLoader(items(given.work, given.data), **loader_options(given.work))
torch.manual_seed(0)
model, loss_of = network(given.work), criterion(given.work)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
clock, enough, step = Clock(given.steps), False, 0
model.train()
while not enough:
    for images, labels in loader:
        outputs = model(images)
        loss = loss_of(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"Step [{step}], Loss: {loss.item():.4f}")
        if enough := clock.step():
            break
clock.end(torchvision=torchvision.__version__)
