"""What a person writes by hand: predictions of a run's model for a CSV or a folder of images.

python benchmarks/ways/predict_by_hand.py RUN INPUT OUTPUT
"""

import csv
import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

import trainctl

model = trainctl.load(sys.argv[1])
source, output = Path(sys.argv[2]), sys.argv[3]
model.eval()
torch.set_num_threads(1)


class Images(Dataset):
    def __init__(self, root):
        self.files = sorted(str(path) for path in root.rglob("*.jpg"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        from PIL import Image
        from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

        image = pil_to_tensor(Image.open(self.files[index]).convert("RGB"))
        return center_crop(resize(image, 64, antialias=True), [64, 64])


def batches():
    if source.is_dir():
        yield from DataLoader(Images(source), batch_size=64, num_workers=os.cpu_count())
        return
    import pyarrow.csv

    colours = ["blue", "green", "red"]
    for part in pyarrow.csv.open_csv(source):
        columns = [torch.from_numpy(part.column(f"x{number}").to_numpy()).float() for number in range(10)]
        codes = [colours.index(text) for text in part.column("colour").to_pylist()]
        yield torch.cat([torch.stack(columns, 1), torch.nn.functional.one_hot(torch.tensor(codes), 3)], 1)


with Path(output).open("w", newline="") as file, torch.no_grad():
    rows = csv.writer(file)
    rows.writerow(["row", "prediction", "probability"])
    number = 0
    for raw in batches():
        for inputs in raw.split(4096):
            outputs = model(inputs.float() / 255 if source.is_dir() else inputs).softmax(1)
            best = outputs.argmax(1).tolist()
            rows.writerows(
                [number + place, label, *probabilities]
                for place, (label, probabilities) in enumerate(zip(best, outputs.tolist(), strict=True))
            )
            number += len(inputs)
