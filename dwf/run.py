"""One run: where a TOML file, `--set` and the registries meet, and the folder that links the verbs."""

from __future__ import annotations

import fcntl
import os
import platform
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import nn

from dwf.core.errors import Refused
from dwf.core.files import writable, write_json
from dwf.core.overrides import override
from dwf.core.record import FOREIGN, read_record
from dwf.core.result import RUN_SCHEMA
from dwf.core.seeds import derive, drawing
from dwf.core.settings import Settings, nearest
from dwf.core.types import Spec
from dwf.data import Data, named
from dwf.evaluation.validation import Validation
from dwf.methods import AnyMethod, Free, Plain
from dwf.training.checkpoint import install, load_weights
from dwf.training.loop import Options


def _folder(name: str) -> str:
    if name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError("it also names a folder; leave out slashes, and dots at its beginning")
    return name


class Run(Settings):
    """Everything that decides what is trained. A TOML file names only the deviations from these defaults."""

    about: str = ""
    """One line for `dwf list presets`."""
    name: Annotated[str, AfterValidator(_folder)] = Field(default="run", min_length=1)
    """How tables and figures call it, and its folder where no other is named."""
    data: Data = Data()
    method: AnyMethod = Plain()
    train: Options = Options()
    validation: Validation = Validation()
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _every_replay_is_a_step(self) -> Self:
        if isinstance(self.method, Free) and self.train.accumulate > 1:
            raise ValueError(
                f"'train.accumulate' is {self.train.accumulate}, and method 'free' takes a step after every replay; "
                "set it to 1 and, if memory is short, lower 'method.recipe.batch'"
            )
        return self


