"""The loop that most people write: TensorDataset, DataLoader, Adam, a line every 100 steps."""

import torch
from torch.utils.data import DataLoader, TensorDataset
from work import Clock, arguments, arrays, criterion, network, normalized

given = arguments()
images, labels = arrays(given.work, given.data)
dataset = TensorDataset(normalized(given.work, images), torch.from_numpy(labels))
loader = DataLoader(dataset, batch_size=64, shuffle=True)
torch.manual_seed(0)
model, loss_of = network(given.work), criterion(given.work)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
clock, enough, step = Clock(given.steps), False, 0
model.train()
while not enough:
    for inputs, targets in loader:
        loss = loss_of(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"Step [{step}], Loss: {loss.item():.4f}")
        if enough := clock.step():
            break
clock.end()
