"""From a file to cells: names, order, and what is refused before anything runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dwf.cells import cells_of, read_sweep
from dwf.core.errors import Refused
from dwf.run import presets, read


def cells(text: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Cell -> its run, as JSON."""
    file = folder / "sweep.toml"
    file.write_text(text)
    return {cell.name: cell.run.model_dump(mode="json") for cell in cells_of(read_sweep(file))}


def refusal(text: str, folder: Path) -> str:
    with pytest.raises(Refused) as refused:
        cells(text, folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    found = cells('preset = "plain-digits"\n[grid]\nseed = [0, 1]\nmethod.recipe.epochs = [3, 5]\n"train.clip" = [0.5]', tmp_path)
    assert list(found) == [f"plain-digits-epochs{e}-clip0.5-seed{s}" for e in (3, 5) for s in (0, 1)], "seeds stand last"
    for e in (3, 5):
        for s in (0, 1):
            run = found[f"plain-digits-epochs{e}-clip0.5-seed{s}"]
            assert (run["seed"], run["method"]["recipe"]["epochs"], run["train"]["clip"]) == (s, e, 0.5)
            assert run["name"] == f"plain-digits-epochs{e}-clip0.5-seed{s}"


def test_cells_are_the_preset_with_changes_one_at_a_time(tmp_path: Path) -> None:
    text = (
        'preset = "dwf-digits"\nset = ["method.pgd=2", "method.fgsm=1"]\n'
        '[[cells]]\nname = "dwf"\n'
        '[[cells]]\nname = "warm gate"\nset = ["method.gate_warmup=1", "method.fgsm=2"]\n'
        '[[cells]]\nname = "plain"\npreset = "plain-digits"\n'
    )
    with pytest.raises(Refused, match=r"cell 'plain': plain-digits: 'method.pgd' is not a setting"):
        cells(text, tmp_path)
    found = cells(text.replace('set = ["method.pgd=2", "method.fgsm=1"]', 'set = ["data.limit=99"]'), tmp_path)
    assert list(found) == ["dwf", "warm_gate", "plain"]
    assert [run["data"]["limit"] for run in found.values()] == [99] * 3
    assert found["warm_gate"]["method"] == {**found["dwf"]["method"], "gate_warmup": 1, "fgsm": 2}
    assert found["plain"]["method"]["kind"] == "plain"


@pytest.mark.parametrize("name", ["9", "true", "1e3", "2024-01-01"])
def test_a_cells_name_is_a_name_whatever_it_reads_like(name: str, tmp_path: Path) -> None:
    (run,) = cells(f'preset = "plain-digits"\n[[cells]]\nname = "{name}"', tmp_path).values()
    assert run["name"] == name


def test_presets_can_be_an_axis_and_settings_tables(tmp_path: Path) -> None:
    text = (
        '[grid]\npreset = ["plain-digits", "pgd-at-digits"]\nseed = [4]\n'
        'method.backbone = [{ kind = "resnet", depth = 10, width = 4 }, { kind = "resnet", depth = 18, width = 2 }]\n'
        'validation.threat.eps = ["8/255"]\ndata.flip = [true]'
    )
    found = cells(text, tmp_path)
    tags = ("resnet_10_4", "resnet_18_2")
    assert list(found) == [f"{p}-backbone{tag}-eps8_255-fliptrue-seed4" for p in ("plain-digits", "pgd-at-digits") for tag in tags]
    assert {run["method"]["kind"] for run in found.values()} == {"plain", "adversarial"}
    assert {(run["method"]["backbone"]["depth"], run["method"]["backbone"]["width"]) for run in found.values()} == {
        (10, 4),
        (18, 2),
    }
    assert {run["validation"]["threat"]["eps"] for run in found.values()} == {8 / 255}
    assert {run["data"]["flip"] for run in found.values()} == {True}


def test_axes_of_one_name_are_told_apart_and_long_values_are_numbered(tmp_path: Path) -> None:
    long = ", ".join(f"0.{i:02d}" for i in range(1, 20))
    text = (
        'preset = "dwf-digits"\n[grid]\n"method.joint.epochs" = [1]\n"method.experts.epochs" = [2]\n'
        f"method.fgsm_eps = [[{long}], [0.1]]"
    )
    assert list(cells(text, tmp_path)) == [f"dwf-digits-joint.epochs1-experts.epochs2-fgsm_eps{n}" for n in (1, 2)]


@pytest.mark.parametrize("name", presets())
def test_a_cell_is_what_train_would_make_of_its_words(name: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(f'preset = "{name}"\nset = ["validation.steps=3"]\n[grid]\nseed = [5]')
    (cell,) = cells_of(read_sweep(tmp_path / "sweep.toml"))
    assert cell.run == read(cell.preset, [*cell.overrides, f"name={cell.name}"])
    assert (cell.run.seed, cell.run.validation.steps) == (5, 3)


@pytest.mark.parametrize(("text", "words"), [
    ("a = [1,", "is not a readable TOML file: "),
    ("presets = 'x'", "'presets' is not a setting; did you mean 'preset'? Valid: about, cells, data, grid, preset, "),
    ("", "the sweep names no preset; add a line such as preset = \"dwf-digits\", see: dwf list presets"),
    ("[[cells]]\nname = 'a'", "cell 'a' names no preset; add a line such as "),
    ("preset = 'dwf-digit'", "cell 'dwf-digit': 'dwf-digit' is neither a preset nor a .toml file; did you mean 'dwf-digits'?"),
    ("preset = 'plain-digits'\n[grid]\nseed = 3",
     "'grid' is {'seed': 3}: 'seed' is 3; give a list of the values to try, such as seed = [0, 1, 2]"),
    ("preset = 'plain-digits'\n[grid]\nseed = []", "'seed' is []; give a list"),
    ("preset = 'plain-digits'\n[grid]\nmethod.recipe = {}", "'method.recipe' is {}; give a list"),
    ("preset = 'plain-digits'\n[grid]\nseed = [0, 1, 0]", "'seed' has 0 twice; name every value once"),
    ("preset = 'plain-digits'\n[grid]\nsed = [0]",
     "cell 'plain-digits-sed0': plain-digits: 'sed' is not a setting; did you mean 'seed'? Valid: "),
    ("preset = 'plain-digits'\n[grid]\nmethod.recipe.epochs = [2, 0]",
     "cell 'plain-digits-epochs0': plain-digits: 'method.recipe.epochs' is 0: input should be greater than or equal to 1"),
    ("preset = 'plain-digits'\n[[cells]]\nname = 'a'\n[[cells]]\nname = 'a'",
     "two cells of the sweep are both called 'a'; give cells other names, and a grid every value once"),
    ("preset = 'plain-digits'\n[[cells]]\nname = 'a'\nset = ['seed=1']\n[grid]\nseed = [2]",
     "cell 'a' sets 'seed', which the grid varies; leave one of them out"),
    ("preset = 'plain-digits'\n[[cells]]\nname = '../mine'", "'cells.0.name' is '../mine': string should match pattern"),
    ("preset = 'plain-digits'\nprotocols = [3]", "'protocols.0' is 3: "),
    ("preset = 'plain-digits'\nsamples = 0", "'samples' is 0: input should be greater than or equal to 1"),
    ("preset = 'plain-digits'\ndata = 'cifar'", "cell 'plain-digits': there is no data set and no folder 'cifar'; did you mean "),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(text: str, words: str, tmp_path: Path) -> None:
    assert re.search(re.escape(words), refusal(text, tmp_path)), refusal(text, tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"nowhere.toml does not exist; name the TOML file of a sweep, such as docs/sweep.md shows"):
        read_sweep(tmp_path / "nowhere.toml")


def test_other_data_may_be_named_outside_the_file(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text('preset = "plain-cifar10"\ndata = "svhn"')
    for data, expected in ((None, "svhn"), ("mnist", "mnist")):
        (cell,) = cells_of(read_sweep(tmp_path / "sweep.toml", data))
        assert cell.run.data.source.name == expected


def test_an_axis_in_two_spellings_is_refused(tmp_path: Path) -> None:
    text = 'preset = "plain-digits"\n[grid]\n"method.recipe.epochs" = [1]\n[grid.method.recipe]\nepochs = [2]'
    assert "'method.recipe.epochs' stands twice" in refusal(text, tmp_path)


def test_a_cells_run_goes_by_the_cells_name(tmp_path: Path) -> None:
    found = cells('preset = "plain-digits"\nset = ["name=\'other\'"]\n[grid]\nseed = [0, 1]', tmp_path)
    assert [run["name"] for run in found.values()] == list(found)
