"""Runs a protocol over a data set, batch by batch, and writes its result: JSON, per-sample bits, a few images.

Resumes after any interruption at the check of the batch that it stopped in, and shards whole batches over the ranks of a torchrun
launch: neither changes a bit of the result.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.files import write_json
from dwf.core.fingerprint import fingerprint, sources
from dwf.core.result import Environment, Result, from_json, to_json
from dwf.core.seeds import derive, drawing
from dwf.core.types import Batch, Routed, Switched
from dwf.evaluation.check import Check, Outcome, Scope, Standing
from dwf.evaluation.parts import Arrays, Parts, read_arrays, write_arrays
from dwf.evaluation.tabulate import AnyProtocol, Subject, examples, shelf, tabulate
from dwf.evaluation.victim import Shares, Victim
from dwf.evaluation.views import Another

EXAMPLES = 12
"""Images kept with their adversarial versions, for the report."""
CODE = ("core", "data", "models", "methods", "attacks", "evaluation")
"""Parts of the package that decide what an evaluation finds."""

Watch = Callable[[int, int, Mapping[str, float]], None]
"""Told after each check of each batch: checks done, checks in all, accuracy so far by row, the latest row last."""


def file_name(protocol: AnyProtocol, overridden: Mapping[str, Any] | None = None) -> str:
    """`table3`, or `table3-eps0.02`: the tag names what differs from the protocol's own settings.

    `table3@alpha0.9`: settings of the method that were changed after training (`overridden`) follow.
    """
    tag = "".join(f"-{key}{_short(value)}" for key, value in protocol.deviations().items())
    if len(tag) > 100:  # file systems have limits, and so have readers
        tag = "-" + hashlib.sha256(tag.encode()).hexdigest()[:12]
    return protocol.kind + tag + "".join(f"@{key}{_short(value)}" for key, value in sorted((overridden or {}).items()))


def evaluate(
    model: nn.Module,
    protocol: AnyProtocol,
    batches: Sequence[Batch],
    subject: Subject,
    folder: Path,
    *,
    surrogates: Mapping[str, nn.Module] | None = None,
    precision: torch.dtype,
    compiled: bool = False,
    seed: int = 0,
    resume: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Attack `model` (eval mode, fp32 weights) on `batches` and write `folder`/<protocol>[-<tag>].json.

    `surrogates`: other models by name, for attacks that are transferred from them. `compiled`: attack
    generated code. Raises `Refused` for a model that the protocol
    cannot attack, and if that file is there already (with `resume`, a finished one with the same settings is read back instead).
    """
    name = file_name(protocol, subject.model.overridden)
    final = folder / f"{name}.json"
    identity = {
        "protocol": protocol.model_dump(mode="json"),
        "model": subject.model.model_dump(mode="json", exclude={"overridden"}),  # its settings hold the new values
        "dataset": subject.dataset.model_dump(mode="json"),
        "weights": fingerprint(model),
        "surrogates": {name: fingerprint(other) for name, other in (surrogates or {}).items()},
        "precision": str(precision).removeprefix("torch."),
        "compiled": compiled,
        "seed": seed,
        "batch": len(batches[0].y),
        "version": subject.versions[0],
        "torch": subject.versions[1],
        "device": subject.device,
        "code": (code := sources(Path(str(files("dwf"))), CODE)),
    }
    if final.exists():
        return _stored(final, identity, resume)
    victim = Victim(model, precision, seed, surrogates, compiled=compiled)
    checks = protocol.checks(_scope(victim, batches[0], subject, surrogates))
    if surrogates and not any(isinstance(getattr(check, "view", None), Another) for check in checks):
        raise Refused(f"protocol '{protocol.kind}' transfers no images from other models; leave --surrogate out, or use 'transfer'")
    rows = [row for check in checks for row in check.rows()]
    if twins := [name for name, times in Counter(row.name for row in rows).items() if times > 1]:
        raise Refused(f"protocol '{protocol.kind}' has two rows called '{twins[0]}'; give radii and temperatures that differ")
    began, started = time.monotonic(), datetime.now(UTC)
    hidden = folder / f".{name}.parts"
    if ranks.rank() == 0:
        Parts(hidden, identity, keep=resume)
    ranks.barrier()
    parts = Parts(hidden, identity, keep=True)
    tally = _Tally(watch, len(batches), len(checks))
    for number, batch in enumerate(batches):
        mine = number % ranks.world() == ranks.rank()
        _attack(victim, checks, batch, number, parts=parts, tally=tally) if mine else tally.skip()
    ranks.barrier()
    merged = _merged([_joined(parts, number, len(checks)) for number in range(len(batches))])
    ranks.barrier()  # everybody has read: rank 0 may drop the parts
    environment = Environment(
        dwf=subject.versions[0],
        code=code,
        torch=subject.versions[1],
        device=subject.device,
        threads=torch.get_num_threads(),
        precision=identity["precision"],
        compiled=compiled,
        seed=seed,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
    )
    result = tabulate(protocol, rows, merged, subject, environment)
    if ranks.rank() == 0:
        radii = {name: array for name, array in merged.items() if name.startswith("radius/")}
        kept = {**shelf(merged, "bits"), **radii, "index": merged["index"], "identity": np.array(json.dumps(identity))}
        write_arrays(final.with_suffix(".npz"), kept)
        write_arrays(final.with_suffix(".images.npz"), examples(merged, protocol.threat.eps))
        write_json(final, to_json(result))
        parts.drop()
    ranks.barrier()
    return result