def presets() -> dict[str, Path]:
    """Name -> file of the presets that come with the package."""
    folder = Path(str(files("dwf") / "presets"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def read(source: str | Path, overrides: Sequence[str] = (), *, data: str | None = None) -> Run:
    """The run of a preset's name or a TOML file, with other `data` (a name or a folder), changed by `a.b=c` texts.

    Raises `Refused` for unknown presets, unreadable files, unknown keys and wrong values.
    """
    known = presets()
    path = known.get(str(source), Path(source))
    if str(source) not in known and path.suffix != ".toml":
        raise Refused(f"'{source}' is neither a preset nor a .toml file; {nearest(str(source), list(known))}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{path} does not exist; give a .toml file or a preset: {', '.join(known)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise Refused(f"{path} is not a readable TOML file: {error}") from None
    table.setdefault("name", path.stem)
    where = table.setdefault("data", {})
    if isinstance(where, dict) and isinstance(text := data or where.get("source"), str):
        where["source"] = source_table(text)
    override(table, overrides)
    run = Run.read(table, where=str(source))
    if "method" not in table:
        raise Refused(f"{path} has no [method] and would train nothing that you named; add one, or begin with a preset's file")
    return run


def source_table(text: str) -> dict[str, Any]:
    """The data source that a name or a folder means, as a table that `--set data.source...` can reach into."""
    try:
        return named(text).model_dump(mode="json")
    except ValueError as error:
        raise Refused(str(error)) from None


def package_version() -> str:
    """Of dwf; `source` where it runs from a checkout that was never installed."""
    try:
        return version("dwf")
    except PackageNotFoundError:
        return "source"


def environment(device: torch.device, precision: str, compiled: bool = False) -> dict[str, Any]:
    """With what a result was made."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"
    return {
        "dwf": package_version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": name,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "compiled": compiled,
    }


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, the only thing that the verbs share."""

    path: Path

    @property
    def record(self) -> Path:
        """run.json: resolved settings, spec, versions."""
        return self.path / "run.json"

    @property
    def journal(self) -> Path:
        """train.jsonl."""
        return self.path / "train.jsonl"

    @property
    def weights(self) -> Path:
        """The finished model."""
        return self.path / "model.safetensors"

    @property
    def plan(self) -> Path:
        """What `dwf plan` expected of the run."""
        return self.path / "plan.json"

    @property
    def asides(self) -> Path:
        """Where phases learn that have a process of their own."""
        return self.path / "aside"

    def aside(self, phase: str) -> RunFolder:
        """What one of them needs to go on: state and journal."""
        return RunFolder(self.asides / phase)

    @property
    def evaluations(self) -> Path:
        """Where result files go."""
        return self.path / "eval"

    def describe(self) -> dict[str, Any]:
        """The content of run.json; raises `Refused` for a missing folder, a folder that is no run, and another schema."""
        return read_record(self.path)

    def claim(self, run: Run, spec: Spec, about: Mapping[str, Any], *, resume: bool) -> None:
        """Write run.json, or check that a run that is to be resumed has the same settings."""
        settings = run.model_dump(mode="json")
        # Asked before the record is looked for: who claims the same run at the same time writes its record first.
        parts = any((self.path / name).exists() for name in ("state", "aside", "phases", "train.jsonl", "model.safetensors"))
        # A log or a note may lie there; what has folders of its own is somebody's pictures, a sweep or what an attack made.
        foreign = [item.name for item in sorted(self.path.glob("[!.]*")) if item.is_dir()]
        if self.record.exists():
            if not resume:
                raise Refused(f"{self.path} already holds a run; add --resume to continue it or choose another folder with --out")
            stored = self.describe()
            if changed := differences(stored["settings"], settings):
                raise Refused(
                    f"{self.path} was started with other settings ({changed[0]}); resume with the same, or use another --out"
                )
            if (before := stored["data"].get("sha256")) != (now := about["data"]["sha256"]):
                raise Refused(
                    f"{self.path} was started on other images (sha256 {str(before)[:8]}, now {now[:8]}); put those back, or use "
                    "another --out"
                )
            return
        if parts:
            raise Refused(
                f"{self.path} holds parts of a run without its run.json; restore that file or choose another folder with --out"
            )
        if foreign:
            raise Refused(f"{self.path} is no run and holds {foreign[0]}; choose another folder with --out")
        record = {
            "schema": RUN_SCHEMA,
            "name": run.name,
            "settings": settings,
            "seed": run.seed,
            "spec": spec.model_dump(mode="json"),
        }
        write_json(self.record, {**record, **about})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes here meanwhile; raises `Refused` if somebody does. The lock dies with the process."""
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(
                    f"another process is writing to {self.path}; wait for it or choose another folder with --out"
                ) from None
            yield
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Loaded:
    """A trained model with what is known about it."""

    model: nn.Module
    """In eval mode, fp32, channels_last: (B, C, H, W) in [0, 1] -> logits."""
    run: Run
    spec: Spec
    folder: RunFolder
    """Where its evaluations go: the run's folder, or that of the phase."""


def load(folder: Path | str, device: torch.device | str = "cpu", phase: str | None = None) -> Loaded:
    """The trained model of a run folder, or what one of its phases made, by itself (an expert before the joint phase).

    Raises `Refused` if it is missing, unfinished, damaged or of another schema.
    """
    place = RunFolder(Path(folder))
    record = place.describe()
    method = record["settings"].get("method")
    if isinstance(method, dict) and method.get("kind") == FOREIGN:
        raise Refused(f"{place.path} holds evaluations of {method.get('model')}, but not its weights; give --model again")
    run = Run.read(record["settings"], where=str(place.record))
    spec = Spec.read(record["spec"], where=str(place.record))
    model = build(run, spec, torch.device(device))
    weights = place.weights
    if phase is not None:
        subjects = {one.name: one.subject for one in run.method.phases(model)}
        if phase not in subjects:
            raise Refused(f"{place.path} has no phase '{phase}'; {nearest(phase, list(subjects))}")
        model, place = subjects[phase], RunFolder(place.path / "phases" / phase)
        weights = place.weights
    if not weights.exists():
        raise Refused(f"{place.path} is not trained to the end: it has no {weights.name}; go on with dwf train and --resume")
    install(model, load_weights(weights), weights)
    return Loaded(model.eval(), run, spec, place)


def build(run: Run, spec: Spec, device: torch.device, *, fetch: bool = False) -> nn.Module:
    """The freshly initialised model of a run: the same for the same seed, whatever was drawn before.

    `fetch`: with the maker's weights where the settings ask for pretrained nets; only training begins with them, and elsewhere the
    hub may be out of reach.
    """
    if not fetch:
        run = Run.read(_nothing_to_fetch(run.model_dump(mode="json")))
    with drawing(derive(run.seed, "weights"), torch.device("cpu")):
        model = run.method.model(spec)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _nothing_to_fetch(settings: Any) -> Any:
    """Settings as JSON values, with every `pretrained` false."""
    if isinstance(settings, list):
        return [_nothing_to_fetch(one) for one in settings]
    if not isinstance(settings, dict):
        return settings
    return {key: False if key == "pretrained" else _nothing_to_fetch(value) for key, value in settings.items()}


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The first differing settings, as `path: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for key in {**old, **new} for d in differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))]
    return [] if old == new else [f"{path}: {old} -> {new}"]
