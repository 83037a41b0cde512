"""On an NVIDIA GPU: training, PGD and joint steps of ResNet-18 and of nine, in images a second and as share of the matrix rate.

Each step layer by layer, as generated code and as CUDA graphs; the mixture's PGD step also with the experts on streams of their own
and with their weights stacked. The matrix rate is measured in the same run. `--device cpu --quick` runs the same small on a
processor, without graphs and streams. What whole epochs take: epochs.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import alternate, arguments, publish, spread
from share import training_step
from steps import Hasten, attack_step, dwf, images, joint_step, matrix_rate, spec
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from dwf.models import ExpertBank, ResNet
from dwf.models.compiled import can_compile, compile_nets
from dwf.models.cost import cost
from dwf.models.resnet import ConvNet

EXPERTS, STEPS = 9, 30


def graphs(model: nn.Module) -> None:
    """Generated code whose kernels a CUDA graph launches together."""
    for net in model.modules():
        if isinstance(net, ConvNet):
            net.compile(mode="reduce-overhead")


def bank_of(model: nn.Module) -> ExpertBank:
    """The one inside."""
    (bank,) = (module for module in model.modules() if isinstance(module, ExpertBank))
    return bank


def streams(model: nn.Module) -> None:
    """Each expert on a CUDA stream of its own, forwards and backwards, so that small kernels run side by side."""
    bank = bank_of(model)
    lanes = [torch.cuda.Stream() for _ in bank]

    def forward(x: Tensor) -> Tensor:
        main, opinions = torch.cuda.current_stream(), []
        for lane, expert in zip(lanes, bank, strict=True):
            lane.wait_stream(main)
            with torch.cuda.stream(lane):
                opinions.append(expert(x))
            x.record_stream(lane)
        for lane, opinion in zip(lanes, opinions, strict=True):
            main.wait_stream(lane)
            opinion.record_stream(main)
        return torch.stack(opinions, dim=1).float()

    bank.forward = forward


def stacked(model: nn.Module) -> None:
    """All experts in one call: their weights are stacked, so that each layer is one grouped convolution."""
    bank = bank_of(model)
    experts = list(bank)
    weights, buffers = stack_module_state(experts)
    base = experts[0]

    def answer(one: dict[str, Tensor], other: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(base, (one, other), (x,))

    def forward(x: Tensor) -> Tensor:
        return vmap(answer, (0, 0, None), out_dims=1)({n: w.detach() for n, w in weights.items()}, buffers, x).float()

    bank.forward = forward


def synchronised(step: Callable[[], None]) -> Callable[[], None]:
    """The step, waited for."""

    def run() -> None:
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=20)
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    backbone, batch, k = (ResNet(depth=10, width=4), 8, 2) if chosen.quick else (ResNet(), chosen.batch, STEPS)
    ways: dict[str, Hasten | None] = {"eager": None}
    if not chosen.quick and can_compile(device.type):
        ways["compiled"] = compile_nets
    if device.type == "cuda":
        ways["graphs"] = graphs
    x, y = images(batch, device=device)
    forward = 2 * cost(backbone, spec()).multiply_adds * batch
    method = dwf(backbone.depth, backbone.width, EXPERTS, k, batch)
    steps: dict[str, Callable[[], None]] = {}
    work: dict[str, float] = {}

    def enter(name: str, step: Callable[[], None], operations: float) -> None:
        steps[name], work[name] = synchronised(step), operations

    for way, hasten in ways.items():
        net = backbone(spec()).to(device, memory_format=torch.channels_last)
        mixture = method.model(spec()).to(device, memory_format=torch.channels_last)
        enter(f"one net, PGD step, {way}", attack_step(net, x, y, hasten), 2 * forward)
        enter(f"mixture, PGD step, {way}", attack_step(mixture, x, y, hasten), 2 * EXPERTS * forward)
        if hasten:
            hasten(net)
        enter(f"one net, training step, {way}", training_step(net, x, y), 3 * forward)
        if way != "graphs":  # the attack's copy and the model would overwrite each other's graphs
            joint = EXPERTS * forward * (2 * (1 + k) + 3 * 3)
            enter(f"mixture, joint step, {way}", joint_step(method, x, y, hasten), joint)
    if device.type == "cuda":
        enter("mixture, PGD step, streams", attack_step(mixture, x, y, streams), 2 * EXPERTS * forward)
    enter("mixture, PGD step, stacked", attack_step(mixture, x, y, stacked), 2 * EXPERTS * forward)
    rate = matrix_rate(3 if chosen.quick else 20, device)
    seconds = {name: spread(each)["median"] for name, each in alternate(steps, 2 if chosen.quick else chosen.repeats, 3).items()}
    figures = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "settings": {"experts": EXPERTS, "backbone": backbone.model_dump(), "batch": batch, "pgd_steps": k},
        "matrix_rate": rate,
        "images_per_second": {name: batch / s for name, s in seconds.items()},
        "share_of_matrix_rate": {name: work[name] / s / rate for name, s in seconds.items()},
    }
    publish("gpu", figures, chosen.json)


if __name__ == "__main__":
    main()
