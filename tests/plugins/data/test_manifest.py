"""Manifests: what is read, and that every fault is named with its line and what to do."""

import pytest
from avrobust_data.manifest import Row, read_manifest

from avrobust_core import DataError


def read(path, **options):
    return read_manifest(path, **{"splits": ("train", "val", "test"), **options})


def test_rows_are_read_in_order_and_other_columns_ignored(write_manifest) -> None:
    text = "path,speaker,label,split\n b.mp4 ,x,dog,train\n\n,,,\na.mp4,y, cat ,test\n"
    manifest = read(write_manifest("\ufeff" + text))
    assert manifest.rows == (Row("b.mp4", "b.mp4", ("dog",), "train"), Row("a.mp4", "a.mp4", ("cat",), "test"))
    assert manifest.task == "single-label"
    assert manifest.classes == ("cat", "dog")


@pytest.mark.parametrize(("separator", "cell"), [("|", "dog| bark |dog|"), (";", "dog;bark"), (",", '"dog,bark"')])
def test_labels_are_split_stripped_and_counted_once(write_manifest, separator, cell) -> None:
    manifest = read(write_manifest(f"path,labels,split\na,{cell},train\nb,bark,test\n"), separator=separator)
    assert manifest.task == "multi-label"
    assert manifest.rows[0].labels == ("dog", "bark")
    assert manifest.classes == ("bark", "dog")


def test_ids_may_be_given_and_classes_ordered(write_manifest) -> None:
    path = write_manifest("split,id,path,label\ntrain,one,a.mp4,dog\ntest,two,a.mp4,cat\n")
    manifest = read(path, classes=("dog", "cat", "cow"))
    assert [row.id for row in manifest.rows] == ["one", "two"]
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
    with pytest.raises(DataError, match="not UTF-8"):
        read(latin)
