"""A head from elsewhere is taken only if its classes are the data set's, by name and in order."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from avrobust_core import audioset_classes, kinetics_classes
from avrobust_core.errors import AvrobustWarning, WeightsError
from avrobust_core.models.checkpoints import read_checkpoint, read_with_classes
from avrobust_core.models.class_names import Offered, read_class_names, takes_head
from avrobust_core.models.saving import save_weights

NAMES = ("Speech", "Dog", "Bark", "Music")


def _takes(stated, classes=NAMES, said=None, outputs=4, head=None) -> bool:
    state = nn.Linear(3, outputs).state_dict() if outputs else {}
    return takes_head("m", head or nn.Linear(3, len(classes)), Offered(state, Path("their.pt"), stated), said, classes)


def test_a_head_is_taken_without_a_word_where_names_and_order_agree() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _takes(NAMES)
        assert _takes(None, said="trusted")
        assert not _takes(NAMES, said="new")
        assert not _takes(None, outputs=0), "a file of an encoder alone"


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (
            ("Speech", "Bark", "Dog", "Music"),
            r"differ 2, at positions 1: 'Dog', not 'Bark', 2: 'Bark', not 'Dog'; .*in another order",
        ),
        (tuple(sorted(NAMES)), r"differ 3, at positions 0: 'Speech', not 'Bark', .*in another order"),
        (("Speech", "dog", "Bark", "Music"), r"differ 1, at positions 1: 'Dog', not 'dog'; they differ in case alone"),
        (("Speech", "Dog", "Barks", "Music"), r"differ 1, at positions 2: 'Bark', not 'Barks'; give the data set"),
        (("0", "1", "2", "3"), r"0: 'Speech', not '0', .*'2', and 1 more; the data set's are numbers"),
        (("0", "1", "3", "2"), r"differ 4, at positions .*'3', and 1 more; give the data set"),
    ],
)
def test_other_names_are_an_error_that_shows_the_first_and_says_what_to_do(classes, said: str) -> None:
    with pytest.raises(WeightsError, match=rf"model 'm': the classes of their\.pt are not .*{said}") as error:
        _takes(NAMES, classes)
    assert "`classes: trusted`" in str(error.value)
    assert "`classes: new`" in str(error.value)
    assert _takes(NAMES, classes, said="trusted")


def test_names_without_an_order_that_is_known_leave_the_head_at_its_start() -> None:
    with pytest.warns(AvrobustWarning, match=r"order the 4 classes of their\.pt are, so that .* `classes: trusted`"):
        assert not _takes(None)


@pytest.mark.parametrize("classes", [NAMES[:3], (*NAMES, "Cat")])
def test_a_head_of_another_size_is_not_taken_and_told(classes) -> None:
    with pytest.warns(
        AvrobustWarning, match=rf"{len(classes)} outputs, .* their\.pt has one of 4 outputs: its head st"
    ):
        assert not _takes(NAMES, classes)
    with pytest.raises(WeightsError, match="has one of 4 outputs: leave `classes` away"):
        _takes(NAMES, classes, said="trusted")
    with pytest.raises(WeightsError, match="has none: leave `classes` away"):
        _takes(None, classes, said="trusted", outputs=0)


def test_a_model_whose_classifier_is_no_part_of_its_own_needs_names_or_trust() -> None:
    inside = {"outputs": 0, "head": nn.Identity()}
    assert _takes(NAMES, **inside)
    assert _takes(None, said="trusted", **inside)
    with pytest.raises(WeightsError, match="it is not known in which order"):
        _takes(None, **inside)
    with pytest.raises(WeightsError, match="needs a head apart"):
        _takes(NAMES, said="new", **inside)
    with pytest.raises(WeightsError, match="in another order"):
        _takes(NAMES[::-1], **inside)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.csv", 'index,mid,display_name\n1,/m/2,"Dog, big"\n0,/m/1,Speech\n'),
        ("a.csv", 'name\nSpeech\n"Dog, big"\n'),
        ("a.txt", "Speech\n Dog, big \n\n"),
        ("a.json", '["Speech", "Dog, big"]'),
        ("a.json", '{"\\"Dog, big\\"": 1, "Speech": 0}'),
        ("a.json", '{"0": "Speech", "1": "Dog, big"}'),
    ],
)
def test_names_are_read_from_a_file_beside_the_weights(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text("\ufeff" + text)
    assert read_class_names(tmp_path / file) == ("Speech", "Dog, big")
    assert _takes(("x", "y"), ("Speech", "Dog, big"), said=tmp_path / file, outputs=2)
    with pytest.raises(WeightsError, match=r"their.pt \(by .*a\..*0: 'Speech', not 'x'"):
        _takes(("x", "y"), ("x", "y"), said=tmp_path / file, outputs=2)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("a.csv", "index,mid\n0,/m/1\n", "no table with a column display_name"),
        ("a.csv", "index,name\n0,a\n2,b\n", "no list of names"),
        ("a.txt", "", "no list of names"),
        ("a.txt", "a\na\n", "twice"),
        ("a.json", "{", "cannot be read"),
        ("a.json", '{"a": "b"}', "no list of names"),
        ("none.txt", None, "cannot be read"),
    ],
)
def test_a_file_without_names_is_named(tmp_path: Path, file: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(WeightsError, match=rf"class names .*{file}: .*{said}"):
        read_class_names(tmp_path / file)


@pytest.mark.parametrize(
    "around",
    [
        lambda state: {"model": state, "classes": list(NAMES)},
        lambda state: {"state_dict": state, "meta": {"CLASSES": NAMES}},
        lambda state: {"model": state, "class_names": dict(enumerate(NAMES))},
        lambda state: {**state, "classes": list(NAMES)},
    ],
)
def test_a_checkpoint_may_hold_the_names_beside_the_weights(tmp_path: Path, around) -> None:
    state = nn.Linear(3, 4).state_dict()
    torch.save(around(state), tmp_path / "w.pt")
    found, names = read_with_classes(tmp_path / "w.pt")
    assert names == NAMES
    assert found.keys() == state.keys() == read_checkpoint(tmp_path / "w.pt").keys()


def test_our_own_files_hold_the_names_and_others_none(tmp_path: Path) -> None:
    save_weights(nn.Linear(3, 4), tmp_path / "ours.safetensors", NAMES)
    assert read_with_classes(tmp_path / "ours.safetensors")[1] == NAMES
    save_weights(nn.Linear(3, 4), tmp_path / "plain.safetensors")
    assert read_with_classes(tmp_path / "plain.safetensors")[1] is None
    for value in ("no JSON", json.dumps("Speech"), json.dumps([1, 2])):
        save_file(nn.Linear(3, 4).state_dict(), tmp_path / "odd.safetensors", {"classes": value})
        assert read_with_classes(tmp_path / "odd.safetensors")[1] is None
    torch.save({"model": nn.Linear(3, 4).state_dict(), "classes": 4}, tmp_path / "w.pt")
    assert read_with_classes(tmp_path / "w.pt")[1] is None


def test_published_lists_have_the_published_positions() -> None:
    audioset, kinetics = audioset_classes(527), kinetics_classes(400)
    assert audioset is not None
    assert kinetics is not None
    assert len({*audioset}) == 527
    assert len({*kinetics}) == 400
    places = {
        0: "Speech",
        137: "Music",
        300: "Vehicle",
        427: "Gunshot, gunfire",
        500: "Silence",
        526: "Field recording",
    }
    assert {place: audioset[place] for place in places} == places
    places = {0: "abseiling", 19: "bench pressing", 231: "playing flute", 290: "sharpening knives", 399: "zumba"}
    assert {place: kinetics[place] for place in places} == places
    assert audioset_classes(400) is None
    assert kinetics_classes(600) is None
