"""A trained model as one file, checked by loading it with its own library before it gets its name."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from trainctl import __version__
from trainctl.components.tasks._base import task_named
from trainctl.config.settings import Component
from trainctl.data.inputs import Inputs, are_positions, made_shape, parts_of, plain_shape, shown_shape
from trainctl.data.preprocessing import describe_samples, first_samples, make_transform, shown
from trainctl.data.readout import RAW, Readout
from trainctl.errors import ConfigError, StorageError, TrainctlError
from trainctl.inference.pipeline import Pipeline
from trainctl.inference.predict import Predictor
from trainctl.inference.trained_run import Trained
from trainctl.runs import files
from trainctl.training.construct import build_model
from trainctl.training.prepare_data import build_data

TOLERANCE = 1e-5
_SAMPLES = 256
_KEY = "trainctl"


class OfSeveral(nn.Module):
    """A pipeline whose samples have several inputs, as arguments.

    Shape: raw samples (N, *raw) of each → as the pipeline's.
    """

    def __init__(self, pipeline: Pipeline, names: Sequence[str]) -> None:
        super().__init__()
        self.pipeline, self.names = pipeline, names

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.pipeline(Inputs(dict(zip(self.names, inputs, strict=True))))
        return found


@dataclass(frozen=True)
class Exported:
    """The file that was written.

    Attributes:
        path, size: the file and its bytes.
        difference: the largest one between its predictions and the run's.
        samples: the samples they were compared on.
        inputs, outputs: their shapes and types.
        read_by: the library that read it back.
    """

    path: Path
    size: int
    difference: float
    samples: str
    inputs: str
    outputs: str
    read_by: str


@dataclass(frozen=True)
class _Content:
    """The parts of a file, and two batches of raw samples to check it with."""

    trained: Trained
    transform: nn.Module
    batches: tuple[Tensor, Tensor]
    json: str


def export(trained: Trained, kind: str, path: Path) -> Exported:
    """Write the model of ``trained``, on the CPU, to ``path`` in the format ``kind``, and check it.

    The file is written under a temporary name, loaded by its own library, and compared with the run's
    predictions on samples of the run's data; then it is renamed.

    Raises ConfigError for a model that the format cannot hold and where its library is not installed,
    TrainctlError (exit 1) where the predictions differ, StorageError where the file cannot be written.
    """
    raw, form = trained.raw_sample(), _FORMATS[kind]
    samples, described = _samples(trained, raw)
    # Two batches, because a file that takes only one batch size would be of no use.
    batches = samples[:1], samples[1:]
    content = _Content(trained, trained.transform(), batches, json.dumps(_metadata(trained, raw)))
    expected = _expected(content, described)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with _quiet():
            files.write(temporary, form.encode(content))
            found = torch.cat([_run(form, temporary, content, batch) for batch in batches])
        difference = _difference(expected, found, trained.readout)
        if not difference <= TOLERANCE:
            raise TrainctlError(
                f"the exported file's predictions differ from the run's by up to {difference:.1e}",
                f"at most {TOLERANCE:.0e} is allowed; the file was deleted",
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
    if kind == "safetensors":
        takes = f"model inputs {shown_shape(trained.input_shape)} float32"
        gives = "outputs" if trained.readout.mean is None else "outputs in the loss's unit"
    else:
        takes, gives = f"raw samples {shown(raw, 'N')}", trained.task.predictions
    dtype = "float64" if kind != "safetensors" and found.dtype == torch.float64 else "float32"
    outputs = f"{gives} (N, {', '.join(map(str, expected.shape[1:]))}) {dtype}"
    return Exported(path, size, difference, described, takes, outputs, form.reader)


def _run(form: _Format, path: Path, content: _Content, batch: Tensor) -> Tensor:
    """The predictions of the file. Raises ConfigError where it does not run, as with another batch size."""
    try:
        return form.run(path, content, batch.clone())  # a model may write into its inputs
    except (OSError, TrainctlError):
        raise
    except Exception as error:  # each library has errors of its own
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"model={content.trained.config.model.name} cannot be exported: the file does not run with"
            f" {len(batch)} samples: {reason}",
            "a model must not fix the batch size: len(x) and int(x.shape[0]) do; use x.shape[0] or -1",
        ) from error


def _expected(content: _Content, described: str) -> Tensor:
    """The run's own predictions of the samples."""
    # The file computes in the type of its weights, whatever the training precision.
    predictor = Predictor(content.trained, content.transform, "fp32")
    try:
        return torch.cat([predictor(batch.clone()) for batch in content.batches])
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"model={content.trained.config.model.name} does not accept {described}: {reason}",
            "an export is checked on samples: put the training data where the run had it",
        ) from error


