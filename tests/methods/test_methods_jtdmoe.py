"""What makes JTDMoE: two mixtures in one answer, two learners that each move once a batch, and a certificate for the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_methods import SMALL, Repeated, batch, build, ready, state, tiny
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.types import Certifiable, Routed
from dwf.methods import Jtdmoe, RtEr
from dwf.methods.jtdmoe import Dual
from dwf.models import AttackCopy, ExpertBank, Lipschitz
from dwf.training.mover import Mover
from dwf.training.plan import Phase, Update


def system(**changes: Any) -> Dual:
    model = build(tiny("jtdmoe", **changes))
    assert isinstance(model, Dual)
    with torch.no_grad():
        for _ in range(3):
            model.train()(batch().x)
    return model.eval()


def joint(model: Dual, **changes: Any) -> Phase:
    *_, phase = tiny("jtdmoe", **changes).phases(model)
    assert phase.name == "joint"
    return phase


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """Names of the parameters that moved."""
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def test_both_mixtures_are_trained_first() -> None:
    phases = tiny("jtdmoe").phases(model := system())
    assert [(phase.name, phase.needs) for phase in phases] == [
        ("standard", ()),
        ("robust", ()),
        ("joint", ("standard", "robust")),
    ]
    assert [phase.subject for phase in phases] == [model.standard, model.robust, model]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_the_dual_model_mixes_probabilities(alpha: float) -> None:
    model, x = system(alpha=alpha), batch().x.clone().requires_grad_()
    standard, robust = model.standard(x).softmax(1), model.robust(x).softmax(1)
    logits = model(x)
    torch.testing.assert_close(logits.softmax(1), (1 - alpha) * standard + alpha * robust)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, batch().y), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_far_apart_opinions_do_not_underflow() -> None:
    model = system(alpha=0.7)
    standard, robust = torch.tensor([[500.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 500.0]])
    logits = model.together(standard, robust)
    assert torch.softmax(logits, 1).tolist()[0] == pytest.approx([0.3, 0.7], abs=1e-4)
    assert torch.autograd.grad(F.cross_entropy(logits, torch.tensor([1])), standard)[0].isfinite().all()


def test_logits_may_be_mixed_as_in_the_released_code_and_are_not_certified() -> None:
    model, x = system(mixing="logits", alpha=0.7), batch().x
    torch.testing.assert_close(model(x), 0.3 * model.standard(x) + 0.7 * model.robust(x))
    with pytest.raises(Refused, match=r"mixed logits have no bounded scores .* --set method.mixing=probabilities"):
        model.certified(x, "l2")


def test_it_can_be_taken_apart() -> None:
    model, x = system(alpha=0.6), batch().x
    assert isinstance(model, Routed)
    assert isinstance(model, Certifiable)
    assert isinstance(model.bank, ExpertBank)
    assert len(model.bank) == 4
    logits, weights, opinions = model.route(x)
    torch.testing.assert_close(logits, model(x))
    torch.testing.assert_close(weights[:, :2].sum(1), torch.full((len(x),), 0.4))
    torch.testing.assert_close(weights[:, 2:].sum(1), torch.full((len(x),), 0.6))
    torch.testing.assert_close(logits.softmax(1), (weights.unsqueeze(2) * opinions.softmax(2)).sum(1))
    for number, expert in enumerate((*model.standard.bank, *model.robust.bank)):
        torch.testing.assert_close(opinions[:, number], expert(x))
        torch.testing.assert_close(model.expert(x, number), expert(x))
    torch.testing.assert_close(model.surrogate(x, 1e-6).logits, logits, rtol=1e-4, atol=1e-4)
    assert "bank" not in {name.partition(".")[0] for name in model.state_dict()}, "no expert is stored twice"


def test_each_mixture_moves_once_a_batch_and_only_by_its_own_loss() -> None:
    model = system()
    phase, times = joint(model), 3
    movers = {name: Mover(learner) for name, learner in phase.learners.items()}
    taken = []
    for update in phase.round(ready(phase), Repeated(batch(), times)):
        before = {"standard": state(model.standard), "robust": state(model.robust)}
        movers[update.learner].take(update, 0.0)
        moved = {name: changed(before[name], getattr(model, name)) for name in before}
        other = {"standard": "robust", "robust": "standard"}[update.learner]
        assert len(moved[update.learner]) > 10
        assert moved[other] == set()
        taken.append(update.learner)
    assert taken == ["robust", "standard"] * times


def updates(**changes: Any) -> tuple[Dual, Update, Update]:
    model = system(**changes)
    phase = joint(model, **changes)
    robust, standard = phase.round(ready(phase), Repeated(batch(), 1))
    return model, robust, standard


def test_the_standard_mixture_learns_the_clean_answer_of_the_whole() -> None:
    model, _, update = updates(alpha=0.4)
    known = AttackCopy(model.robust)(batch().x)
    expected = F.cross_entropy(model.together(model.standard.train()(batch().x), known), batch().y)
    assert update.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    gradients = torch.autograd.grad(update.loss, list(model.robust.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in gradients)


def test_every_robust_expert_is_robustified_on_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[int]] = []
    objective = RtEr.objective

    def spy(self: RtEr, model: Any, victim: Any, draw: Any, robustified: Any) -> Any:
        shown.append([len(rows) for rows in robustified])
        return objective(self, model, victim, draw, robustified)

    monkeypatch.setattr(RtEr, "objective", spy)
    updates()
    assert shown == [[len(batch().y)] * 2]


def test_it_is_certified_where_the_robust_margin_outvotes_the_standard_mixture() -> None:
    """Radius (alpha (m + 1) - 1) / (2 alpha kappa), and none at alpha 1/2 or below."""
    bounded = RtEr(backbone=Lipschitz(width=4, stages=1, scale=40), router=Lipschitz(stages=0), experts=2, selection="soft")
    robust = bounded.model_copy(update={"attack": SMALL[RtEr].attack})
    x = batch().x
    radii = {alpha: system(alpha=alpha, robust=robust).certified(x, "l2") for alpha in (0.0, 0.5, 0.8, 1.0)}
    model = system(alpha=0.8, robust=robust)
    top = model.robust(x).softmax(1).topk(2, dim=1).values
    margin = top[:, 0] - top[:, 1]
    kappa = model.robust.sensitivity(x, "l2").kappa
    expected = ((0.8 * (margin + 1) - 1) / (1.6 * kappa)).clamp(min=0)
    torch.testing.assert_close(radii[0.8].float(), expected, rtol=1e-2, atol=1e-5)
    assert expected.max() > 0
    assert not radii[0.0].any()
    assert not radii[0.5].any()
    assert (radii[1.0] >= radii[0.8]).all()
    torch.testing.assert_close(radii[1.0], model.robust.certified(x, "l2"), rtol=1e-3, atol=1e-6)
    sure = radii[0.8] > 0
    assert model(x).argmax(1)[sure].equal(model.robust(x).argmax(1)[sure])


@pytest.mark.parametrize(("change", "words"), [
    ({"alpha": 1.2}, "'alpha' is 1.2: input should be less than or equal to 1"),
    ({"mixing": "votes"}, "'mixing' is 'votes': input should be 'probabilities' or 'logits'"),
    ({"robust": {"experts": 1}}, "'robust.experts' is 1"),
])  # fmt: skip
def test_wrong_settings_are_refused_in_a_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        Jtdmoe.read(change)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
