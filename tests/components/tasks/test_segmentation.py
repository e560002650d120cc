"""Segmentation: masks as targets, the loss of a pixel, and from a folder to predicted masks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.helpers.ranks import warm_ranks as warm_ranks
from tests.helpers.runs import killed_after, same_end
from tests.helpers.scenes import numbers, write_scenes
from tests.helpers.trained import PROGRAMS
from trainctl import load
from trainctl.config.composer import Composer
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, TASKS
from trainctl.training.build import build

WORDS = ("dataset=mask_folder", "dataset.path=scenes", "model=unet", "model.widths=[4,8]")
QUICK = ("threads=1", "display.mode=none", "train.batch_size=12", "lr=0.01")


def task() -> Any:
    return TASKS.load("segmentation")()


# ------------------------------------------------------------------ targets


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.int16])
def test_masks_of_any_type_are_bytes(dtype: torch.dtype) -> None:
    given = torch.tensor([[[0, 1], [2, 255]]])
    assert torch.equal(task().converted("train", given.to(dtype)), given.to(torch.uint8))
    assert torch.equal(task().converted("train", given[:, None].to(dtype)), given.to(torch.uint8))
    if dtype != torch.uint8:
        ignored = torch.where(given == 255, -100, given).to(dtype)
        assert torch.equal(task().converted("train", ignored), given.to(torch.uint8))


@pytest.mark.parametrize(
    ("targets", "outputs", "said", "remedy"),
    [
        (torch.zeros(5, dtype=torch.int64), 3, r"int64 of shape \(5,\); masks are whole", "class number"),
        (torch.zeros(2, 3, 4, 4), 3, r"float32 of shape \(2, 3, 4, 4\)", "not its colour"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), 3, r"uint8 of shape \(2, 4, 4, 3\)", "not its colour"),
        (torch.full((1, 2, 2), 0.5), 3, "mask 1 has 0.5 at row 1, column 1", "number the classes from 0"),
        (torch.full((1, 2, 2), -1), 3, "mask 1 has -1 at row 1", "-100 ignore a pixel"),
        (torch.full((1, 2, 2), 300), 3, "mask 1 has 300", "number the classes"),
        (torch.full((1, 2, 2), torch.nan), 3, "mask 1 has nan", ""),
        (torch.tensor([[[0, 1], [1, 0]], [[0, 0], [0, 3]]]), 3, "mask 2 has class 3 at row 2, col", "255"),
        (torch.full((1, 2, 2), -100), 3, "only ignored pixels", "give some pixels a class"),
        (torch.zeros(1, 2, 2), 256, "256 classes; masks have at most 255", ""),
    ],
)  # fmt: skip
def test_what_is_no_mask_is_refused(targets: Tensor, outputs: int, said: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        task().check("dataset made: train", task().converted("dataset made: train", targets), outputs)
    assert remedy in error.value.problems[0].remedy


def test_pixels_of_each_class_are_counted_and_the_rarer_weigh_more() -> None:
    masks = torch.tensor([[[0, 0], [0, 255]], [[2, 0], [255, 255]]], dtype=torch.uint8)
    assert task().class_counts(masks, 4).tolist() == [4, 0, 1, 0]
    words = ("dataset=shapes", "++dataset.samples=30", "++dataset.size=8", "model=unet", "++model.widths=[4]")
    built = build(Composer().compose([*words, "++loss.class_weights=balanced"]).config)
    masks = built.data.train.targets
    counts = torch.bincount(masks.flatten(), minlength=4)
    torch.testing.assert_close(built.run.criterion.weight, masks.numel() / (4 * counts))


def test_tables_count_pixels_that_are_not_ignored() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(5, 3, 4, 4, generator=generator)
    targets = torch.randint(0, 3, (5, 4, 4), generator=generator)
    targets[2] = targets[:, 1, 1] = -100
    kept = [task().collected(*each) for each in zip(outputs.split(2), targets.split(2), strict=True)]
    found = task().details(*(torch.cat(each) for each in zip(*kept, strict=True)), ("a", "b", "c"))
    counted, predicted = targets >= 0, outputs.argmax(1)
    for true in range(3):
        for guess in range(3):
            both = (targets == true) & (predicted == guess) & counted
            assert found.confusion[true][guess] == int(both.sum())
    for number, row in enumerate(found.classes):
        union = ((targets == number) | (predicted == number)) & counted
        assert row.iou == pytest.approx(found.confusion[number][number] / int(union.sum()))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("model=mlp",), "model=mlp must give outputs of shape (N, 4"),
        (("loss=mse",), "the targets are masks of class numbers: use loss=cross_entropy"),
        (("dataset=digits", "~dataset.samples"), "model=unet must give outputs of shape (N, 10)"),
        (("dataset.sampling=balanced",), "needs classes, the targets are masks"),
        (("train.metrics=[accuracy]",), "accuracy"),
    ],
)
def test_what_does_not_fit_is_refused(
    words: tuple[str, ...], said: str, trainctl: Callable[..., Any]
) -> None:
    outcome = trainctl("dataset=shapes", "dataset.samples=40", "model=unet", *words)
    assert outcome.code == 2
    assert said in outcome.err


def test_masks_of_another_size_than_the_inputs_are_refused(trainctl: Callable[..., Any]) -> None:
    Path("own.py").write_text(
        "import torch\n"
        "from trainctl.data import Data, Split, Standardize\n"
        "from trainctl.registry import DATASETS\n"
        "@DATASETS.register('own')\n"
        "def own(size: int = 6) -> Data:\n"
        "    masks = torch.arange(20 * size * size).reshape(20, size, size) % 2\n"
        "    return Data('own', 'segmentation', Split(torch.randn(20, 3, 8, 8), masks), None, (3, 8, 8), 2,\n"
        "                Standardize())\n"
    )
    words = ("plugins=[./own.py]", "dataset.name=own", "model=unet", "epochs=1", *QUICK)
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert "train masks have (6, 6) pixels, the inputs have shape (3, 8, 8)" in outcome.err
    assert trainctl(*words, "dataset.size=8").code == 0


# ------------------------------------------------------------------ a run


def test_shapes_are_found_and_masks_predicted(trainctl: Callable[..., Any], tmp_path: Path) -> None:
    words = ("dataset=shapes", "dataset.samples=160", "dataset.test_samples=60", "dataset.size=11")
    outcome = trainctl(*words, *WORDS[2:], *QUICK, "epochs=12", "name=drawn")
    assert outcome.code == 0, outcome.err
    scored = json.loads(trainctl("eval", "drawn", "--json").out)
    assert set(scored["values"]) == {"test/loss", "test/miou"}
    assert scored["recorded"] == scored["values"]
    ious = [row["iou"] for row in scored["classes"]]
    assert scored["values"]["test/miou"] == pytest.approx(sum(ious) / 4)
    assert ious[0] > 0.8
    assert sum(map(sum, scored["confusion"])) == 60 * 11 * 11
    shown = trainctl("eval", "drawn").out
    assert "IoU" in shown
    assert "pixels" in shown
    # Images as they are, in folders, of another size, and a broken one.
    data = DATASETS.load("shapes")(samples=160, test_samples=60, size=11)
    images = data.test.inputs[:3]
    (tmp_path / "new" / "deep").mkdir(parents=True)
    for place, image in zip(("a.png", "a.bmp", "deep/b.png"), images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "new" / place)
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((22, 33), 0).save(tmp_path / "new" / "c.png")
    (tmp_path / "new" / "d.png").write_bytes(b"no picture")
    outcome = trainctl("predict", "drawn", "--input", "new", "--output", "masks")
    assert outcome.code == 0, outcome.err
    with Path("masks/predictions.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert [row["mask"] for row in rows.values()] == ["a.png", "a.png.png", "c.png", "", "deep/b.png"]
    assert "cannot be read" in rows["d.png"]["error"]
    model, transform = load("drawn"), data.transform
    with torch.no_grad():
        expected = model(transform(images)).argmax(1)
    for name, mask in zip(("a.bmp", "a.png", "deep/b.png"), expected[[1, 0, 2]], strict=True):
        found = numbers(Path("masks") / rows[name]["mask"])
        assert torch.equal(found, mask)
        shares = [
            float(rows[name][f"share_{each}"]) for each in ("background", "circle", "square", "triangle")
        ]
        assert shares == pytest.approx((torch.bincount(mask.flatten(), minlength=4) / 121).tolist(), abs=1e-5)
    assert numbers(Path("masks/c.png")).shape == (33, 22)
    # Predictions are replaced by new ones; what else is there is not lost.
    assert trainctl("predict", "drawn", "--input", "new/a.png", "--output", "masks").code == 0
    assert sorted(path.name for path in Path("masks").rglob("*")) == ["a.png", "predictions.csv"]
    Path("masks/notes.txt").write_text("mine")
    for output, said in (
        ("masks", "holds something else than predicted masks"),
        ("m.csv", "predictions are masks"),
        ("new", "is the input"),
    ):
        outcome = trainctl("predict", "drawn", "--input", "new", "--output", output, "--force")
        assert outcome.code == 2
        assert said in outcome.err
    assert Path("masks/notes.txt").read_text() == "mine"
    numpy.savez("rows.npz", x=images.numpy())
    assert trainctl("predict", "drawn", "--input", "rows.npz", "--output", "rows").code == 0
    assert torch.equal(numbers(Path("rows/000002.png")), expected[1])


def test_a_folder_of_masks_whose_values_come_back(trainctl: Callable[..., Any]) -> None:
    write_scenes(Path("scenes"), 24)
    for path in Path("scenes/masks").iterdir():
        Image.fromarray((numbers(path) > 0).to(torch.uint8).numpy() * 255).save(path)
    words = (*WORDS, "dataset.values=[0,255]", "dataset.classes=[back,thing]")
    assert trainctl(*words, *QUICK, "epochs=6", "name=folder").code == 0
    assert trainctl("predict", "folder", "--input", "scenes/images", "--output", "again/").code == 0
    found = torch.stack([numbers(path) for path in sorted(Path("again").glob("*.png"))])
    assert set(found.unique().tolist()) <= {0, 255}
    # What was predicted is data of the same kind: the model agrees with itself.
    Path("scenes/masks").rename("scenes/drawn")
    Path("again/predictions.csv").unlink()
    Path("again").rename("scenes/masks")
    scored = json.loads(trainctl("eval", "folder", "--json", "--split", "all", "dataset.path=scenes").out)
    assert scored["values"]["all/miou"] == 1


def test_another_folder_may_lack_classes_and_no_more(trainctl: Callable[..., Any]) -> None:
    write_scenes(Path("scenes"), 24)
    assert trainctl(*WORDS, *QUICK, "epochs=1", "name=run").code == 0
    write_scenes(Path("others"), 5, seed=1)
    for path in Path("others/masks").iterdir():
        Image.fromarray(numpy.zeros((12, 12), dtype=numpy.uint8)).save(path)
    scored = json.loads(trainctl("eval", "run", "--json", "--split", "all", "dataset.path=others").out)
    assert [row["support"] for row in scored["classes"]] == [5 * 144, 0, 0, 0]
    Image.fromarray(numpy.full((12, 12), 4, dtype=numpy.uint8)).save("others/masks/000.png")
    outcome = trainctl("eval", "run", "--split", "all", "dataset.path=others")
    assert outcome.code == 2
    assert "has class 4" in outcome.err


def test_a_run_goes_on_within_an_epoch_to_the_same_bits(trainctl: Callable[..., Any]) -> None:
    write_scenes(Path("scenes"), 30, border=1)
    augment = "dataset.augment=[RandomHorizontalFlip,{RandomCrop:{size:12,padding:2}}]"
    every = ("checkpoint.every_steps=1", "checkpoint.keep_last=100", "hydra.run.dir=run", "epochs=2")
    assert trainctl(*WORDS, *QUICK, augment, *every).code == 0
    for step in (1, 4):
        cut = killed_after(Path("run").absolute(), step)
        outcome = trainctl("resume", "cut")
        assert outcome.code == 0, outcome.err
        assert same_end(cut, Path("run").absolute(), 6)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_loss_is_that_of_a_counted_pixel_however_batches_are_cut(
    deterministic: bool, trainctl: Callable[..., Any]
) -> None:
    write_scenes(Path("scenes"), 30, border=2)  # the first mask has no pixel that counts
    values = []
    for size in (1, 7, 30):
        words = (*WORDS, *QUICK, "epochs=1", f"batch_size={size}", "lr=0.0000001", "dataset.val=0")
        assert trainctl(*words, f"name=size{size}", f"deterministic={deterministic}").code == 0
        scored = json.loads(trainctl("eval", f"size{size}", "--json").out)["values"]
        values.append([scored["train/loss"], scored["train/miou"]])
    assert values[0] == pytest.approx(values[2], rel=1e-4)
    assert values[1] == pytest.approx(values[2], rel=1e-4)
    built = build(Composer().compose([*(f"++{word}" if "." in word else word for word in WORDS)]).config)
    batch = next(iter(built.run.train_loader.batches()))
    outputs = built.run.model(batch.inputs)
    torch.testing.assert_close(
        built.run.criterion(outputs, batch.targets), cross_entropy(outputs, batch.targets)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("warm_ranks")
def test_devices_accumulation_and_a_fused_sweep_give_the_same_values(trainctl: Callable[..., Any]) -> None:
    write_scenes(Path("scenes"), 40, border=1)
    words = (*WORDS, *QUICK, "epochs=2", "dataset.augment=[RandomHorizontalFlip]")
    ways = {
        "one": (), "two": ("devices=2", "device=cpu"), "cut": ("train.accumulate=2", "batch_size=6"),
        "pieces": ("train.micro_batch=5",), "workers": ("dataset.cache=false", "loader.workers=2"),
    }  # fmt: skip
    for name, own in ways.items():
        outcome = trainctl(*words, f"name={name}", *own)
        assert outcome.code == 0, outcome.err
    one, *others = (json.loads(trainctl("eval", name, "--json").out)["values"] for name in ways)
    for other in others:
        assert other == pytest.approx(one, rel=1e-3)
    assert trainctl(*words[:-1], "name=plain").code == 0
    plain = json.loads(trainctl("eval", "plain", "--json").out)["values"]
    assert trainctl("-m", "hydra/launcher=fused", *words[:-1], "seed=0,1").code == 0
    fused = json.loads(trainctl("eval", str(next(Path("outputs/sweeps").rglob("0"))), "--json").out)["values"]
    assert fused == pytest.approx(plain, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", [WORDS[2:], ("model=torchvision", "model.arch=lraspp_mobilenet_v3_large")])
def test_exports_give_probabilities_of_each_pixel(model: Any, trainctl: Callable[..., Any]) -> None:
    words = ("dataset=shapes", "dataset.samples=24", "dataset.test_samples=8", "dataset.size=20", *model)
    assert trainctl(*words, *QUICK, "epochs=1", "name=run").code == 0
    for kind in (*PROGRAMS, "safetensors"):
        outcome = trainctl("export", "run", "--format", kind)
        assert outcome.code == 0, outcome.err
        assert "(N, 4, 20, 20) float32" in outcome.out
