"""Ignite's supervised trainer on the TensorDataset."""

import ignite
import torch
from ignite.engine import Events, create_supervised_trainer
from torch.utils.data import DataLoader, TensorDataset
from work import Clock, arguments, arrays, criterion, network, normalized

given = arguments()
images, labels = arrays(given.work, given.data)
dataset = TensorDataset(normalized(given.work, images), torch.from_numpy(labels))
loader = DataLoader(dataset, batch_size=64, shuffle=True)
torch.manual_seed(0)
model, loss_of = network(given.work), criterion(given.work)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
trainer = create_supervised_trainer(model, optimizer, loss_of)
clock = Clock(given.steps)


@trainer.on(Events.ITERATION_COMPLETED)
def completed(engine):
    if clock.step():
        engine.terminate()


trainer.run(loader, max_epochs=100)
clock.end(ignite=ignite.__version__)
