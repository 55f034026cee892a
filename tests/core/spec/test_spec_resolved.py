"""The resolved spec says everything, and means the same when it is loaded again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avrobust_core.registry.registry import Registry
from avrobust_core.spec.cells import expand
from avrobust_core.spec.loading import LoadedSpec, load_spec
from avrobust_core.spec.yaml_writer import write_yaml

Load = Callable[..., LoadedSpec]

POSITIVE = st.floats(min_value=1e-300, max_value=1e6)
EPS = (
    st.floats(min_value=0, max_value=1e12)
    | st.fractions(min_value=0, max_value=9, max_denominator=10**30).map(str)
    | st.floats(-300, 300).map(lambda db: {"snr_db": db})
)
MARKS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6) | st.sampled_from(
    ["1e-3", "on", "0o7", "null", "~", "", "1:30", "8/255", "true", "2024-01-01", "\n a", "a\n\nb ", "\ufeff"]
)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """A valid spec for the registry of this folder, as a user might have written it."""
    modalities = ["audio", "video"]
    names = st.sampled_from(["x1", "1", "on", "null", "1e3", "A-b", "0o7"])
    threats = draw(
        st.dictionaries(
            names,
            st.dictionaries(
                st.sampled_from(modalities),
                st.fixed_dictionaries(
                    {"eps": EPS}, optional={"norm": st.sampled_from(["linf", "l2"]), "bounds": st.just([-1, 1.5])}
                ),
                min_size=1,
            ),
            min_size=1,
            max_size=3,
        )
    )
    listed = st.lists(st.sampled_from(sorted(threats)), min_size=1, unique=True)
    pgd = st.fixed_dictionaries(
        {"use": st.sampled_from(["pgd", "avrobust:pgd"])},
        optional={"with": st.fixed_dictionaries({"steps": st.integers(20, 99), "mark": MARKS}), "threats": listed},
    )
    mixup = st.fixed_dictionaries({"use": st.just("mixup"), "with": st.fixed_dictionaries({"alpha": POSITIVE})})
    training = st.fixed_dictionaries(
        {"epochs": st.integers(0, 9)},
        optional={"learning_rate": POSITIVE, "augment": st.lists(mixup | st.just("mixup"), max_size=2)},
    )
    return {
        "version": 1,
        "name": draw(names),
        "data": draw(st.sampled_from(["toy", {"use": "toy", "with": {"sizes": [1, 2]}}])),
        "encoders": {"audio": "cnn", "eye": {"use": "slowfast", "modality": "video"}},
        "models": {
            "two": {"encoders": ["audio", "eye"], "fusion": draw(st.sampled_from(["concat", {"use": "concat"}]))}
        },
        "training": draw(st.dictionaries(names, training, min_size=1, max_size=2)),
        "threats": threats,
        "attacks": draw(st.dictionaries(names, pgd | st.just("fgsm") | st.just("acme:twice"), max_size=2)),
        "metrics": draw(st.sampled_from([[], ["accuracy"], [{"use": "avrobust:accuracy"}]])),
    }


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=specs())
def test_a_resolved_spec_loads_to_the_same_resolution(data: dict[str, Any], tmp_path: Path, registry: Registry) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(write_yaml(data), encoding="utf-8")
    loaded = load_spec(first, registry)
    second.write_text(loaded.resolved_yaml(), encoding="utf-8")
    again = load_spec(second, registry)
    assert again.resolved() == loaded.resolved()
    assert again.resolved_yaml() == loaded.resolved_yaml()
    assert again.spec.threats == loaded.spec.threats
    assert expand(again.spec) == expand(loaded.spec)
    assert [item.config for item in again.components.values()] == [item.config for item in loaded.components.values()]


def test_nothing_is_left_implicit(good: str, load: Load) -> None:
    resolved = load(good).resolved()
    assert resolved["data"] == {
        "use": "avrobust:toy",
        "with": {"classes": 4, "task": "single", "sizes": [3, 4]},
    }
    assert resolved["encoders"]["audio"]["modality"] == "audio"
    aimless = {"goal": "untargeted", "target": None, "curve": [], "front": None}
    assert resolved["attacks"]["fast"] == {"use": "avrobust:fgsm", "with": {}, "threats": ["a", "av"], **aimless}
    assert resolved["attacks"]["strong"]["with"] == {"steps": 20, "random_start": True, "mark": "-"}
    assert resolved["training"]["mixed"]["augment"] == [
        {"use": "avrobust:mixup", "with": {"alpha": 0.4}},
        {"use": "avrobust:mixup", "with": {"alpha": 0.2}},
    ]
    assert resolved["models"]["audio-only"]["fusion"] is None
    assert resolved["threats"]["av"]["video"]["eps"] == 8 / 255
    assert resolved["evaluation"]["resamples"] == 1000
    assert resolved["seed"] == 0
    json.dumps(resolved)


def test_several_seeds_and_comparisons_resolve_to_themselves(good: str, load: Load) -> None:
    loaded = load(
        good,
        "seed=[4, 2]",
        "compare=[{models: [both, audio-only]}, {training: [mixed, standard], question: 'Does mixing help?'}]",
    )
    resolved = loaded.resolved()
    assert resolved["seed"] == [4, 2]
    assert resolved["compare"] == [
        {"models": ["both", "audio-only"], "training": None, "question": None},
        {"models": None, "training": ["mixed", "standard"], "question": "Does mixing help?"},
    ]
    assert load(loaded.resolved_yaml()).resolved() == resolved


def test_the_spec_keeps_the_text_and_the_names_that_the_author_wrote(good: str, load: Load) -> None:
    loaded = load(good, "seed=4")
    assert loaded.text == good
    assert loaded.spec.data.use == "toy"
    assert loaded.path == Path("s.yaml")
    assert loaded.components["attacks", "strong"].entry.full_name == "avrobust:pgd"
