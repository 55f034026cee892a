"""Models x training x attacks x threats, and what `include` and `exclude` leave of them."""

from typing import Any

import pytest

from avrobust_core.spec.cells import AttackPlan, attacked_modalities, expand, modality_of
from avrobust_core.spec.model import Spec

EPS = {"eps": 0.1}


def spec(**changes: Any) -> Spec:
    data: dict[str, Any] = {
        "version": 1,
        "name": "s",
        "data": "toy",
        "encoders": {"ear": {"use": "cnn", "modality": "audio"}, "video": "cnn"},
        "models": {"one": {"encoders": ["ear"]}, "two": {"encoders": ["ear", "video"], "fusion": "concat"}},
        "training": {"plain": {"epochs": 1}, "mixed": {"epochs": 1}},
        "threats": {"a": {"audio": EPS}, "v": {"video": EPS}, "av": {"audio": EPS, "video": EPS}},
        "attacks": {"pgd": {"use": "pgd", "threats": ["av", "a"]}, "fgsm": "fgsm"},
    }
    return Spec.model_validate(data | changes)


def runs(made: Spec) -> dict[str, list[str]]:
    return {
        f"{cell.model}/{cell.training}": [f"{plan.attack}:{plan.threat}" for plan in cell.attacks]
        for cell in expand(made)
    }


ALL = ["pgd:av", "pgd:a", "fgsm:a", "fgsm:v", "fgsm:av"]
CELLS = ["one/plain", "one/mixed", "two/plain", "two/mixed"]


def each(cells: list[str], plans: list[str]) -> dict[str, list[str]]:
    return dict.fromkeys(cells, plans)


def test_the_product_comes_in_the_order_of_the_spec() -> None:
    assert runs(spec()) == each(CELLS, ALL)
    assert list(runs(spec())) == CELLS


def test_each_seed_gives_every_model_and_regime_a_cell_of_its_own() -> None:
    cells = [(cell.model, cell.training, cell.seed) for cell in expand(spec(seed=[7, 0]))]
    assert cells[:4] == [("one", "plain", 7), ("one", "plain", 0), ("one", "mixed", 7), ("one", "mixed", 0)]
    assert len(cells) == 8
    assert {cell.seed for cell in expand(spec(seed=3))} == {3}
    trimmed = expand(spec(seed=[7, 0], exclude=[{"model": "two"}, {"training": "mixed"}]))
    assert [cell.seed for cell in trimmed] == [7, 0]


def test_a_study_has_one_seed_or_several_and_can_be_cut_to_one() -> None:
    several = spec(seed=[7, 0])
    assert (several.seed, several.seeds) == (7, (7, 0))
    assert several.with_seed(0) == spec(seed=0)
    assert (spec().seed, spec().seeds) == (0, (0,))


def test_without_attacks_the_cells_remain() -> None:
    assert runs(spec(attacks={}, threats={})) == each(CELLS, [])


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"include": [{"model": "two"}]}, {"two/plain": ALL, "two/mixed": ALL}),
        ({"exclude": [{"model": "two", "training": "mix*"}]}, each(CELLS[:3], ALL)),
        ({"include": [{"model": "t?o", "training": "plain"}]}, {"two/plain": ALL}),
        ({"include": [{"model": "one", "training": "plain"}, {"training": "mixed"}]},
         {"one/plain": ALL, "one/mixed": ALL, "two/mixed": ALL}),
        ({"include": [{"attack": "pgd"}]}, each(CELLS, ["pgd:av", "pgd:a"])),
        ({"exclude": [{"attack": "fgsm", "threat": "[av]"}]}, each(CELLS, ["pgd:av", "pgd:a", "fgsm:av"])),
        ({"exclude": [{"threat": "a*"}]}, each(CELLS, ["fgsm:v"])),
        ({"exclude": [{"model": "one", "attack": "*"}]}, dict(zip(CELLS, [[], [], ALL, ALL], strict=True))),
        ({"include": [{"training": "plain"}, {"threat": "v"}]}, {"one/plain": ["fgsm:v"], "two/plain": ["fgsm:v"]}),
        ({"include": [{"model": "two"}], "exclude": [{"training": "plain"}]}, {"two/mixed": ALL}),
        ({"exclude": [{"model": "TWO"}]}, each(CELLS, ALL)),
    ],
)  # fmt: skip
def test_patterns_trim_cells_or_attack_runs(patterns: dict[str, Any], expected: dict[str, list[str]]) -> None:
    assert runs(spec(**patterns)) == expected


def test_a_threat_is_cut_to_what_the_model_reads() -> None:
    made = spec()
    one, _, two, _ = expand(made)
    assert attacked_modalities(made, one, "v") is None
    both = attacked_modalities(made, one, "av")
    assert both is not None
    assert both.modalities == ("audio",)
    assert attacked_modalities(made, two, "av") == made.threats["av"]


def test_an_encoder_reads_what_it_says_or_what_it_is_called() -> None:
    assert [modality_of(spec(), name) for name in ("ear", "video")] == ["audio", "video"]
    with pytest.raises(KeyError):
        modality_of(spec(), "nose")


def test_plans_are_names() -> None:
    assert expand(spec())[0].attacks[0] == AttackPlan("pgd", "av")
