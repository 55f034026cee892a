"""Manifests: what is read, and that every fault is named with its line and what to do."""

import os
import random
import unicodedata
import warnings

import pytest
from avrobust_data.cells import Cells
from avrobust_data.configs import ClipsConfig
from avrobust_data.listing import Entry
from avrobust_data.manifest import ordered, read_manifest
from avrobust_data.rows import copies

from avrobust_core import AvrobustWarning, DataError


def read(path, **options):
    return read_manifest(ClipsConfig(manifest=path, **options))


def rows_of(manifest):
    """(id, path, labels, split) of each row."""
    return [(row.id, row.path, tuple(manifest.classes[i] for i in row.labels), row.split) for row in manifest.entries()]


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
        PLAIN.replace("\n", ",\n").encode(),  # a delimiter ends each line
        PLAIN.replace("train\n", "train,\n").encode(),  # or some lines
        PLAIN.replace("split\n", "split,,\n").encode(),  # or the header's
        b"sep=,\r\n" + PLAIN.encode(),
        PLAIN.replace("split", "split,note,note")
        .replace("train\n", 'train,"one\ntwo",7\n')
        .replace("test", "test,,")
        .encode(),
        b"\xff\xfe" + PLAIN.encode("utf-16-le"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
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
        ("path,label,split\na.mp4;x;train\n", r":2: has 1 cells .* separated by ';', unlike the header's"),
        ("path;label;split\na.mp4,x,train\n", r":2: has 1 cells .* separated by ',', unlike the header's"),
        ("path,label,split\na.mp4,x,train,z\n", r":2: has 4 cells where the header has 3"),
        ('path,label,split\na.mp4,"x\ny",train\n', r":3: the label 'x\\ny' has a control character"),
        ("path,label,split\n~/a.mp4,x,train\n", r":2: the path '~/a.mp4' begins with ~"),
        ("path,label,split\nhttps://x.org/a.mp4,x,train\n", r":2: the path .* is an address of the network"),
        ("path,label,split\nC:\\clips\\a.mp4,x,train\n", r":2: the path .* is a path of Windows"),
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


def test_ids_stay_as_they_are_written(write_manifest) -> None:
    manifest = read(write_manifest("id,path,label,split\n007,a.mp4,x,train\n7,b.mp4,y,train\n7.0,c.mp4,y,train\n"))
    assert list(manifest.texts("id")) == ["007", "7", "7.0"]


def test_chunks_change_nothing_of_what_is_read_or_refused(write_manifest, monkeypatch) -> None:
    rows = [f"{i},{i % 50}{'a' * (i // 50)}.mp4,l{i % 7}|l{i % 3}|l{i % 7},train" for i in range(100)]
    path = write_manifest("\n".join(["id,path,labels,split", *rows]) + "\n")
    whole = read(path)
    monkeypatch.setattr("avrobust_data.manifest._CHUNK", 7)
    assert rows_of(read(path)) == rows_of(whole)
    assert rows_of(whole)[8] == ("8", "8.mp4", ("l1", "l2"), "train")
    rows[3], rows[60], rows[90] = rows[90], rows[60].replace("train", "trian"), "x,,a,train"
    path = write_manifest("\n".join(["id,path,labels,split", *rows, "3,b.mp4,l1,train"]) + "\n")
    rows[61] = rows[62]
    with pytest.raises(DataError) as caught:
        read(write_manifest("\n".join(["id,path,labels,split", *rows, "3,b.mp4,l1,train"]) + "\n"))
    found = [line.split(".csv:")[1] for line in str(caught.value).splitlines()[1:]]
    assert [line.split(" ")[0] for line in found] == ["62:", "64:", "92:"]
    assert "the split 'trian' is none of train, val, test (did you mean 'train'?)" in found[0]
    assert "its id '62' is that of line 63" in found[1]
    assert "the path is empty" in found[2]


SEGMENTS = "id,path,start,stop,label,split\n"


def test_segments_of_a_file_are_clips_of_their_own(write_manifest) -> None:
    text = SEGMENTS + "1,a.mp4,0,10,x,train\n2,./a.mp4,10,20.5,y,train\n3,b.mp4,,5,y,train\n4,b.mp4, 5 ,,x,train\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = read(write_manifest(text))
    times = [(0.0, 10.0), (10.0, 20.5), (None, 5.0), (5.0, None)]
    assert [(row.start, row.stop) for row in manifest.entries()] == times


@pytest.mark.parametrize(
    ("start", "stop", "message"),
    [
        ("10", "10", "the stop '10' is not after the start '10'"),
        ("", "0", "the stop '0' is not after the start '0'"),
        ("-1", "2", "the start '-1' is no time"),
        ("1", "x", "the stop 'x' is no time; write seconds"),
        ("nan", "", "the start 'nan' is no time"),
        ("", "inf", "the stop 'inf' is no time"),
        ("00:01:10", "", "the start '00:01:10' is no time"),
        ("1_0", "", "the start '1_0' is no time"),
        ('"1,5"', "3", "the start '1,5' is no time"),
    ],
)
def test_times_that_are_none_are_refused_with_their_line(write_manifest, start, stop, message) -> None:
    text = f"{SEGMENTS}1,a.mp4,0,1,x,train\n2,b.mp4,{start},{stop},y,train\n"
    with pytest.raises(DataError, match=f"has 1 fault:\n.*:3: {message}"):
        read(write_manifest(text))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "1,a.mp4,0,10,x,train\n2,a.mp4,9,20,y,test\n",
            ":3: its file 'a.mp4' is that of line 2, which is in split 'train'",
        ),
        (
            "1,a.mp4,9,20,x,train\n2,a.mp4,0,10,y,test\n",
            ":3: its file 'a.mp4' is that of line 2, which is in split 'train'",
        ),
        ("1,a.mp4,0,10,x,train\n2,a.mp4,,,y,test\n", ":3: its file 'a.mp4' is that of line 2"),
        ("1,a.mp4,,,x,train\n2,a.mp4,5,6,y,train\n3,a.mp4,100,101,y,test\n", ":4: its file 'a.mp4' is that of line 2"),
        ("1,a.mp4,0,10,x,train\n2,a.mp4,0.0,10.0,y,train\n", ":3: .* which is labelled 'x', not 'y'"),
    ],
)
def test_segments_that_contradict_each_other_are_refused(write_manifest, rows, message) -> None:
    with pytest.raises(DataError, match=f"has 1 fault:\n.*{message}"):
        read(write_manifest(SEGMENTS + rows))


