"""Decode once, then read tensors, so that later runs start without torchvision."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def cached(
    cache: Path, sources: Sequence[Path], decode: Callable[[], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], str]:
    """The tensors in ``cache`` if it was made from exactly these source files, else those of ``decode``.

    Source files are compared by name, size and modification time. Returns the tensors and a note on their
    source, which also says when the cache cannot be written: then the next run decodes again.
    """
    stamp = json.dumps([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sources])
    if cache.is_file():
        try:
            with safe_open(cache, framework="pt") as stored:
                if (stored.metadata() or {}).get("sources") == stamp:
                    return load_file(cache), "cached"
        except (SafetensorError, OSError):
            pass  # a torn or foreign file is replaced below
    tensors = decode()
    temporary = cache.with_name(f".{cache.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata={"sources": stamp})
        # safetensors makes private files; the cache gets the source files' permissions.
        temporary.chmod(sources[0].stat().st_mode & 0o666 if sources else 0o644)
        temporary.replace(cache)
    except (SafetensorError, OSError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = str(error).partition("\n")[0]
        return tensors, f"decoded; not cached: {reason}"
    return tensors, f"decoded and cached in {cache}"
