"""A trained model as one file, read back by whoever will use it before it gets its name."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from trainctl import __version__
from trainctl.config.settings import Component
from trainctl.data import preprocessing as preparing
from trainctl.errors import ConfigError, StorageError, TrainctlError
from trainctl.inference.predict import Predictor, finish
from trainctl.inference.trained_run import Trained
from trainctl.runs import files
from trainctl.training.construct import build_model
from trainctl.training.prepare_data import build_data

FORMATS = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}
TOLERANCE = 1e-5
_SAMPLES = 256
_KEY = "trainctl"


class Whole(nn.Module):
    """Preprocessing, model and what makes predictions of its outputs, in one.

    Shape: raw samples (N, *raw) → probabilities (N, classes), or values (N, outputs).
    """

    def __init__(self, transform: nn.Module, model: nn.Module, task: str) -> None:
        super().__init__()
        self.transform, self.model = transform, model
        self.finish = finish(task)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.finish(self.model(self.transform(inputs)).to(torch.float32))


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path, size: the file and its bytes.
        difference: the largest between its predictions and the run's.
        samples: what they were compared on.
        inputs, outputs: what it takes and gives.
        read_by: what it was read back with.
    """

    path: Path
    size: int
    difference: float
    samples: str
    inputs: str
    outputs: str
    read_by: str


def export(trained: Trained, kind: str, path: Path) -> Exported:
    """Write the model of ``trained``, on the CPU, to ``path``, as one of FORMATS, and check it.

    The file is written under a temporary name, loaded by its own library, and compared with the run's
    predictions on samples of the run's data; then it gets its name.

    Raises ConfigError for a model that the format cannot hold and where its library is not installed,
    TrainctlError (exit 1) where the predictions are others, StorageError where the disk will not take it.
    """
    transform = trained.transform()
    raw = trained.raw_sample()
    samples, of_what = _samples(trained, raw)
    expected = _expected(trained, transform, samples, of_what)
    about = _about(trained, raw)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    write, check, reader = {
        "safetensors": (_write_safetensors, _run_safetensors, "safetensors, into a model built anew"),
        "torch": (_write_program, _run_program, "torch.export.load"),
        "onnx": (_write_onnx, _run_onnx, "onnxruntime"),
    }[kind]
    try:
        try:
            with _quiet():
                write(temporary, trained, transform, samples, about)
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            with _quiet():
                found = [check(temporary, trained, part) for part in (samples[:1], samples[1:])]
            difference = _difference(expected, torch.cat(found))
            if not difference <= TOLERANCE:
                raise TrainctlError(
                    f"what was exported predicts something else: the largest difference is {difference:.1e}",
                    f"more than {TOLERANCE:.0e} is an error; nothing is left of it",
                )
            size = temporary.stat().st_size
            files.rename(temporary, path)
        except OSError as error:
            raise StorageError(
                f"--output {path} cannot be written: {error.strerror or error}", "name another file"
            ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    alone = kind == "safetensors"
    what = "the model's own inputs" if alone else "raw samples"
    shape = trained.input_shape if alone else tuple(raw["shape"])
    dtype = "float32" if alone else raw["dtype"]
    gives = "outputs" if alone else "probabilities" if trained.task == "classification" else "values"
    return Exported(
        path,
        size,
        difference,
        of_what,
        f"{what} (N, {', '.join(map(str, shape))}) {dtype}",
        f"{gives} (N, {expected.shape[1]}) float32",
        reader,
    )


def _expected(trained: Trained, transform: nn.Module, samples: Tensor, of_what: str) -> Tensor:
    """The run's own predictions of ``samples``."""
    # What is exported computes in the type of its weights, whatever the run was trained in.
    predictor = Predictor(trained, transform, "fp32")
    try:
        return torch.cat([predictor(part) for part in (samples[:1], samples[1:])])
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"model={trained.config.model.name} does not take {of_what}: {reason}",
            "what is exported is checked on samples: put the data of training where the run had it",
        ) from error


def _difference(expected: Tensor, found: Tensor) -> float:
    """The largest difference; of what is larger than 1, relative to it."""
    if expected.shape != found.shape:
        return float("inf")
    wide = expected.to(torch.float64)
    return float(((found.to(torch.float64) - wide).abs() / wide.abs().clamp(min=1)).max())


# ------------------------------------------------------------------ what is compared, what is told


def _samples(trained: Trained, raw: Mapping[str, Any]) -> tuple[Tensor, str]:
    """Raw samples to compare on, (at least 3, …): the data's own, or made up where it is not there."""
    try:
        data = build_data(trained.config.dataset, trained.reading)
        split = next(split for split in (data.test, data.val, data.train) if split is not None and len(split))
        found = preparing.first_samples(split, _SAMPLES).contiguous()
        described = {"shape": list(found.shape[1:]), "dtype": str(found.dtype).removeprefix("torch.")}
        if described == {"shape": list(raw["shape"]), "dtype": raw["dtype"]} and len(found) > 2:
            return found, f"{len(found)} samples of {data.name}"
        reason = "the data has changed"
    except TrainctlError as error:
        reason = str(error)
    return _made_up((64, *raw["shape"]), getattr(torch, raw["dtype"])), f"64 made-up samples ({reason})"