def test_a_file_with_segments_in_two_splits_is_warned_of(write_manifest) -> None:
    rows = "1,a.mp4,0,10,x,train\n2,a.mp4,10,20,y,train\n3,a.mp4,20,30,x,test\n4,b.mp4,,,y,test\n"
    with pytest.warns(AvrobustWarning, match=r"1 files have segments in several splits.*'a.mp4' \(lines 2 and 4\)"):
        read(write_manifest(SEGMENTS + rows))


def test_ends_under_another_name_are_warned_of(write_manifest) -> None:
    rows = "1,a.mp4,0,10,x,train\n2,b.mp4,10,20,y,train\n"
    with pytest.warns(AvrobustWarning, match="the column 'end' is not read"):
        read(write_manifest(SEGMENTS.replace("stop", "end") + rows))


@pytest.mark.parametrize("path", ["/etc/passwd", "../b.mp4", "sub/../../b.mp4", "{root}2/b.mp4", "{root}/../b.mp4"])
def test_paths_stay_below_the_root_unless_they_may_leave_it(tmp_path, write_manifest, path) -> None:
    path = path.format(root=tmp_path)
    text = f"path,label,split\na.mp4,x,train\n{path},y,train\n"
    with pytest.raises(DataError, match=r":3: the path .* is outside of the root .* data.with.outside_root: true"):
        read(write_manifest(text))
    assert rows_of(read(write_manifest(text), outside_root=True))[1][1] == path
    assert len(read(write_manifest(text), root="/")) == 2


@pytest.mark.parametrize("path", ["{root}/b.mp4", "sub/../b.mp4", "..b.mp4", "b..mp4", "~b.mp4", "a:b.mp4"])
def test_paths_below_the_root_may_be_spelled_in_any_way(tmp_path, write_manifest, path) -> None:
    path = path.format(root=tmp_path)
    assert len(read(write_manifest(f"path,label,split\na.mp4,x,train\n{path},y,train\n"))) == 2


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("a%20b.mp4", "a b.mp4"),
        ("sub\\a.mp4", "sub/a.mp4"),
        ("é.mp4", unicodedata.normalize("NFD", "é.mp4")),
        (unicodedata.normalize("NFD", "é.mp4"), "é.mp4"),
    ],
)
def test_paths_of_another_spelling_than_the_files_are_warned_of(tmp_path, write_manifest, written, there) -> None:
    (tmp_path / "sub").mkdir()
    text = f"path,label,split\n{written},x,train\nb%20.mp4,y,train\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(write_manifest(text))
        (tmp_path / written).write_bytes(b"")
        read(write_manifest(text))
    (tmp_path / written).unlink()
    (tmp_path / there).write_bytes(b"")
    with pytest.warns(AvrobustWarning, match="spelled otherwise is there") as caught:
        read(write_manifest(text))
    assert f"{written!r} ({there!r} is there)" in str(caught[0].message)


@pytest.mark.parametrize("text", ["1\n\n# of 2020\n 3 \n9\n", "split;ID\ntrain;3\ntest;1\ntest;9\n", "id\n1\n3\n9\n"])
def test_a_list_of_ids_chooses_rows_and_keeps_the_classes(tmp_path, write_manifest, text) -> None:
    (tmp_path / "ids.txt").write_text(text)
    path = write_manifest("id,path,label,split\n1,a.mp4,x,train\n2,b.mp4,y,train\n3,c.mp4,x,train\n")
    with pytest.warns(AvrobustWarning, match=r"lacks 1 of the 3 ids of .*ids.txt: 9$"):
        manifest = read(path, ids=tmp_path / "ids.txt")
    assert list(manifest.texts("id")) == ["1", "3"]
    assert manifest.classes == ("x", "y")


