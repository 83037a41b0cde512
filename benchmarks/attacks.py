"""PGD-10 at 8/255: images x steps a second of ours, torchattacks, foolbox and ART, and ours over the machine's matrix rate.

Same model, images, threads and process, taken in turn. Ours is what every protocol ascends: the folded copy in bf16 where the
processor has it, layer by layer and, where torch.compile works, as generated code, which is what `dwf evaluate` takes where there
is enough to do; the peers get the model as their users would, in fp32. Robust accuracy is always the fp32 original's.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable

import numpy as np
import torch
from harness import alternate, arguments, as_a_script_runs, as_dwf_runs, publish, spread
from steps import CPU, matrix_rate, spec
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dwf.attacks import Pgd
from dwf.core.seeds import Noise
from dwf.core.types import Threat
from dwf.data import named, ordered, subset
from dwf.models import AttackCopy, ResNet
from dwf.models.compiled import can_compile, compile_nets
from dwf.models.inference import attack_precision
from dwf.run import load

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
Attack = Callable[[Tensor, Tensor], Tensor]


def ours(model: nn.Module, *, compiled: bool = False) -> Attack:
    """The attack and the copy that protocols use."""
    copy, pgd = AttackCopy(model, attack_precision(CPU)), Pgd(threat=Threat(eps=EPS), steps=STEPS, step=STEP)
    if compiled:
        compile_nets(copy)
    return lambda x, y: pgd(copy, x.contiguous(memory_format=torch.channels_last), y, Noise.rows(0, len(x)))


def torchattacks(model: nn.Module) -> Attack:
    """torchattacks.PGD."""
    import torchattacks

    return torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS)


def foolbox(model: nn.Module) -> Attack:
    """foolbox.attacks.LinfPGD."""
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True)
    return lambda x, y: attack.run(wrapped, x, y, epsilon=EPS)


def art(model: nn.Module) -> Attack:
    """ART's ProjectedGradientDescentPyTorch."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    shape = (3, 32, 32)
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1), device_type="cpu")
    attack = ProjectedGradientDescentPyTorch(
        classifier, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=1, batch_size=1024, verbose=False
    )
    return lambda x, y: torch.from_numpy(attack.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]))


PEERS = {"torchattacks": torchattacks, "foolbox": foolbox, "art": art}


def flops_a_step(model: nn.Module) -> float:
    """FLOPs of the input gradient of one image: convolutions and products, forwards and backwards, as the step computes them."""
    copy = AttackCopy(model)
    x = torch.rand(1, 3, 32, 32).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        copy(x).sum().backward()
    return float(counter.get_total_flops())


def compare(model: nn.Module, x: Tensor, y: Tensor, repeats: int, *, compiled: bool) -> dict[str, object]:
    """All of them in turn on the same images."""
    attacks = {"ours": ours(model), **{name: make(model) for name, make in PEERS.items()}}
    if compiled:
        attacks["ours, compiled"] = ours(model, compiled=True)
    mine = [name for name in attacks if name not in PEERS]
    made: dict[str, Tensor] = {}

    def run(name: str, attack: Attack) -> None:
        made[name] = attack(x, y).detach()

    kinds = {name: as_a_script_runs if name in PEERS else as_dwf_runs for name in attacks}
    seconds = alternate({name: kinds[name](lambda n=name, a=attack: run(n, a)) for name, attack in attacks.items()}, repeats)
    rate = {name: len(x) * STEPS / statistics.median(values) for name, values in seconds.items()}
    with torch.no_grad():
        robust = {name: float((model(images).argmax(1) == y).float().mean()) for name, images in made.items()}
    matrix, flops = matrix_rate(4), flops_a_step(model)
    return {
        "images": len(x),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "images_x_steps_per_second": rate,
        "times_faster": {way: {name: rate[way] / rate[name] for name in PEERS} for way in mine},
        "robust_accuracy": robust,
        "points_above": {name: 100 * (robust["ours"] - robust[name]) for name in PEERS},
        "gflops_a_gradient": flops / 1e9,
        "share_of_matrix_rate": {way: flops * rate[way] / matrix for way in mine},
        "matrix_gflops": matrix / 1e9,
    }


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="*", default=[], metavar="RUN", help="trained CIFAR run folders, such as the mini DWF")
    parser.add_argument("--data", default=None, help="the runs' data in another place")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    repeats, samples = (1, 32) if chosen.quick else (chosen.repeats, chosen.samples)
    torch.manual_seed(0)
    x, y = torch.rand(samples, 3, 32, 32), torch.randint(10, (samples,))
    figures: dict[str, object] = {}
    compiled = not chosen.quick and can_compile("cpu")
    for width in (16,) if chosen.quick else (16, 64):
        model = ResNet(depth=18, width=width)(spec()).eval()
        figures[f"ResNet-18 of width {width}, random"] = compare(model, x, y, repeats, compiled=compiled)
    for folder in chosen.run:
        loaded = load(folder)
        source = named(chosen.data) if chosen.data else loaded.run.data.source
        (batch,) = ordered(subset(source("test"), samples, 0), samples)
        figures[loaded.run.name] = compare(loaded.model, batch.x.contiguous(), batch.y, repeats, compiled=compiled)
    publish("attacks", figures, chosen.json)


if __name__ == "__main__":
    main()
