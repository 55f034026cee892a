"""Manifests: what is read, and that every fault is named with its line and what to do."""

import os
import random
import unicodedata
import warnings

import pytest
from avrobust_data.configs import ClipsConfig
from avrobust_data.manifest import ordered, read_manifest
from avrobust_data.listing import Entry
from avrobust_data.rows import copies

from avrobust_core import AvrobustWarning, DataError


def read(path, **options):
    return read_manifest(ClipsConfig(manifest=path, **options))


def rows_of(manifest):
    """(id, path, labels, split) of each row."""
    return [
        (row.id, row.path, tuple(manifest.classes[i] for i in row.labels), row.split) for row in manifest.entries()
    ]


def test_rows_are_read_in_order_and_other_columns_ignored(write_manifest) -> None:
    text = "path,speaker,label,split\n b.mp4 ,x,dog,train\n\n,,,\na.mp4,y, cat ,test\nc.mp4,y,cat,train\n"
    manifest = read(write_manifest("\ufeff" + text))
    assert rows_of(manifest) == [
        ("b.mp4", "b.mp4", ("dog",), "train"),
        ("a.mp4", "a.mp4", ("cat",), "test"),
        ("c.mp4", "c.mp4", ("cat",), "train"),
    ]
    assert manifest.task == "single-label"
    assert manifest.classes == ("cat", "dog")


@pytest.mark.parametrize(("separator", "cell"), [("|", "dog| bark |dog|"), (";", "dog;bark"), (",", '"dog,bark"')])
def test_labels_are_split_stripped_and_counted_once(write_manifest, separator, cell) -> None:
    manifest = read(write_manifest(f"path,labels,split\na,{cell},train\nb,bark,test\n"), separator=separator)
    assert manifest.task == "multi-label"
    assert rows_of(manifest)[0][2] == ("dog", "bark")
    assert manifest.classes == ("bark", "dog")


def test_ids_may_be_given_and_classes_ordered(write_manifest) -> None:
    path = write_manifest("split,id,path,label\ntest,one,a.mp4,dog\ntest,two,b.mp4,cat\n")
    manifest = read(path, classes=("dog", "cat", "cow"))
    assert list(manifest.texts("id")) == ["one", "two"]
    assert manifest.classes == ("dog", "cat", "cow")


def test_all_faulty_rows_are_reported_together_with_their_lines(write_manifest) -> None:
    path = write_manifest(
        "id,path,label,split\n"
        "1,a.mp4,cat,train\n"
        "2,b.mp4,,train\n"  # line 3
        "3,c.mp4,dgo,train\n"  # line 4
        "1,d.mp4,dog,tset\n"  # line 5, two faults
        "5,e.mp4,dog\n"  # line 6
        ",,dog,test\n"  # line 7, two faults
    )
    with pytest.raises(DataError) as caught:
        read(path, classes=("cat", "dog"))
    message = str(caught.value)
    assert "has 7 faults" in message
    assert f"{path}:3: the label is empty" in message
    assert f"{path}:4: the label 'dgo' is not in data.with.classes (did you mean 'dog'?)" in message
    assert f"{path}:5: the split 'tset' is none of train, val, test (did you mean 'test'?)" in message
    assert f"{path}:5: its id '1' is that of line 2" in message
    assert f"{path}:6: has 3 cells where the header has 4" in message
    assert message.endswith("and 2 more")