@pytest.mark.parametrize(
    ("text", "message"), [("8\n9\n", "none of the 2 ids"), ("# none\n", "no id"), (None, "no ids")]
)
def test_a_list_of_ids_that_chooses_nothing_is_refused(tmp_path, write_manifest, text, message) -> None:
    if text is not None:
        (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read(write_manifest("id,path,label,split\n1,a.mp4,x,train\n2,b.mp4,y,train\n"), ids=tmp_path / "ids.txt")


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


@pytest.mark.parametrize("column", ["label", "labels"])
@pytest.mark.parametrize("joined", ["dog;cat", "dog / cat", '"cat, dog, dog"'])
def test_labels_that_are_others_joined_together_are_warned_of(write_manifest, column, joined) -> None:
    path = write_manifest(f"path,{column},split\na.mp4,dog,train\nb.mp4,cat,train\nc.mp4,{joined},train\n")
    with pytest.warns(AvrobustWarning, match=f"1 labels are other labels joined together.*{joined[1:-1]}"):
        read(path)


def test_labels_of_missing_values_are_warned_of(write_manifest) -> None:
    with pytest.warns(AvrobustWarning, match="where a value is missing are classes as they stand: 'NaN'"):
        read(write_manifest("path,label,split\na.mp4,dog,train\nb.mp4,NaN,train\n"))


def test_classes_without_a_clip_to_learn_from_are_warned_of(write_manifest) -> None:
    text = "path,label,split\na.mp4,x,train\nb.mp4,y,train\nc.mp4,z,test\nd.mp4,x,test\n"
    with pytest.warns(AvrobustWarning, match=r"1 of the 2 classes of split 'test' .* 'z' \(line 4\)"):
        read(write_manifest(text))


def test_classes_that_only_train_has_are_warned_of(write_manifest) -> None:
    text = "path,label,split\na.mp4,x,train\nb.mp4,y,train\nc.mp4,x,test\nd.mp4,x,val\n"
    with pytest.warns(AvrobustWarning, match="1 of the 2 classes of 'train' have no clip in another split.*'y'"):
        read(write_manifest(text))


def test_files_that_count_twice_are_warned_of(write_manifest) -> None:
    text = "path,label,split\na.mp4,x,train\nb.mp4,y,train\n./a.mp4,x,train\n"
    with pytest.warns(AvrobustWarning, match="1 rows have a file .*line 4 has that of line 2"):
        read(write_manifest(text))


def test_copies_across_splits_are_told() -> None:
    splits = (("a", "train"), ("b", "test"), ("c", "test"))
    rows = [Entry(name, name, None, None, None, (0,), split, None) for name, split in splits]
    assert list(copies(rows, ["1", "2", "1"])) == [
        "1 files are copies of one in another split, as if what is tested was learned: 'c' in 'test' and 'a' in 'train'"
    ]
    assert not list(copies(rows, ["", "", ""]))  # what cannot be read is no copy of anything


def test_an_ordinary_manifest_raises_no_warning(write_manifest) -> None:
    text = "path,label,split\na.mp4,Dog,train\nb.mp4,Dog bark,train\nc.mp4,Dog,test\nd.mp4,10,val\ne.mp4,10,train\n"
    text += "f.mp4,Dog bark,test\n"
    text += 'g.mp4,"Dog, barking",train\nh.mp4,"Dog, barking",val\n'
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


def test_a_damaged_manifest_is_read_or_refused_in_plain_text_and_alike_in_chunks_and_rows(
    tmp_path, monkeypatch
) -> None:
    def outcome():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AvrobustWarning)
            try:
                manifest = read(path)
                return manifest.classes, list(manifest.entries())
            except DataError as error:
                return str(error)

    rng = random.Random(5)
    whole = (
        'id,path,start,labels,split,group\n1,a.mp4,0,"x|y, z",train,s1\n2,b.mp4,, é|x ,test,s2\n'
        '3,"c d.mp4",1.5,12,train,s1\n'
    )
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
    for _ in range(300):
        text = whole
        for _ in range(rng.choice((1, 1, 2))):
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(pieces) + text[at + rng.choice((0, 0, 1, 8)) :]
        data = bytearray(
            text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-16-le", "latin-1")), "replace")
        )
        if rng.random() < 0.2:
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        found = outcome()
        with monkeypatch.context() as patch:
            patch.setattr(Cells, "_sound", lambda self, raw, cells: False)
            assert outcome() == found
        if isinstance(found, str):
            refusals.append(found)
    assert 20 < len(refusals) < 280
    assert max(map(len, refusals)) < 4000
    assert all(character.isprintable() or character == "\n" for message in refusals for character in message)
