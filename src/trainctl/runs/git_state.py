"""The Git state that a run was started in: the commit, and the uncommitted changes in ``git.diff``."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from trainctl.runs import files

DIFF = "git.diff"
_LARGEST_FILE, _LARGEST_DIFF = 2**18, 2**20
_SECONDS = 10
_SECRET_NAME = re.compile(
    r"(^|/)(\.env|\.netrc|\.npmrc|\.pypirc|\.pgpass|\.htpasswd|kubeconfig|id_(rsa|dsa|ecdsa|ed25519))|"
    r"(^|/)\.(aws|ssh|kube|docker)/|\.(pem|key|p12|pfx|jks|keystore|keytab|kdbx|asc|gpg|env|tfvars|tfstate)$|"
    r"secret|credential|passw|token|api_?key|service_?-?account",
    re.IGNORECASE,
)
# Keys as their makers mark them, an assignment to a name that sounds like one (without quotes: a line's last
# word, with a digit), and an address with a password.
_SECRET_TEXT = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{10}|\bgithub_pat_\w{10}|"
    rb"\bhf_\w{20}|\bsk-\w{20}|\bxox[abpr]-\w{10}|\bAIza[\w-]{35}|://[^\s/:@]+:[^\s/@]{3,}@|"
    rb"(secret|passw(or)?d|api_?key)\w*\s*[:=]\s*(?=\S*\d)[^\s\"'$<({\[]{8,}\s*$|"
    rb"(secret|passw(or)?d|token|api_?key|credential)\w*[\"']?\s*[:=]\s*[\"'][^\"'\s]{8}",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class GitState:
    """A repository as it was.

    Attributes:
        commit: the hash of HEAD.
        diff: the uncommitted changes, at most 1 MB.
        left_out: the changed files that are not in it, each with the reason: large ones, and those that look
            like secrets.
    """

    commit: str
    diff: bytes
    left_out: tuple[str, ...]

    def store(self, directory: Path) -> dict[str, Any]:
        """Write the changes to ``directory/git.diff``; returns the entry for ``run.json``. Raises OSError."""
        if self.diff:
            files.write(directory / DIFF, self.diff)
        left_out = {"left_out": list(self.left_out)} if self.left_out else {}
        return {"commit": self.commit, "diff": DIFF if self.diff else None, **left_out}


def read_git_state() -> GitState | None:
    """The state of the current folder's repository; None outside of one."""
    try:
        commit = _git("rev-parse", "HEAD").decode().strip()
        top = Path(os.fsdecode(_git("rev-parse", "--show-toplevel").rstrip(b"\n")))
        names = [
            os.fsdecode(name)
            for name in _git("diff", "HEAD", "--no-renames", "--name-only", "-z").split(b"\0")
            if name
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    left_out = {name: reason for name in names if (reason := _excluded(top / name, name))}
    diff = _read_diff([name for name in names if name not in left_out], top, left_out)
    return GitState(commit, diff, tuple(f"{_printable(name)}: {reason}" for name, reason in left_out.items()))


def _git(*words: str, folder: Path | None = None) -> bytes:
    # A configured file system monitor would run a program; the other two change which names are listed, and
    # put the content of submodules, whose names are not, into the difference.
    safe = ("git", "-c", "core.fsmonitor=false", "-c", "diff.relative=false", "-c", "diff.submodule=short")
    done = subprocess.run([*safe, *words], capture_output=True, timeout=_SECONDS, check=True, cwd=folder)
    return done.stdout


def _excluded(path: Path, name: str) -> str:
    if _SECRET_NAME.search(name):
        return "looks like a secret"
    with contextlib.suppress(OSError):
        size = path.lstat().st_size
        if size > _LARGEST_FILE:
            return f"{size:,} bytes"
    return ""


def _read_diff(names: Sequence[str], top: Path, left_out: dict[str, str]) -> bytes:
    """The differences of these files, at most 1 MB; what does not fit or holds a key goes to ``left_out``."""
    if not names:
        return b""
    # The content of deleted files is in the commit.
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--irreversible-delete")
    try:
        text = _git("--literal-pathspecs", "diff", "HEAD", *options, "--", *names, folder=top)
    except (OSError, subprocess.SubprocessError) as error:
        left_out.update(dict.fromkeys(names, f"git diff failed ({type(error).__name__})"))
        return b""
    pieces = re.split(rb"^(?=diff --git )", text, flags=re.MULTILINE)[1:]
    # A file that has become a link, or the reverse, has two: it goes, and comes.
    each = [b"".join(group) for _, group in groupby(pieces, lambda piece: piece.partition(b"\n")[0])]
    if len(each) != len(names):
        left_out.update(dict.fromkeys(names, "the files changed meanwhile"))
        return b""
    parts, size = [], 0
    for name, part in zip(names, each, strict=True):
        if _SECRET_TEXT.search(part):
            left_out[name] = "looks like it holds a secret"
        elif len(part) > _LARGEST_FILE:
            left_out[name] = f"its difference has {len(part):,} bytes"
        elif size + len(part) > _LARGEST_DIFF:
            left_out[name] = "the diff has 1 MB without it"
        else:
            parts.append(part)
            size += len(part)
    return b"".join(parts)


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
