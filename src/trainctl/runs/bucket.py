"""Filesystems behind URLs: whatever fsspec reaches."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from trainctl.errors import ConfigError, TrainctlError

_EXTRAS = {"s3": "bucket", "s3a": "bucket", "gs": "gcs", "gcs": "gcs"}
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
# A service that does not answer would else be waited for for minutes, at each request.
_WAITS = {"connect_timeout": 10, "read_timeout": 30}
# botocore draws its waits from Python's random numbers, which are the run's. trainctl tries again itself.
_NO_RETRIES = {"retries": {"max_attempts": 0}}


def is_url(place: object) -> bool:
    """Whether ``place`` is a URL, not a directory or a name."""
    return isinstance(place, str) and _URL.match(place) is not None


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Every error of the service within is an OSError."""
    try:
        yield
    except (OSError, TrainctlError):
        raise
    except Exception as error:  # each service's library has errors of its own
        raise OSError(f"{url}: {type(error).__name__}: {error}") from error


def connected(url: str) -> tuple[Any, str]:
    """The filesystem of a URL, and the path in it; nothing is asked of the service yet.

    Raises ConfigError for a URL that fsspec cannot open.
    """
    protocol = url.partition("://")[0]
    if (
        not is_url(url)
        or "::" in url
        or "@" in url
        or (protocol == "file" and not url.startswith("file:///"))
    ):
        raise ConfigError(
            f"{url}: is no URL of a folder on a bucket",
            "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER; credentials belong in the environment",
        )
    try:
        import fsspec
    except ImportError:
        raise ConfigError(f"{url}: needs fsspec", "pip install 'trainctl[bucket]'") from None
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if protocol in ("file", "memory"):
        options = {"auto_mkdir": True} if protocol == "file" else {}
    elif protocol in ("s3", "s3a"):
        chosen = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
        options["config_kwargs"] = {**_WAITS, **chosen, **_NO_RETRIES}
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        remedy = (
            f"pip install 'trainctl[{extra}]'" if (extra := _EXTRAS.get(protocol)) else "install that package"
        )
        raise ConfigError(f"{url}: {error}", remedy) from None
    except Exception as error:  # each service's library has errors of its own
        raise ConfigError(f"{url}: {type(error).__name__}: {error}") from error
    if not path.strip("/"):
        raise ConfigError(f"{url}: names no folder", f"{url.rstrip('/')}/FOLDER")
    return filesystem, path.rstrip("/")
