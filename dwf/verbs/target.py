"""Which evaluation the words of `dwf evaluate` mean: that of a run, or that of a model from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dwf.core.errors import Refused
from dwf.core.result import Result
from dwf.verbs.evaluate import evaluate
from dwf.verbs.finding import name_of
from dwf.verbs.foreign import evaluate_module


def target(
    run: Path | None, model: str | None, data: str | None, of_run: Mapping[str, Any], of_model: Mapping[str, Any]
) -> tuple[Path, Callable[..., Result]]:
    """(the folder that will hold the result, the call that makes it but for what both evaluations have in common).

    `of_run`: phase, split, compile. `of_model`: weights, mean, std, out; None where not given. Raises `Refused` unless exactly one
    of `run` and `model` is given, with options that are its own.
    """
    if (run is None) == (model is None):
        raise Refused(
            f"{'neither' if run is None else 'both'} a run folder {'nor' if run is None else 'and'} a model was given; evaluate "
            "one of the two, as in: dwf evaluate RUN, or: dwf evaluate --model package.module:factory --data cifar10"
        )
    if run is not None:
        if wrong := [option for option, value in of_model.items() if value is not None]:
            raise Refused(f"--{wrong[0]} is for a model from elsewhere, and {run} is a run folder; leave it out or give --model")
        return run, partial(evaluate, run, data=data, **of_run)
    assert model is not None
    usual = {"phase": None, "split": "test", "compile": "auto"}
    if wrong := [option for option, value in of_run.items() if value != usual[option]]:
        raise Refused(f"--{wrong[0]} is for a run that was trained here, which '{model}' was not; leave it out")
    if data is None:
        raise Refused(f"'{model}' does not know its data; name the data set or its folder with --data")
    mean, std = _numbers("mean", of_model["mean"]), _numbers("std", of_model["std"])
    folder = of_model["out"] or Path("runs") / name_of(model)
    return folder, partial(evaluate_module, model, data=data, weights=of_model["weights"], mean=mean, std=std, out=folder)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError:
        raise Refused(f"--{option} '{text}' is not a list of numbers, one a channel, such as .49,.48,.45") from None
