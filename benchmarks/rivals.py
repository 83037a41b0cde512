"""The tables of results, from run folders that `dwf train` and `dwf evaluate` wrote: what methods cost and what they keep.

--write puts them between the marks of README.md and of docs/results.md. Numbers of other n are of other images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from everything import table
from harness import between, with_interval, writer

from dwf.core.result import AttackEntry
from dwf.report.headline import ball, case_at
from dwf.report.reading import Evaluated, read

HOME = Path(__file__).parent.parent
RESULTS, SEEDS = HOME / "results" / "cifar10-mini", HOME / "results" / "cifar10-mini-seeds"
README, DOCUMENT = HOME / "README.md", HOME / "docs" / "results.md"
ORDER = ("plain", "fgsm-at", "pgd-at", "fast", "free", "trades", "advmoe", "soe", "rt-er", "jtdmoe", "immunity", "dwf")
"""Folders of one seed each, in the order of the tables."""
NOT_RUN = ("all twelve on SVHN", "rt-er, jtdmoe on Tiny ImageNet", "the same of ViT-small")
"""Presets whose data or weights are not at hand; tests train and attack them, made small, on images in the hub's layout."""
HEADLINE = ball("linf", 8 / 255)
PROTOCOLS = (("table3",), ("full",), ("autoattack", "autoattack-versionrand"))
"""Evaluations that may stand in each column: of the reference code there is a version for random models."""
HEAD = (
    "run",
    "M parameters",
    "forward passes",
    "MFLOP a prediction",
    "TFLOP to train",
    "SA",
    "`table3`",
    "`full`",
    "AutoAttack",
    "alarms",
)
ROWS = {"FGSM .01": "fgsm-0.01", ".03": "fgsm-0.03", ".05": "fgsm-0.05", ".07": "fgsm-0.07", ".09": "fgsm-0.09",
        "PGD-10": "pgd-10", "PGD-50": "pgd-50", "MS (100 x 3)": "pgd-100x3", "adaptive (A)": "pgd-100-eot1"}  # fmt: skip
INSIDE = {"PGD-50": "pgd", "APGD-CE": "apgd-ce", "frozen routing (RA-E)": "frozen-routing", "routing alone (RA-R)": "routing",
          "reweighed": "reweighed"}  # fmt: skip
"""Columns of `moe`, each of all images whose clean version is right."""


def runs(results: Path) -> dict[str, list[Evaluated]]:
    """Name -> evaluations of one run, or of one under other settings of its model."""
    found: dict[str, list[Evaluated]] = {}
    for folder in (results / name for name in ORDER if any((results / name / "eval").glob("*.json"))):
        for one in read(folder):
            found.setdefault(one.run.replace("-cifar10-mini", ""), []).append(one)
    return found


def whole(found: dict[str, list[Evaluated]], costs: dict[str, dict[str, float]]) -> str:
    """One line a run: what it costs, and its accuracy at the headline threat by each protocol that asked."""
    lines = []
    if missing := {members[0].folder.name for members in found.values()} - costs.keys():
        raise SystemExit(f"budget.json has no run '{min(missing)}'; count again: python benchmarks/budget.py RUN ... --json FILE")
    for name, members in found.items():
        cost = costs[members[0].folder.name]
        passes = str(members[0].result.model.forward_passes)
        spent = [f"{cost['parameters'] / 1e6:.2f}", passes, f"{cost['mflop_a_prediction']:,.0f}", f"{cost['tflop']:,.0f}"]
        most = max(members, key=lambda one: one.result.clean.n).result.clean
        cases = [_case([one for one in members if one.name.partition("@")[0] in names]) for names in PROTOCOLS]
        flags = dict.fromkeys(flag.code for one in members for flag in one.result.flags)
        asked = any(one.protocol == "full" for one in members)
        lines.append(
            [
                name,
                *spent,
                f"{100 * most.accuracy:.1f}",
                *cases,
                ", ".join(f"`{code}`" for code in flags) or ("none" if asked else "none of `table3`'s"),
            ]
        )
    lines += [[name, *["-"] * 5, *["not run"] * len(PROTOCOLS), "-"] for name in NOT_RUN]
    return table([*HEAD], lines)


def _case(found: Sequence[Evaluated]) -> str:
    if not found:
        return "-"
    (one,) = found
    worst = case_at(one, HEADLINE)
    assert worst is not None, "the three protocols attack at 8/255 unless told otherwise"
    return f"{with_interval(worst.accuracy, worst.ci95)} of {one.result.dataset.n}"


def papers(found: dict[str, list[Evaluated]]) -> str:
    """The rows of the paper's table."""
    lines = []
    for name, members in found.items():
        for one in (one for one in members if one.name.partition("@")[0] == "table3"):
            rows: dict[str, AttackEntry] = {entry.name: entry for entry in one.result.attacks}
            shares = [one.result.clean.accuracy, *(rows[row].accuracy for row in ROWS.values())]
            lines.append([name, *(f"{100 * share:.1f}" for share in shares)])
    return table(["run", "SA", *ROWS], lines)


def inside(found: dict[str, list[Evaluated]]) -> str:
    """`moe`: what attacks on experts and routing leave of the mixtures that it judged, and of their most robust expert alone."""
    lines = []
    for name, members in found.items():
        for one in (one for one in members if one.name.partition("@")[0] == "moe"):
            rows = {entry.name: entry for entry in one.result.attacks}
            alone = [fact.value for place, fact in one.result.facts.items() if place.endswith("/robust")]
            shares = [one.result.clean.accuracy, *(rows[row].accuracy for row in INSIDE.values()), max(alone)]
            lines.append([name, *(f"{100 * share:.1f}" for share in shares), _case([one])])
    return table(["run", "SA", *INSIDE, "best expert alone", "worst case"], lines)


def seeds(first: Path = RESULTS, others: Path = SEEDS) -> str:
    """`table3` of the methods that were trained more than once, seed by seed."""
    lines = []
    for name in sorted({folder.name.rpartition("-")[0] for folder in others.iterdir()}, key=ORDER.index):
        for folder in [first / name, *sorted(others.glob(f"{name}-*"))]:
            (one,) = [found for found in read(folder) if found.name == "table3"]
            lines.append([name, str(one.record["settings"]["seed"]), f"{100 * one.result.clean.accuracy:.1f}", _case([one])])
    return table(["method", "seed", "SA", "`table3`"], lines)


def summary(results: Path = RESULTS) -> str:
    """README's; costs from budget.json beside the runs (`benchmarks/budget.py`)."""
    return whole(runs(results), json.loads((results / "budget.json").read_text())["runs"])


def details(results: Path = RESULTS) -> str:
    """The document's."""
    rows = "The paper's rows, PGD at 8/255 in steps of 2/255, 1000 images:"
    again = "Other seeds, on the same images:"
    mixtures = "Protocol `moe`, each row by itself; the expert under PGD-50 and APGD-CE on itself:"
    found = runs(results)
    return f"{rows}\n\n{papers(found)}\n{mixtures}\n\n{inside(found)}\n{again}\n\n{seeds(results)}"


def main() -> None:
    """Print, or write."""
    parser = writer(__doc__.splitlines()[0], README)
    if parser.parse_args().write:
        between(README, summary())
        between(DOCUMENT, details())
    else:
        print(f"{summary()}\n{details()}")


if __name__ == "__main__":
    main()
