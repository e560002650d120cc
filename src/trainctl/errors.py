"""Every error a user can cause, with its exit code.

Exit codes, the same for every command: 0 done, 1 some jobs of a sweep failed, verify found a difference,
replay could not repeat the step, overfit_batches were not learned, tune found no learning rate, or an
internal error, 2 usage, config or shape error, 3 unsafe input refused, 4 no usable checkpoint, 5 disk or I/O,
6 loss or gradients not finite, 7 run directory already taken, 8 data worker or rank died or hung, 130
interrupted, 143 terminated.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what was given and why it will not do, then what to type instead."""

    message: str
    remedy: str = ""


class TrainctlError(Exception):
    """An error with an exit code and one or more problems, each shown in one or two lines."""

    exit_code = 1
    status = "failed"

    def __init__(self, problems: str | Problem | Sequence[Problem], remedy: str = "") -> None:
        if isinstance(problems, str):
            problems = Problem(problems, remedy)
        self.problems: tuple[Problem, ...] = (
            (problems,) if isinstance(problems, Problem) else tuple(dict.fromkeys(problems))
        )
        super().__init__("; ".join(problem.message for problem in self.problems))
        for problem in self.problems:
            if problem.remedy:
                self.add_note(problem.remedy)  # Python shows it below the message


class ConfigError(TrainctlError):
    """Usage, config, data or shape error: nothing was trained."""

    exit_code = 2


class MissingDataError(ConfigError):
    """A dataset's files are not where they were looked for.

    ``stand_in`` describes data of the same shape, so that a smoke run can still train the config: arguments
    of the ``synthetic`` dataset, or of that which its ``dataset`` names. A dataset of files gives ``make``
    instead: given a folder, the dataset's arguments and a number of samples, it writes such files there, and
    returns the dataset's ``path``.
    """

    def __init__(
        self,
        message: str,
        remedy: str,
        stand_in: dict[str, object],
        make: Callable[[Path, Mapping[str, Any], int], Path] | None = None,
    ) -> None:
        super().__init__(message, remedy)
        self.stand_in, self.make = stand_in, make


class UnsafeInputError(TrainctlError):
    """The input asks for something that could run code: refused."""

    exit_code = 3


class CheckpointError(TrainctlError):
    """No usable checkpoint."""

    exit_code = 4


class StorageError(TrainctlError):
    """Disk full, no permission, or another I/O failure."""

    exit_code = 5


class NotFiniteError(TrainctlError):
    """The loss is NaN or infinite."""

    exit_code = 6


class DirectoryTakenError(TrainctlError):
    """The run directory that was named already holds a run."""

    exit_code = 7


class WorkerError(TrainctlError):
    """A process that loads data died, or gave nothing in time."""

    exit_code = 8


class RankError(TrainctlError):
    """One of several processes of a run died, or hangs."""

    exit_code = 8


class NotLearnedError(TrainctlError):
    """Training on a few batches did not learn them."""

    exit_code = 1


class NoLearningRateError(TrainctlError):
    """A range test found no learning rate at which the loss falls."""

    exit_code = 1


class LauncherError(TrainctlError):
    """A launcher of Hydra's gave up; what its jobs did stands in the ledger."""

    exit_code = 1


class InterruptedRunError(TrainctlError):
    """Ctrl-C: the run was saved and stopped."""

    exit_code = 130
    status = "interrupted"


class TerminatedRunError(TrainctlError):
    """SIGTERM: the run was saved and stopped."""

    exit_code = 143
    status = "terminated"


_STORAGE_REMEDY = {
    errno.ENOSPC: "free some disk space, or put the run elsewhere with hydra.run.dir=DIR",
    errno.EDQUOT: "free some of the quota, or put the run elsewhere with hydra.run.dir=DIR",
    errno.EACCES: "put the run elsewhere with hydra.run.dir=DIR, or change the permissions",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files: ulimit -n 1024"),
    errno.EROFS: "the file system is read-only: put the run elsewhere with hydra.run.dir=DIR",
}


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""What a disk says, whoever asks it."""


def storage_error(error: OSError, doing: str) -> StorageError:
    """An OSError met while ``doing`` something, as the error a user reads (exit 5)."""
    where = f" {error.filename}" if error.filename else ""
    reason = error.strerror or str(error)
    remedy = _STORAGE_REMEDY.get(error.errno or 0, "put the run elsewhere with hydra.run.dir=DIR")
    return StorageError(f"{doing} failed:{where} {reason}", remedy)


def lacks_memory(error: BaseException) -> bool:
    """Whether there was too little memory, also for the libraries of torch."""
    return isinstance(error, MemoryError) or (
        isinstance(error, ImportError) and "shared object" in str(error)
    )


_GRADIENTS = {
    "modified by an inplace operation": (
        "the gradient needs a tensor that the model or the loss has changed in place",
        "write x * 2 instead of x.mul_(2), or change a copy: x.clone()",
    ),
    "backward through the graph a second time": (
        "the loss depends on a tensor of the step before, which the model or the loss has kept",
        "keep it without its gradient: x.detach()",
    ),
}


def gradient_error(error: BaseException) -> TrainctlError | None:
    """torch's refusal to compute gradients as the error a user reads (exit 2), or None."""
    found = [told for said, told in _GRADIENTS.items() if said in str(error)]
    return ConfigError(*found[0]) if isinstance(error, RuntimeError) and found else None


def memory_error(error: BaseException) -> ConfigError | None:
    """A lack of memory, of a device or of the machine: the error a user reads (exit 2), or None."""
    asked = re.search(r"DefaultCPUAllocator: .*tried to allocate (\d+) bytes", str(error))
    if asked or isinstance(error, MemoryError):
        amount = f": {int(asked[1]) / 1e6:,.0f} MB more are needed" if asked else ""
        remedy = "see ulimit -v, or use a machine with more; train.micro_batch=N computes batches in pieces"
        return ConfigError(f"there is not enough memory{amount}", remedy)
    if type(error).__name__ != "OutOfMemoryError":
        return None
    reason = ". ".join(str(error).partition("\n")[0].split(". ")[:2])
    remedy = (
        "train.micro_batch=N computes batches in pieces of N samples, for the same steps; auto finds the N of"
        " training steps"
    )
    return ConfigError(f"the device has not enough memory: {reason}", remedy)


def torch_error(error: BaseException) -> TrainctlError | None:
    """What torch says of memory, of a missing gradient or of a kernel, as the error a user reads;
    None for any other error."""
    return memory_error(error) or gradient_error(error) or assertion_error(error)


def assertion_error(error: BaseException) -> ConfigError | None:
    """A failed assertion of a kernel as the error a user reads (exit 2), or None."""
    if "device-side assert" not in str(error):
        return None
    return ConfigError(
        "the GPU refused an operation (device-side assert): a number is outside of what it may choose from,"
        " such as a class or a token",
        "the same command with device=cpu says which",
    )


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like ``word``, or None when nothing is close."""
    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, candidates: Iterable[str], prefix: str = "") -> str:
    """The start of a remedy, ``did you mean PREFIX+NAME? ``; empty when no candidate is close."""
    close = nearest(word, candidates)
    return f"did you mean {prefix}{close}? " if close else ""


def signal_behind(error: BaseException | None) -> BaseException | None:
    """The KeyboardInterrupt, or its like, that became ``error`` in a library; None where it is none."""
    while isinstance(error, Exception):
        error = error.__cause__ or error.__context__
    return error
