"""Latency and throughput of a finished mixture by batch: PyTorch in fp32, folded in bf16, as generated code, and onnxruntime.

Random weights and images; all four answer the same images, and the largest difference of a logit from the first is told. The graph
for onnxruntime is exported here with a batch of any size.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial

import onnxruntime
import torch
from harness import alternate, arguments, publish, spread
from steps import CPU, dwf, images, spec
from torch import Tensor, nn

from dwf.models import AttackCopy
from dwf.models.compiled import can_compile, compile_nets
from dwf.models.inference import attack_precision

Answer = Callable[[Tensor], Tensor]
BATCHES = (1, 8, 64, 256)


def exported(model: nn.Module, x: Tensor) -> Answer:
    """`model` under onnxruntime, on as many threads as PyTorch has."""
    file = io.BytesIO()
    program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=[{0: torch.export.Dim("batch")}], verbose=False)
    assert program is not None
    program.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return lambda x: torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])


def ways(model: nn.Module, *, compiled: bool) -> dict[str, Answer]:
    """Each way to ask the same model."""
    folded = AttackCopy(model, attack_precision(CPU))
    found: dict[str, Answer] = {"torch": model, "torch, folded, bf16": folded}
    if compiled:
        found["torch, folded, bf16, compiled"] = AttackCopy(model, attack_precision(CPU))
        compile_nets(found["torch, folded, bf16, compiled"])
    plain = copy.deepcopy(model)
    found["onnxruntime"] = exported(plain, images(2)[0].contiguous())
    return found


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--experts", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=15)
    chosen = parser.parse_args()
    width, batches, repeats = (4, BATCHES[:2], 2) if chosen.quick else (chosen.width, BATCHES, chosen.repeats)
    torch.manual_seed(0)
    model = dwf(chosen.depth, width, chosen.experts, 1, 2).model(spec()).eval().to(memory_format=torch.channels_last)
    asked = ways(model, compiled=not chosen.quick and can_compile("cpu"))
    found: dict[str, dict[str, object]] = {}
    with torch.no_grad():
        for batch in batches:
            x, _ = images(batch)
            right = model(x)
            seconds = alternate({name: partial(answer, x) for name, answer in asked.items()}, repeats, warmup=3)
            found[str(batch)] = {
                name: {
                    "milliseconds": 1000 * spread(times)["median"],
                    "images_per_second": batch / spread(times)["median"],
                    "largest_difference": float((asked[name](x).float() - right).abs().max()),
                }
                for name, times in seconds.items()
            }
    settings = {"depth": chosen.depth, "width": width, "experts": chosen.experts, "onnxruntime": onnxruntime.__version__}
    publish("inference", {"settings": settings, "batches": found}, chosen.json)


if __name__ == "__main__":
    main()
