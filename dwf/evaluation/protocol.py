"""Runs a protocol over a data set, batch by batch, and writes its result: JSON, per-sample bits, a few images.

Resumes after any interruption, and shards whole batches over the ranks of a torchrun launch: neither changes a bit of the result.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.files import write_json
from dwf.core.result import Environment, Result, from_json, to_json
from dwf.core.types import Batch, Routed
from dwf.evaluation.check import Check, Victim
from dwf.evaluation.parts import Arrays, Parts, read_arrays, write_arrays
from dwf.evaluation.tabulate import AnyProtocol, Subject, examples, tabulate

EXAMPLES = 12
"""Images kept with their adversarial versions, for the report."""


Watch = Callable[[int, int, Mapping[str, float]], None]
"""Told after each batch: batches done, batches in all, accuracy so far by row."""


def file_name(protocol: AnyProtocol) -> str:
    """`table3`, or `table3-eps0.02`: the tag names what differs from the protocol's own settings."""
    tag = "".join(f"-{key}{_short(value)}" for key, value in protocol.deviations().items())
    if len(tag) > 100:  # file systems have limits, and so have readers
        tag = "-" + hashlib.sha256(tag.encode()).hexdigest()[:12]
    return protocol.kind + tag


def evaluate(
    model: nn.Module,
    protocol: AnyProtocol,
    batches: Sequence[Batch],
    subject: Subject,
    folder: Path,
    *,
    precision: torch.dtype,
    seed: int = 0,
    resume: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Attack `model` (eval mode, fp32 weights) on `batches` and write `folder`/<protocol>[-<tag>].json.

    Raises `Refused` if that file is there already (with `resume`, a finished one with the same settings is read back instead).
    """
    final = folder / f"{file_name(protocol)}.json"
    identity = {
        "protocol": protocol.model_dump(mode="json"),
        "model": subject.model.model_dump(mode="json"),
        "dataset": subject.dataset.model_dump(mode="json"),
        "weights": fingerprint(model),
        "precision": str(precision).removeprefix("torch."),
        "seed": seed,
        "batch": len(batches[0].y),
    }
    if final.exists():
        return _stored(final, identity, resume)
    began, started = time.monotonic(), datetime.now(UTC)
    hidden = folder / f".{file_name(protocol)}.parts"
    if ranks.rank() == 0:
        Parts(hidden, identity, keep=resume)
    ranks.barrier()
    parts = Parts(hidden, identity, keep=True)
    victim, checks = Victim(model, precision, seed), protocol.checks()
    tally = _Tally(watch, len(batches))
    for number, batch in enumerate(batches):
        if number % ranks.world() == ranks.rank() and not parts.done(number):
            parts.write(number, _attack(victim, checks, batch, keep_images=number == 0))
        if parts.done(number):
            tally.add(parts.read(number))
    ranks.barrier()
    merged = _merged([parts.read(number) for number in range(len(batches))])
    ranks.barrier()  # everybody has read: rank 0 may drop the parts
    rows = [row for check in checks for row in check.rows()]
    environment = Environment(
        dwf=subject.versions[0],
        torch=subject.versions[1],
        device=subject.device,
        threads=torch.get_num_threads(),
        precision=identity["precision"],
        seed=seed,
        started=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
    )
    result = tabulate(protocol, rows, merged, subject, environment)
    if ranks.rank() == 0:
        kept = {name: array for name, array in merged.items() if name.startswith("bits/") or name == "index"}
        bits = {name.removeprefix("bits/"): array for name, array in kept.items()}
        write_arrays(final.with_suffix(".npz"), {**bits, "identity": np.array(json.dumps(identity))})
        write_arrays(final.with_suffix(".images.npz"), examples(merged, protocol.threat.eps))
        write_json(final, to_json(result))
        parts.drop()
    ranks.barrier()
    return result


def fingerprint(model: nn.Module) -> str:
    """A checksum of the weights, so that an evaluation never goes on with another model."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _attack(victim: Victim, checks: Sequence[Check], batch: Batch, *, keep_images: bool) -> Arrays:
    """Everything that one batch gives, as arrays."""
    victim.bills.clear()
    victim.bill("")
    bits: dict[str, Tensor] = {}
    kinds: dict[str, Tensor] = {"clean": batch.x}
    for check in checks:
        outcome = check(victim, batch)
        bits |= outcome.bits
        kinds |= outcome.images
    arrays: Arrays = {f"bits/{name}": value.cpu().numpy() for name, value in bits.items()}
    arrays |= {f"bill/{name}": np.array([bill]) for name, bill in victim.bills.items()}
    arrays |= {"index": batch.index.cpu().numpy(), "label": batch.y.cpu().numpy()}
    model = victim.original.model
    with torch.no_grad():
        arrays["repeat"] = np.array([float((model(batch.x) - model(batch.x)).abs().max())])
        for kind, x in kinds.items():
            if isinstance(model, Routed):
                arrays[f"weights/{kind}"] = model.route(x).weights.float().cpu().numpy()
            if keep_images:
                arrays[f"image/{kind}"] = x[:EXAMPLES].contiguous().cpu().numpy()
                arrays[f"prediction/{kind}"] = model(x[:EXAMPLES]).argmax(1).cpu().numpy()
    return arrays


def _merged(parts: Sequence[Arrays]) -> Arrays:
    """All batches in order; bills are added up."""
    names = sorted({name for part in parts for name in part})
    joined = {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}
    return {name: array.sum(0) if name.startswith("bill/") else array for name, array in joined.items()}


def _stored(final: Path, identity: Mapping[str, Any], resume: bool) -> Result:
    stored = read_arrays(final.with_suffix(".npz"))
    if "identity" not in stored or json.loads(str(stored["identity"])) != identity:
        raise Refused(f"{final} holds an evaluation with other settings, images or weights; move it away or delete it first")
    if not resume:
        raise Refused(
            f"{final} is there already, made with the same settings; delete it to evaluate again, or add --resume to keep it"
        )
    return from_json(json.loads(final.read_text()), where=final)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "_".join(map(_short, value)) if isinstance(value, list) else str(value)


class _Tally:
    """Accuracy so far, for whoever watches."""

    def __init__(self, watch: Watch | None, total: int) -> None:
        self._watch, self._total, self._done = watch, total, 0
        self._right: dict[str, int] = {}
        self._count = 0

    def add(self, part: Arrays) -> None:
        """Count one batch in."""
        self._done += 1
        self._count += len(part["index"])
        for name, bits in part.items():
            if name.startswith("bits/"):
                row = name.removeprefix("bits/")
                self._right[row] = self._right.get(row, 0) + int(bits.sum())
        if self._watch is not None:
            self._watch(self._done, self._total, {row: right / self._count for row, right in self._right.items()})