def _made_up(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator).to(dtype)
    # Bytes are pixels. Other whole numbers may be numbers of something, of which there are two at least.
    most = 256 if dtype == torch.uint8 else 2
    return torch.randint(0, most, shape, generator=generator).to(dtype)


def _about(trained: Trained, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader of the file needs to know, plain JSON values."""
    data, model = trained.content.state["data"], trained.config.model
    return {
        "version": 1,
        "run": trained.directory.name,
        "step": trained.step,
        "model": {"name": model.name, "arguments": model.arguments},
        "input_shape": list(trained.input_shape),
        "output_size": trained.output_size,
        "task": trained.task,
        "classes": list(trained.classes),
        "raw": dict(raw),
        "reading": dict(trained.reading),
        "transform": data.get("transform"),
        "versions": {
            "trainctl": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print, warn and log a good deal that is of no use to who called them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _whole(trained: Trained, transform: nn.Module, kind: str) -> Whole:
    if not isinstance(trained.model, nn.Module):
        name = trained.config.model.name
        raise ConfigError(
            f"--format {kind}: model={name} is plain Python, which torch cannot follow",
            "--format safetensors holds its weights; a model of torch.nn can be exported whole",
        )
    return Whole(transform, trained.model, trained.task).eval()


def _unsupported(trained: Trained, kind: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())
    reason = reason if len(reason) <= 200 else f"{reason[:199]}…"
    return ConfigError(
        f"--format {kind}: model={trained.config.model.name} cannot be exported: {type(error).__name__}:"
        f" {reason}",
        "--format safetensors holds the weights of every model; TRAINCTL_DEBUG=1 shows the traceback",
    )


# ------------------------------------------------------------------ safetensors


def _write_safetensors(
    path: Path, trained: Trained, transform: nn.Module, samples: Tensor, about: Mapping[str, Any]
) -> None:
    # As the checkpoint has them: tensors that share memory in the model are tensors of their own there.
    files.write(path, save(dict(trained.content.model), {_KEY: json.dumps(about)}))


def _run_safetensors(path: Path, trained: Trained, samples: Tensor) -> Tensor:
    """The predictions of a model that is built from the file alone."""
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()[_KEY])
    component = Component("model", about["model"]["name"], about["model"]["arguments"])
    model = build_model(component, tuple(about["input_shape"]), about["output_size"])
    model.load_state_dict(load_file(path))
    model.eval()
    transform = (
        trained.transform() if about["transform"] is None else preparing.make_transform(about["transform"])
    )
    with torch.no_grad():
        return finish(about["task"])(model(transform(samples)).float())


# ------------------------------------------------------------------ programs


def _program(whole: Whole, samples: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    # A copy: of a part the program would keep all the samples.
    return torch.export.export(
        whole, (samples[:2].clone(),), dynamic_shapes={"inputs": {0: batch}}, strict=False
    )


def _write_program(
    path: Path, trained: Trained, transform: nn.Module, samples: Tensor, about: Mapping[str, Any]
) -> None:
    whole = _whole(trained, transform, "torch")
    try:
        program = _program(whole, samples)
    except Exception as error:  # whatever a model of one's own does that cannot be followed
        raise _unsupported(trained, "torch", error) from error
    torch.export.save(program, path, extra_files={f"{_KEY}.json": json.dumps(about)})


def _run_program(path: Path, trained: Trained, samples: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = torch.export.load(path).module()(samples)
    return found


def _write_onnx(
    path: Path, trained: Trained, transform: nn.Module, samples: Tensor, about: Mapping[str, Any]
) -> None:
    whole = _whole(trained, transform, "onnx")
    try:
        program = torch.onnx.export(
            whole,
            (samples[:2].clone(),),
            dynamo=True,
            dynamic_shapes={"inputs": {0: torch.export.Dim("batch")}},
            input_names=["inputs"],
            output_names=["probabilities" if trained.task == "classification" else "values"],
            external_data=False,
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto
    except Exception as error:  # the same
        raise _unsupported(trained, "onnx", error) from error
    for key, value in {_KEY: json.dumps(about), "classes": json.dumps(list(trained.classes))}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(proto.SerializeToString())


def _run_onnx(path: Path, trained: Trained, samples: Tensor) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"inputs": numpy.ascontiguousarray(samples.numpy())})
    return torch.from_numpy(numpy.asarray(found))


def require(kind: str) -> None:
    """Raise ConfigError where the library that a format needs is not installed."""
    absent = [
        name
        for name in (("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ())
        if importlib.util.find_spec(name) is None
    ]
    if absent:
        raise ConfigError(
            f"--format {kind}: {', '.join(absent)} is not installed",
            "install it: pip install 'trainctl[onnx]'",
        )