def _difference(expected: Tensor, found: Tensor, readout: Readout = RAW) -> float:
    """The largest difference in the unit of the loss, relative for values above 1."""
    if expected.shape != found.shape:
        return float("inf")
    wide, other = (readout.scaled(each.to(torch.float64)) for each in (expected, found))
    return float(((other - wide).abs() / wide.abs().clamp(min=1)).max())


def _samples(trained: Trained, raw: Mapping[str, Any]) -> tuple[Tensor, str]:
    """Raw samples to compare on, (at least 3, …): the dataset's, or random ones where it is missing."""
    try:
        data = build_data(trained.config.dataset, trained.reading)
        split = next(split for split in (data.test, data.val, data.train) if split is not None and len(split))
        found = first_samples(split, _SAMPLES).contiguous()
        if describe_samples(found) == dict(raw) and len(found) > 2:
            return found, f"{len(found)} samples of {data.name}"
        reason = "the data has changed"
    except TrainctlError as error:
        reason = str(error)
    return _random(raw), f"64 random samples ({reason})"


def _random(raw: Mapping[str, Any]) -> Any:
    if isinstance(raw["shape"], dict):
        return Inputs({name: _random({key: raw[key][name] for key in raw}) for name in raw["shape"]})
    shape, dtype = (64, *raw["shape"]), getattr(torch, raw["dtype"])
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point or dtype.is_complex:
        samples = torch.randn(shape, generator=generator)
    else:
        # Bytes are pixels. Other integers may be indices, of which there are two at least.
        samples = torch.randint(0, 256 if dtype == torch.uint8 else 2, shape, generator=generator)
    return samples.to(dtype)


