"""A secret that is typed, or stands in ./conf, is in no file of a run or sweep."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainctl.config.secrets import hide_typed
from trainctl.errors import ConfigError
from trainctl.runs import secrets
from trainctl.runs.secrets import masked

SECRET = "s3cr3t-VALUE-77"
FAST = ("epochs=1", "threads=1", "pictures=false", "display.mode=none", "model.name=guarded")
PLUGIN = """
import os
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("guarded")
class Guarded(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], output_size: int, token: str, address: str = ""):
        super().__init__()
        assert token == os.environ["RIGHT"], "another token"
        self.linear, self.token = nn.Linear(64, output_size), token
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == int(os.environ.get("FAILS_AT", 0)):
            raise RuntimeError(f"the server refused {self.token}")
        return self.linear(x.flatten(1))
"""


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Path("guarded.py").write_text(PLUGIN)
    monkeypatch.setenv("RIGHT", SECRET)
    yield
    _forget()


def _forget() -> None:
    """What the next process does not know."""
    secrets._references.clear()
    for name in secrets.held():
        del os.environ[name]


def _leaks(folder: str, *allowed: str) -> list[str]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert paths
    return [str(path) for path in paths if SECRET.encode() in path.read_bytes() and path.name not in allowed]


@pytest.mark.quick(3)
def test_a_typed_secret_is_in_no_file_and_is_asked_for_again(trainctl: Callable) -> None:
    words = ("plugins=[guarded.py]", f"model.token={SECRET}", f"model.address='https://me:{SECRET}@host/x'")
    outcome = trainctl(*FAST, *words, "hydra.run.dir=run")
    assert outcome.code == 0, outcome
    assert SECRET not in outcome.out + outcome.err
    assert not _leaks("run")
    assert "https://me:${oc.env:" in Path("run/config.yaml").read_text()
    assert "model.token=${oc.env:" in json.loads(Path("run/run.json").read_text())["command"]
    _forget()
    refused = trainctl("resume", "run", "epochs=2")
    assert refused.code == 2
    assert "model.token" in refused.err
    assert "TRAINCTL_SECRET_MODEL__TOKEN" in refused.err
    assert "model.address" in refused.err
    again = trainctl("resume", "run", "epochs=2", *words[1:])
    assert again.code == 0, again
    assert json.loads(Path("run/run.json").read_text())["resumed"]["changes"].keys() == {"train.epochs"}
    assert not _leaks("run")
    assert trainctl("eval", "run").code == 0
    Path("out").mkdir()
    for kind, file in (("safetensors", "out/m.safetensors"), ("torch", "out/m.pt2")):
        outcome = trainctl("export", "run", "--format", kind, "--output", file)
        assert outcome.code == 0, outcome
    assert not _leaks("out")


def test_a_secret_of_conf_is_not_copied(trainctl: Callable) -> None:
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/mine.yaml").write_text(f"name: guarded\ntoken: {SECRET}\n")
    outcome = trainctl(*FAST[:-1], "plugins=[guarded.py]", "model=mine", "hydra.run.dir=run")
    assert outcome.code == 0, outcome
    assert not _leaks("run")


def test_a_plugins_error_is_written_without_values_of_the_environment(
    trainctl: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_AT", "5")
    monkeypatch.setenv("MY_TOKEN", SECRET)
    outcome = trainctl(*FAST, "plugins=[guarded.py]", "model.token=${oc.env:MY_TOKEN}", "hydra.run.dir=run")
    assert outcome.code == 2
    assert not _leaks("run")
    assert "refused ${oc.env:MY_TOKEN}" in json.loads(Path("run/run.json").read_text())["reason"]
    assert "refused ${oc.env:MY_TOKEN}" in Path("run/train.log").read_text()


def test_a_sweep_has_no_secret_and_resumes_with_it(
    trainctl: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS_AT", "30")
    words = ("plugins=[guarded.py]", f"model.token={SECRET}", "seed=1,2", "sweep.jobs=1")
    outcome = trainctl("-m", *FAST, *words, "checkpoint.every_steps=5", "hydra.sweep.dir=sw")
    assert outcome.code == 1, outcome
    row = json.loads(Path("sw/ledger/0.json").read_text())
    assert row["exit_code"] == 2  # the contract's code of a plugin's error
    assert "refused ${oc.env:TRAINCTL_SECRET_MODEL__TOKEN}" in row["reason"]
    assert not _leaks("sw")
    _forget()
    monkeypatch.delenv("FAILS_AT")
    refused = trainctl("resume", "sw")
    assert refused.code == 2
    assert "model.token" in refused.err
    resumed = trainctl("resume", "sw", f"model.token={SECRET}")
    assert resumed.code == 0, resumed
    # From its checkpoint, not anew.
    assert json.loads(Path("sw/0/run.json").read_text())["resumed"]["step"] >= 5
    assert not _leaks("sw")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("tracker.w.api_key=abc123", "abc123"),
        ("++tracker.w.api_key='aa,bb'", "aa,bb"),
        (r"model.password=aa\,bb", "aa,bb"),
        ("model.password=123456", "123456"),
        ("model.hf_token=abcdef", "abcdef"),
        ("dataset.secret_access_key=AB/cd+", "AB/cd+"),
        ("tracker.mlflow.uri=https://me:pass@host", "pass"),
        ("tracker.mlflow.uri='https://me:pass@host'", "pass"),
    ],
)
def test_what_is_hidden(word: str, text: str) -> None:
    (hidden,) = hide_typed([word])
    assert text not in hidden
    assert "${oc.env:TRAINCTL_SECRET_" in hidden
    assert list(secrets.held().values()) == [text]
    assert masked(f"refused: {text}") != f"refused: {text}"


@pytest.mark.parametrize(
    "word",
    [
        "model.token=3",
        "model.use_token=true",
        "model.token=null",
        "model.mask_token=3",
        "model.max_tokens=128",
        "dataset.tokenizer=words",
        "model.api_key=${oc.env:MY_KEY}",
        "~model.api_key",
        "dataset.path=https://host/a@b.csv",
        "model={token: null, tokens: 3}",
        "last",
    ],
)
def test_what_is_no_secret(word: str) -> None:
    assert hide_typed([word]) == [word]
    assert not secrets.held()


def test_two_addresses_have_two_variables() -> None:
    (hidden,) = hide_typed(["model.hosts=[http://a:one1@h,http://b:two2@h]"])
    assert sorted(secrets.held().values()) == ["one1", "two2"]
    assert hidden.count("${oc.env:") == 2


@pytest.mark.parametrize(
    "words", [["-m", "model.token=a,b"], ["tracker={w: {name: w, api_key: abc}}"], ['model={"token": "abc"}']]
)
def test_what_cannot_be_hidden_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        hide_typed(words)