def test_a_path_twice_asks_for_ids(write_manifest) -> None:
    with pytest.raises(DataError, match=r":3: its id 'a.mp4' is that of line 2; give the rows a column 'id'"):
        read(write_manifest("path,label,split\na.mp4,x,train\na.mp4,y,train\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n# a comment\n", "is empty"),
        ("path,label,split\n", "no rows"),
        ("file,label,split\na,x,train\n", r":1: the header is file, label, split; it lacks path"),
        ("path,split\na,train\n", r"it lacks label \(or labels"),
        ("path,label,labels,split\na,x,x,train\n", "keep either label"),
        ("path,path,label,split\na,a,x,train\n", "column path is there 2 times"),
        ("path,label,split\na,x,train\n", "a classifier needs two classes"),
        ('path,label,split\na,"x,train\n', r":2: not CSV"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(write_manifest, text, message) -> None:
    with pytest.raises(DataError, match=message):
        read(write_manifest(text))


def test_a_manifest_that_cannot_be_read_says_why(tmp_path) -> None:
    with pytest.raises(DataError, match=r"there is no manifest .*missing\.csv"):
        read(tmp_path / "missing.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)
    latin = tmp_path / "latin.csv"
    latin.write_bytes("path,label,split\na,caf\xe9,train\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv:2: the manifest is not UTF-8 \(byte 22\); save it as UTF-8"):
        read(latin)
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="a pipe"):
        read(pipe)


PLAIN = 'path,label,split\na.mp4,"Male speech, man",train\nb.mp4,Dog,train\nc.mp4,Dog,test\n'


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.replace(",", ", ").replace("speech, ", "speech,").encode(),  # a blank before each cell, quoted or not
        PLAIN.replace('"Male speech, man"', "Male speech@ man").replace(",", ";").replace("@", ",").encode(),
        PLAIN.replace('"Male speech, man"', "Male speech@ man").replace(",", "\t").replace("@", ",").encode(),
        PLAIN.encode("utf-16"),
        PLAIN.replace('"Male speech, man"', "Male speech@ man").replace(",", "\t").replace("@", ",").encode("utf-16"),
        PLAIN.encode("utf-32"),
        PLAIN.replace("\n", "\r").encode(),  # as old Macs end lines
        PLAIN.replace("\n", "\r\n").encode("utf-8-sig"),
        b"# Segments csv created Sun Mar  5 10:54:31 2017\n#, x\n\n" + PLAIN.encode(),
        PLAIN.replace("path,label,split", "Path,LABEL, Split").encode(),
    ],
)
def test_tables_as_people_have_them_are_read(tmp_path, content) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content.replace(b"speech,man", b"speech, man"))
    manifest = read(path)
    assert [row[1:] for row in rows_of(manifest)] == [
        ("a.mp4", ("Male speech, man",), "train"),
        ("b.mp4", ("Dog",), "train"),
        ("c.mp4", ("Dog",), "test"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('path,label,split\na.mp4,\t"x",train\n', r":2: the label .* before its quote that looks like a blank"),
        ('path,label,split\na.mp4,"x"y,train\n', r":2: not CSV: .*ends right before the next"),
        ('path,label,split\na.mp4,x,train\nb.mp4,"y,train\nc.mp4,x,test\n', r":3: not CSV"),
        ("path,label,split\na.mp4,x\0,train\nb.mp4,y,test\n", r":2: the manifest has a NUL"),
        ("path,label,split\na.mp4,x\x1b[31m,train\n", r":2: the label 'x\\x1b\[31m' has a control character"),
        ("path,label,split\na.mp4," + "x" * 501 + ",train\n", r":2: the label has 501 characters, more than 500"),
        ("path,label,split\na.mp4," + "x" * 200_000 + ",train\n", r":2: not CSV: field larger than"),
        ("path,label,split,group\na.mp4,x,train,\n", r":2: the group is empty"),
        (
            "path,la\x1b[2Jbel,split\na.mp4,x,train\n",
            r":1: the header is path, 'la\\x1b\[2Jbel', split; it lacks label",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(write_manifest, text, message) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(write_manifest(text))
    assert len(str(caught.value)) < 700


def test_groups_are_read(write_manifest) -> None:
    manifest = read(write_manifest("path,label,split,Group\na.mp4,x,train, ann \nb.mp4,y,train,bob\n"))
    assert list(manifest.texts("group")) == ["ann", "bob"]


@pytest.mark.parametrize(
    "spelling", ["a.mp4", "./a.mp4", "sub/../a.mp4", "gone/../a.mp4", "link.mp4", "hard.mp4", None]
)
@pytest.mark.parametrize("there", [True, False])
def test_a_file_in_two_splits_is_refused_with_both_lines(tmp_path, write_manifest, spelling, there) -> None:
    (tmp_path / "sub").mkdir()
    if there:
        (tmp_path / "a.mp4").write_bytes(b"a")
        (tmp_path / "link.mp4").symlink_to("a.mp4")
        os.link(tmp_path / "a.mp4", tmp_path / "hard.mp4")
    elif spelling in ("link.mp4", "hard.mp4"):
        pytest.skip("no file, no link to it")
    path = spelling or str(tmp_path / "a.mp4")
    manifest = write_manifest(f"id,path,label,split\n1,a.mp4,x,train\n2,b.mp4,y,train\n3,{path},x,test\n")
    with pytest.raises(DataError, match=r"manifest.csv:4: its file .* is that of line 2.*split 'train', not 'test'"):
        read(manifest)


@pytest.mark.parametrize(("column", "other"), [("label", "y"), ("labels", "x|y")])
def test_a_file_with_contradictory_labels_is_refused_with_both_lines(write_manifest, column, other) -> None:
    text = f"id,path,{column},split\n1,a.mp4,x,train\n2,b.mp4,y,train\n3,./a.mp4,{other},train\n"
    with pytest.raises(DataError, match=r":4: its file './a.mp4' is that of line 2 \('a.mp4'\), which is labelled 'x'"):
        read(write_manifest(text))


def test_spellings_of_one_character_are_one_class(write_manifest) -> None:
    apart = unicodedata.normalize("NFD", "café")
    path = write_manifest(f"path,label,split\na.mp4,café,train\nb.mp4,{apart},test\nc.mp4,x,train\n")
    assert read(path).classes == ("café", "x")
    assert read(path, classes=("x", apart)).classes == ("x", "café")
    with pytest.raises(DataError, match="names 'café' twice"):
        read(path, classes=("x", apart, "café"))


@pytest.mark.parametrize("other", ["dog bark", "Dog  bark", "Dog\u00a0bark", "Dog bark\u200b", "\uff24og bark"])
def test_labels_that_look_alike_are_warned_of(write_manifest, other) -> None:
    path = write_manifest(f"path,label,split\na.mp4,Dog bark,train\nb.mp4,{other},train\nc.mp4,Dog bark,test\n")
    with pytest.warns(AvrobustWarning, match=r"different classes .*'Dog bark' \(2\)"):
        manifest = read(path)
    assert len(manifest.classes) == 2


def test_classes_without_a_clip_to_learn_from_are_warned_of(write_manifest) -> None:
    text = "path,label,split\na.mp4,x,train\nb.mp4,y,train\nc.mp4,z,test\nd.mp4,x,test\n"
    with pytest.warns(AvrobustWarning, match=r"1 of the 2 classes of split 'test' .* 'z' \(line 4\)"):
        read(write_manifest(text))


def test_files_that_count_twice_are_warned_of(write_manifest) -> None:
    text = "path,label,split\na.mp4,x,train\nb.mp4,y,train\n./a.mp4,x,train\n"
    with pytest.warns(AvrobustWarning, match="1 rows have a file .*line 4 has that of line 2"):
        read(write_manifest(text))


def test_copies_across_splits_are_told() -> None:
    splits = (("a", "train"), ("b", "test"), ("c", "test"))
    rows = [Entry(name, name, None, None, (0,), split, None) for name, split in splits]
    assert list(copies(rows, ["1", "2", "1"])) == [
        "1 files are copies of one in another split, as if what is tested was learned: 'c' in 'test' and 'a' in 'train'"
    ]
    assert not list(copies(rows, ["", "", ""]))  # what cannot be read is no copy of anything


def test_an_ordinary_manifest_raises_no_warning(write_manifest) -> None:
    text = "path,label,split\na.mp4,Dog,train\nb.mp4,Dog bark,train\nc.mp4,Dog,test\nd.mp4,10,val\ne.mp4,10,train\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(write_manifest(text))


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ([str(number) for number in range(12)], [str(number) for number in range(12)]),
        (["10.0", "9.0", "0.0"], ["0.0", "9.0", "10.0"]),
        (["-1", "3", "+2"], ["-1", "+2", "3"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["10.5", "9.5"], ["10.5", "9.5"]),
    ],
)
def test_numbered_classes_are_in_the_order_of_their_numbers(labels, order) -> None:
    assert ordered(reversed(labels)) == tuple(order)


def test_a_damaged_manifest_is_read_or_refused_in_plain_text(tmp_path) -> None:
    rng = random.Random(5)
    whole = 'id,path,labels,split,group\n1,a.mp4,"x|y, z",train,s1\n2,b.mp4, é|x ,test,s2\n3,"c d.mp4",12,train,s1\n'
    pieces = [
        '"',
        ",",
        "\n",
        "\r",
        "\0",
        ";",
        "\t",
        "\ufeff",
        "#",
        "|",
        "\x1b[2J",
        "\u202e",
        "\x85",
        "../",
        "/",
        "9" * 5000,
    ]
    path = tmp_path / "manifest.csv"
    refusals = []
    for _ in range(500):
        text = whole
        for _ in range(rng.choice((1, 2, 4))):
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(pieces) + text[at + rng.choice((0, 0, 1, 8)) :]
        data = bytearray(
            text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-16-le", "latin-1")), "replace")
        )
        if rng.random() < 0.2:
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AvrobustWarning)
            try:
                read(path)
            except DataError as error:
                refusals.append(str(error))
    assert 20 < len(refusals) < 480
    assert max(map(len, refusals)) < 4000
    assert all(character.isprintable() or character == "\n" for message in refusals for character in message)