def _metadata(trained: Trained, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The description of the model's inputs and outputs, as plain JSON values."""
    model = trained.config.model
    return {
        "version": 2,
        "run": trained.directory.name,
        "step": trained.step,
        "model": {"name": model.name, "arguments": model.arguments},
        "input_shape": plain_shape(trained.input_shape),
        "output_size": trained.output_size,
        "task": trained.task.name,
        "classes": list(trained.classes),
        "raw": dict(raw),
        "reading": dict(trained.reading),
        "transform": trained.content.state["data"].get("transform"),
        "output": trained.readout.output,
        "target_scale": trained.readout.described(),
        "versions": {
            "trainctl": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the output, warnings and logs of the exporters."""
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


def require(kind: str) -> None:
    """Raise ConfigError where the library that a format needs is not installed."""
    needed = ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ()
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"--format {kind}: {', '.join(absent)} is not installed",
            "install it: pip install 'trainctl[onnx]'",
        )


def _encode_safetensors(content: _Content) -> bytes:
    # From the checkpoint, where tensors that share memory in the model have been separated.
    return save(dict(content.trained.content.model), {_KEY: content.json})


def _run_safetensors(path: Path, content: _Content, samples: Tensor) -> Tensor:
    """The predictions of a model that is built from the file alone."""
    with safe_open(path, framework="pt") as stored:
        about = json.loads(stored.metadata()[_KEY])
    component = Component("model", about["model"]["name"], about["model"]["arguments"])
    model = build_model(component, made_shape(about["input_shape"]), about["output_size"], pretrained=False)
    model.load_state_dict(load_file(path))
    model.eval()
    described = about["transform"]
    transform = content.trained.transform() if described is None else make_transform(described)
    readout = Readout.made(about["output"], about["target_scale"])
    with torch.no_grad():
        return task_named(about["task"]).predict(readout(model(transform(samples)).float()))


def _program(content: _Content, kind: str, export: Callable[..., Any]) -> Any:
    """The pipeline as ``export`` traces it, for batches of any size."""
    trained = content.trained
    name = trained.config.model.name
    if not isinstance(trained.model, nn.Module):
        raise ConfigError(
            f"--format {kind}: model={name} is plain Python, which torch cannot trace",
            "use --format safetensors for its weights; a torch.nn model can be exported whole",
        )
    pipeline = Pipeline(content.transform, trained.model, trained.readout.for_programs(), trained.task).eval()
    # A copy: the program would keep the whole tensor that a view belongs to.
    batch, rows = content.batches[1][:2].clone(), {0: torch.export.Dim("batch")}
    several = OfSeveral(pipeline, list(batch.parts)) if isinstance(batch, Inputs) else None
    arguments = tuple(parts_of(batch))
    shapes = {"inputs": rows if several is None else tuple(rows for _ in arguments)}
    try:
        return export(several or pipeline, arguments, dynamic_shapes=shapes)
    except Exception as error:  # a custom model may fail in any way when it is traced
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 200 else f"{reason[:199]}…"
        raise ConfigError(
            f"--format {kind}: model={name} cannot be exported: {type(error).__name__}: {reason}",
            "use --format safetensors for its weights; TRAINCTL_DEBUG=1 shows the traceback",
        ) from error


def _encode_program(content: _Content) -> bytes:
    export = partial(torch.export.export, strict=False)
    buffer = io.BytesIO()
    torch.export.save(_program(content, "torch", export), buffer, extra_files={f"{_KEY}.json": content.json})
    return buffer.getvalue()


def _run_program(path: Path, content: _Content, samples: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = torch.export.load(path).module()(*parts_of(samples))
    return found


def _encode_onnx(content: _Content) -> bytes:
    export = partial(
        torch.onnx.export,
        dynamo=True,
        input_names=_input_names(content.batches[0]),
        output_names=[content.trained.task.predictions],
        external_data=False,
        verbose=False,
    )
    proto = _program(content, "onnx", export).model_proto
    for key, value in {_KEY: content.json, "classes": json.dumps(list(content.trained.classes))}.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    encoded: bytes = proto.SerializeToString()
    return encoded


def _input_names(samples: Any) -> list[str]:
    """The names of the program's inputs; those of positions are input_0, input_1 …"""
    if not isinstance(samples, Inputs):
        return ["inputs"]
    return [f"input_{name}" if are_positions(samples.parts) else name for name in samples.parts]


def _run_onnx(path: Path, content: _Content, samples: Tensor) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    arrays = (numpy.ascontiguousarray(part.numpy()) for part in parts_of(samples))
    (found,) = session.run(None, dict(zip(_input_names(samples), arrays, strict=True)))
    return torch.from_numpy(numpy.asarray(found))


@dataclass(frozen=True)
class _Format:
    """How a file is made, and run to check it; ``reader`` names the library."""

    suffix: str
    encode: Callable[[_Content], bytes]
    run: Callable[[Path, _Content, Tensor], Tensor]
    reader: str


_FORMATS = {
    "safetensors": _Format(
        ".safetensors", _encode_safetensors, _run_safetensors, "safetensors, into a new model"
    ),
    "torch": _Format(".pt2", _encode_program, _run_program, "torch.export.load"),
    "onnx": _Format(".onnx", _encode_onnx, _run_onnx, "onnxruntime"),
}
FORMATS = {kind: form.suffix for kind, form in _FORMATS.items()}
"""The suffix of each format."""