def _scope(victim: Victim, batch: Batch, subject: Subject, surrogates: Mapping[str, nn.Module] | None) -> Scope:
    """What there is to attack, by asking the model about one image."""
    model = victim.module
    shares = victim.shares(batch.x) if isinstance(model, Routed) else Shares(1.0, ())
    return Scope(
        classes=len(subject.classes),
        pixels=batch.x[0].numel(),
        experts=len(shares.alone),
        every=shares.every,
        permutations=tuple(model.permutations) if isinstance(model, Switched) else (),
        surrogates=tuple(surrogates or ()),
        deviations=subject.deviations,
    )


def _attack(victim: Victim, checks: Sequence[Check], batch: Batch, number: int, *, parts: Parts, tally: _Tally) -> None:
    """Every check of one batch, each kept in a file of its own as soon as it is done.

    A random model's draws begin anew at each: they depend on neither resuming, nor sharding, nor on the caller's random numbers.
    """
    standing = Standing(batch)
    victim.bill("")
    for turn, check in enumerate(checks):
        if parts.done(number, turn):
            found = parts.read(number, turn)
        else:
            victim.bills.clear()
            with drawing(derive(victim.seed, "draws", number, turn), batch.x.device):
                outcome = check(victim, batch, standing)
                images = {**({"clean": batch.x} if turn == 0 else {}), **outcome.images}
                found = _arrays(victim, outcome) | _pictures(victim, images, keep=number == 0)
                found |= _labels(victim.module, batch) if turn == 0 else {}
            parts.write(number, turn, found)
            victim.bill("")
        standing.add(check.rows(), {name: torch.from_numpy(bits).to(batch.y.device) for name, bits in shelf(found, "bits").items()})
        tally.add(found, len(batch.y))


def _arrays(victim: Victim, outcome: Outcome) -> Arrays:
    bits: Arrays = {f"bits/{name}": value.cpu().numpy() for name, value in outcome.bits.items()}
    facts: Arrays = {f"facts/{name}": value.cpu().double().numpy() for name, value in outcome.facts.items()}
    radii: Arrays = {f"radius/{norm}": value.cpu().double().numpy() for norm, value in outcome.radii.items()}
    bills: Arrays = {f"bill/{name}": np.array([bill]) for name, bill in victim.bills.items()}
    return bits | facts | radii | bills


@torch.no_grad()
def _labels(model: nn.Module, batch: Batch) -> Arrays:
    """Which samples these are, and how far two passes over them differ."""
    repeat = float((model(batch.x) - model(batch.x)).abs().max())
    return {"index": batch.index.cpu().numpy(), "label": batch.y.cpu().numpy(), "repeat": np.array([repeat])}


@torch.no_grad()
def _pictures(victim: Victim, images: Mapping[str, Tensor], *, keep: bool) -> Arrays:
    """The gate's weights on each kind of images, and the first images themselves with their predictions."""
    arrays: Arrays = {}
    model, settled = victim.module, victim.settled.module
    for kind, x in images.items():
        if isinstance(settled, Routed):
            arrays[f"weights/{kind}"] = settled.route(x).weights.float().cpu().numpy()
        if keep:
            arrays[f"image/{kind}"] = x[:EXAMPLES].contiguous().cpu().numpy()
            arrays[f"prediction/{kind}"] = model(x[:EXAMPLES]).argmax(1).cpu().numpy()
    return arrays


def _joined(parts: Parts, number: int, checks: int) -> Arrays:
    """All checks of one batch."""
    return {name: array for turn in range(checks) for name, array in parts.read(number, turn).items()}


def _merged(batches: Sequence[Arrays]) -> Arrays:
    """All batches in order; bills are added up."""
    names = sorted({name for batch in batches for name in batch})
    joined = {name: np.concatenate([batch[name] for batch in batches if name in batch]) for name in names}
    return {name: array.sum(0) if name.startswith("bill/") else array for name, array in joined.items()}


def _stored(final: Path, identity: Mapping[str, Any], resume: bool) -> Result:
    stored = read_arrays(final.with_suffix(".npz"))
    asked = json.loads(str(stored["identity"])) if "identity" in stored else {}
    if asked != identity:
        code = {name: identity[name] for name in ("version", "code", "torch", "device")}
        other = "by other code or on another device" if {**asked, **code} == identity else "with other settings, images or weights"
        raise Refused(f"{final} holds an evaluation {other}; move it away or delete it first")
    if not resume:
        raise Refused(
            f"{final} is there already, made with the same settings; delete it to evaluate again, or add --resume to keep it"
        )
    try:
        content = json.loads(final.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise Refused(f"{final} is damaged ({error}); delete it and evaluate again") from None
    return from_json(content, where=final)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "_".join(map(_short, value)) if isinstance(value, list) else str(value)


class _Tally:
    """Accuracy so far, for whoever watches."""

    def __init__(self, watch: Watch | None, batches: int, checks: int) -> None:
        self._watch, self._total, self._checks, self._done = watch, batches * checks, checks, 0
        self._right: dict[str, int] = {}
        self._count: dict[str, int] = {}

    def skip(self) -> None:
        """A batch that another rank attacks."""
        self._done += self._checks

    def add(self, found: Arrays, count: int) -> None:
        """Count one check of one batch in."""
        self._done += 1
        for row, bits in shelf(found, "bits").items():
            self._right[row] = self._right.pop(row, 0) + int(bits.sum())  # the latest row last
            self._count[row] = self._count.get(row, 0) + count
        if self._watch is not None:
            self._watch(self._done, self._total, {row: right / self._count[row] for row, right in self._right.items()})
