"""On an NVIDIA GPU: training, PGD and joint steps of ResNet-18 and of nine of them, and the hours of the whole recipe from them.

Each step layer by layer, as generated code, as CUDA graphs and, for the mixture's PGD step, with the experts' weights stacked:
images a second and the share of the matrix rate, which is measured in the same run. `--device cpu --quick` runs the same small on a
processor. The hours are those of the steps alone: 200 epochs of nine experts, 30 joint epochs, 45,000 images, K from 10 to 50.
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

EXPERTS, FGSM, PGD = 9, 4, 4
IMAGES, EXPERT_EPOCHS, JOINT_EPOCHS, STEPS = 45_000, 200, 30, 30


def graphs(model: nn.Module) -> None:
    """Generated code whose kernels a CUDA graph launches together."""
    for net in model.modules():
        if isinstance(net, ConvNet):
            net.compile(mode="reduce-overhead")


def stacked(model: nn.Module) -> None:
    """All experts in one call: their weights are stacked, so that each layer is one grouped convolution."""
    (bank,) = (module for module in model.modules() if isinstance(module, ExpertBank))
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
    enter("mixture, PGD step, stacked", attack_step(mixture, x, y, stacked), 2 * EXPERTS * forward)
    rate = matrix_rate(3 if chosen.quick else 20, device)
    seconds = {name: spread(each)["median"] for name, each in alternate(steps, 2 if chosen.quick else chosen.repeats, 3).items()}
    best = {what: min(s for name, s in seconds.items() if name.startswith(what)) for what in
            ("one net, PGD step", "one net, training step", "mixture, joint step")}  # fmt: skip
    batches = IMAGES / batch
    attacks = FGSM * 1 + PGD * k  # gradients of a batch in all experts' own training
    experts = attacks * best["one net, PGD step"] + EXPERTS * best["one net, training step"]
    figures = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "settings": {"experts": EXPERTS, "backbone": backbone.model_dump(), "batch": batch, "pgd_steps": k},
        "matrix_rate": rate,
        "images_per_second": {name: batch / s for name, s in seconds.items()},
        "share_of_matrix_rate": {name: work[name] / s / rate for name, s in seconds.items()},
        "seconds_of_a_joint_epoch": batches * best["mixture, joint step"],
        "hours_of_the_recipe": {
            "experts": EXPERT_EPOCHS * batches * experts / 3600,
            "joint": JOINT_EPOCHS * batches * best["mixture, joint step"] / 3600,
        },
    }
    publish("gpu", figures, chosen.json)


if __name__ == "__main__":
    main()
