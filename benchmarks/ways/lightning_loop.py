"""Lightning's Trainer on the TensorDataset, or with ``--items`` on torchvision's dataset, as in its pages.

With ``--bare`` its logger, its checkpoints and its progress bar are off.
"""

import sys
import warnings

bare = "--bare" in sys.argv and not sys.argv.remove("--bare")
one_by_one = "--items" in sys.argv and not sys.argv.remove("--items")
warnings.filterwarnings("ignore")

import lightning  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402
from work import (  # noqa: E402
    Clock,
    arguments,
    arrays,
    criterion,
    items,
    loader_options,
    network,
    normalized,
)

given = arguments()
clock = Clock(given.steps)
OFF = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")


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


if one_by_one:
    dataset = items(given.work, given.data)
else:
    images, labels = arrays(given.work, given.data)
    dataset = TensorDataset(normalized(given.work, images), torch.from_numpy(labels))
lightning.seed_everything(0, verbose=False)
trainer = lightning.Trainer(
    max_steps=given.steps,
    accelerator="gpu" if given.device.startswith("cuda") else given.device,
    devices=1,
    callbacks=[Timing()],
    **(dict.fromkeys(OFF, False) if bare else {}),
)
trainer.fit(Module(), DataLoader(dataset, **loader_options(given.work)))
clock.end(lightning=lightning.__version__)
