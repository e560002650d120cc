"""Lightning's Trainer on the TensorDataset, or with ``--items`` on torchvision's dataset, as in its pages."""

import sys
import warnings

items = "--items" in sys.argv and not sys.argv.remove("--items")
warnings.filterwarnings("ignore")

import lightning  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402
from work import Clock, arguments, arrays, criterion, network, normalized  # noqa: E402

given = arguments()
clock = Clock(given.steps)


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model, self.loss_of = network(given.work), criterion(given.work)

    def training_step(self, batch, number):
        inputs, targets = batch
        loss = self.loss_of(self.model(inputs), targets)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Timing(lightning.Callback):
    def on_train_batch_end(self, *_: object) -> None:
        clock.step()


if items:
    import torchvision
    from torchvision import transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    dataset = torchvision.datasets.MNIST(str(given.data.parents[1]), train=True, transform=transform)
else:
    images, labels = arrays(given.work, given.data)
    dataset = TensorDataset(normalized(given.work, images), torch.from_numpy(labels))
lightning.seed_everything(0, verbose=False)
trainer = lightning.Trainer(
    max_steps=given.steps,
    accelerator="cpu",
    callbacks=[Timing()],
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
)
trainer.fit(Module(), DataLoader(dataset, batch_size=64, shuffle=True))
clock.end(lightning=lightning.__version__)
