"""`dwf` in this process, and what to try it on: a trained run, and a package from elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_words import Dwf, Said
from foreign_package import PACKAGE

from dwf import cli, train
from dwf.data import Data, Digits
from dwf.evaluation.validation import Validation
from dwf.methods import Plain
from dwf.models import ResNet
from dwf.run import Run
from dwf.training.optim import Recipe


@pytest.fixture
def dwf(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Dwf:
    """Runs `dwf words...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["dwf", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code is None or isinstance(end.value.code, int)
        return Said(end.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def refused(dwf: Dwf) -> Callable[..., str]:
    """The one sentence with which `dwf words...` must end."""

    def run(*words: object) -> str:
        code, _, err = dwf(*words)
        assert code == 2, err
        assert err.startswith("dwf: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        return err.removeprefix("dwf: ").strip()

    return run


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    run = Run(
        name="tiny",
        data=Data(source=Digits(size=8), limit=200, crop=1, flip=False),
        method=Plain(backbone=ResNet(depth=10, width=2), recipe=Recipe(epochs=2, batch=50)),
        validation=Validation(samples=20, steps=1),
    )
    train(run, folder, device="cpu")
    return folder


@pytest.fixture
def run_folder(_trained: Path, tmp_path: Path) -> Path:
    """A trained run of one's own, to be damaged at will."""
    return shutil.copytree(_trained, tmp_path / "mine")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A third-party package in the folder where the command is given; fresh for every test."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("")
    (tmp_path / "theirs" / "nets.py").write_text(PACKAGE)
    (tmp_path / "theirs" / "sick.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "theirs"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path
