"""What `evaluate` is asked for: attacks under sensible names, and every mistake in plain words that name it."""

import pytest

import avrobust_core
from avrobust_core import AvrobustError, MediaSpec, Registry
from avrobust_core.registry.choices import configure

SPEC = MediaSpec(kind="audio", shape=(1, 12), bounds=(-1, 1))


def built(name="fgsm", **given):
    return configure(Registry.discover(), "attack", name, given).build()


@pytest.mark.parametrize(
    ("attacks", "names"),
    [
        ("fgsm", ["fgsm"]),
        (["fgsm", "noise"], ["fgsm", "noise"]),
        ([{"use": "fgsm"}, {"use": "pgd", "with": {"steps": 2}}, {"use": "pgd"}], ["fgsm", "pgd", "pgd-2"]),
        ({"mine": {"use": "fgsm"}}, ["mine"]),
        ([], []),
        ((), []),
    ],
)
def test_attacks_are_named_by_component(attack, attacks, names):
    assert list(attack(attacks=attacks, threats={"a": {"audio": {"eps": 0.01}}}).summary["robust_accuracy"]) == names


def test_attacks_that_are_built_are_named_by_class_and_numbered(attack):
    one = built()
    name = type(one).__name__
    assert list(attack(attacks=[one, built()]).summary["robust_accuracy"]) == [name, f"{name}-2"]
    assert list(attack(attacks=one).summary["robust_accuracy"]) == [name]


MISTAKES = {
    "bounds of a typo": ({"bounds": {"audoi": (-1, 1)}}, r"bounds are stated for 'audoi'.*did you mean 'audio'\?"),
    "bounds turned round": (
        {"bounds": {"audio": (1, -1)}},
        r"bounds of 'audio' are \(1, -1\), not",
    ),
    "bounds of one": ({"bounds": {"audio": 3}}, r"bounds of 'audio' are 3, not"),
    "bounds of nan": ({"bounds": {"audio": (float("nan"), 1)}}, r"bounds of 'audio' are \(nan, 1\), not"),
    "media of a typo": ({"media": {"vidoe": SPEC}, "bounds": None}, "media are stated for 'vidoe'"),
    "media of no kind": ({"media": {"audio": (1, 12)}, "bounds": None}, "media of 'audio' are tuple, not a MediaSpec"),
    "media and bounds": ({"media": {"audio": SPEC}}, "media and bounds are both stated"),
    "a norm": ({"threats": {"t": {"audio": {"norm": "linff", "eps": 1}}}}, "threat 't', audio: norm: .* not 'linff'"),
    "a radius": (
        {"threats": {"t": {"audio": {"eps": -1}}}},
        "threat 't', audio: eps: .* or equal to 0, not -1",
    ),
    "a fraction": ({"threats": {"t": {"audio": {"eps": "x/y"}}}}, "threat 't', audio: eps: 'x/y' is neither a number"),
    "a ratio": ({"threats": {"t": {"audio": {"eps": {"snr_db": "x"}}}}}, "threat 't', audio: eps: .*valid number"),
    "a field": ({"threats": {"t": {"audio": {"epsilon": 1}}}}, r"epsilon: no such field; did you mean 'eps'\?"),
    "no modality": ({"threats": {"t": {"eps": 1}}}, "threat 't' has eps where modalities are expected"),
    "no budget": ({"threats": {"t": {"audio": 0.1}}}, "threat 't': the budget of 'audio' is a float, not a map"),
    "an empty threat": ({"threats": {"t": {}}}, "threat 't': a threat needs a budget for at least one modality"),
    "a number": ({"threats": {"t": 0.1}}, "threat 't' is float, not a map from modalities to budgets"),
    "a list": ({"threats": [{"audio": {"eps": 1}}]}, "threats are list, not a map from names to threats"),
    "a modality": ({"threats": {"t": {"vidoe": {"eps": 1}}}}, r"'t' attacks 'vidoe', but .* did you mean 'video'\?"),
    "an attack twice": ({"attacks": ["pgd", "pgd"]}, "attack 'pgd' is asked for twice"),
    "no attack": ({"attacks": [None]}, "is None; "),
    "a class": ({"attacks": {"x": avrobust_core.Attack}}, "attack 'x' is Attack, a class: build it first"),
    "a number of attacks": ({"attacks": 3}, "attacks are int, not names"),
    "an unknown attack": ({"attacks": ["pdg"]}, r"no attack is named 'pdg'; did you mean 'pgd'\?"),
    "an entry": ({"attacks": {"x": {"name": "pgd"}}}, "attack 'x': use: required, but not given"),
    "a goal": ({"attacks": {"x": {"use": "pgd", "goal": "wild"}}}, "attack 'x': goal: .*not 'wild'"),
    "a number of classes": ({"classes": 3}, "classes are 3, not the classes' names"),
    "a word of classes": ({"classes": "abc"}, "classes are 'abc', not the classes' names"),
    "a class twice": ({"classes": ["a", "b", "a"]}, "class 'a' is named twice"),
    "a task": ({"task": "multi"}, "task is 'multi', not 'single-label' or 'multi-label'"),
    "samples": ({"samples": 0}, "samples is 0, not a whole number of at least 1"),
    "precision": ({"precision": "bf16"}, "precision is 'bf16', not '32-true' or 'bf16-mixed'"),
    "confidence": ({"confidence": 95}, "confidence is 95, not a number between 0 and 1"),
    "resamples": ({"resamples": 0}, "resamples is 0, not a whole number"),
    "an audit": ({"audit": {"clips": "many"}}, "audit: clips: .*not 'many'"),
    "no audit": ({"audit": "no"}, "audit: .*not 'no'"),
    "a metric": ({"metrics": [3]}, "a metric is a int, not a name or a Metric"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_said_in_one_plain_sentence(attack, name):
    options, message = MISTAKES[name]
    with pytest.raises(AvrobustError, match=message) as caught:
        attack(**options)
    assert "\n" not in str(caught.value)
    assert "function-" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_a_function_is_no_model(attack):
    with pytest.raises(AvrobustError, match=r"the model is function, no torch.nn.Module: wrap it in one"):
        attack(lambda inputs: inputs["audio"])


def test_metrics_may_be_one_name(attack):
    assert {entry["metric"] for entry in attack(metrics="accuracy").summary["metrics"]} == {"accuracy"}
