"""Folders and lists of images, good and bad."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from phiscale.data.find import SAMPLE, Item, _split, find_images, find_labelled, fingerprints, image_files
from phiscale.errors import ArgumentError, DataError, MissingExtraError


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(path)
    return path


def fill(root: Path, first: int = 0, **counts: int) -> Path:
    """root/CLASS/NN.png, all different."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            first += 1
            write(root / name / f"{number:02d}.png", first)
    return root


# --- layouts


def test_one_folder_is_split_in_each_class(tmp_path: Path) -> None:
    found = find_images(fill(tmp_path, b=20, a=10, c=2))
    assert found.classes == ("a", "b", "c")
    assert found.counts() == {"train": {"a": 8, "b": 16, "c": 1}, "val": {"a": 2, "b": 4, "c": 1}}
    assert not {item.path for item in found.splits["train"]} & {item.path for item in found.splits["val"]}
    assert any("set apart as val" in note for note in found.notes)
    assert found == find_images(tmp_path)
    assert found.splits != find_images(tmp_path, seed=1).splits


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_given_splits_are_kept(tmp_path: Path, val: str) -> None:
    fill(tmp_path / "train", a=3, b=2)
    fill(tmp_path / val, first=10, a=1, b=2)
    fill(tmp_path / "test", first=20, a=2, b=1)
    found = find_images(tmp_path)
    assert found.counts() == {"train": {"a": 3, "b": 2}, "val": {"a": 1, "b": 2}, "test": {"a": 2, "b": 1}}
    assert found.notes == ()


def test_train_and_test_alone_give_a_val_from_train(tmp_path: Path) -> None:
    fill(tmp_path / "train", a=10, b=10)
    fill(tmp_path / "test", first=20, a=2, b=1)
    assert find_images(tmp_path).counts() == {"train": {"a": 8, "b": 8}, "val": {"a": 2, "b": 2}, "test": {"a": 2, "b": 1}}


def test_images_may_lie_deeper_and_have_any_known_suffix(tmp_path: Path) -> None:
    fill(tmp_path, a=2, b=2)
    shutil.copy(write(tmp_path / "x.png", 9), tmp_path / "a" / "UPPER.PNG")
    (tmp_path / "x.png").unlink()
    write(tmp_path / "b" / "2024" / "may" / "c.webp", 7)
    assert sum(map(len, find_images(tmp_path).splits.values())) == 6


def test_labels_follow_train_where_val_lacks_a_class(tmp_path: Path) -> None:
    fill(tmp_path / "train", a=2, b=2, c=2)
    fill(tmp_path / "val", first=10, a=1, c=1)
    found = find_images(tmp_path)
    assert [(item.path.parent.name, item.label) for item in found.splits["val"]] == [("a", 0), ("c", 2)]
    assert found.notes == ("val has no images of 1 classes: b",)


def test_the_digits_are_written_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHISCALE_CACHE", str(tmp_path))
    found = find_images("digits")
    assert found.classes == tuple("0123456789")
    assert sum(map(len, found.splits.values())) == 1797
    assert [path.name for path in tmp_path.iterdir()] == ["digits-1"]
    before = (tmp_path / "digits-1").stat().st_mtime_ns
    assert find_images("digits") == found
    assert (tmp_path / "digits-1").stat().st_mtime_ns == before


def test_without_scikit_learn_digits_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHISCALE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install phiscale\[digits\]"):
        find_images("digits")
    assert not list(tmp_path.iterdir())


# --- what can't be used


def test_a_missing_path_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="where there is nothing") as caught:
        find_images(tmp_path / "absent")
    assert caught.value.exit_status == 2


def test_a_file_that_is_no_list_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"got a file, .*x\.png"):
        find_images(write(tmp_path / "x.png", 0))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty; put the images of each class"):
        find_images(tmp_path)


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, flat=3)
    with pytest.raises(DataError, match="has 3 images but no class folders"):
        find_images(tmp_path / "flat")


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has one class, 'a'"):
        find_images(fill(tmp_path, a=3))


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in 1 of 3 classes: c"):
        find_images(fill(tmp_path, a=2, b=2, c=0))


def test_one_image_in_a_class_is_refused_unless_val_is_given(tmp_path: Path) -> None:
    fill(tmp_path / "train", a=3, b=1)
    with pytest.raises(DataError, match="class 'b' has one image"):
        find_images(tmp_path)
    fill(tmp_path / "val", first=10, a=1, b=1)
    assert find_images(tmp_path).counts()["train"] == {"a": 3, "b": 1}


def test_copies_of_one_image_are_one_image(tmp_path: Path) -> None:
    fill(tmp_path, a=3, b=1)
    shutil.copy(tmp_path / "b" / "00.png", tmp_path / "b" / "01.png")
    with pytest.raises(DataError, match="class 'b' has one image"):
        find_images(tmp_path)


def test_a_class_in_val_that_train_lacks_names_both_sides(tmp_path: Path) -> None:
    fill(tmp_path / "train", a=2, b=2)
    fill(tmp_path / "val", first=10, a=1, wasp=1)
    with pytest.raises(DataError, match="val has classes that train lacks: wasp; train has a, b"):
        find_images(tmp_path)


def test_val_without_train_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "val", a=1, b=1)
    with pytest.raises(DataError, match="no train"):
        find_images(tmp_path)


@pytest.mark.parametrize("names", [("Cat", "cat"), ("caf\u00e9", "cafe\u0301")])
def test_classes_that_look_the_same_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    fill(tmp_path, **dict.fromkeys(names, 2))
    if len(os.listdir(tmp_path)) < 2:
        pytest.skip("this file system sees one name")
    with pytest.raises(DataError, match="differ only in case or accents"):
        find_images(tmp_path)


# --- odd files


def test_hidden_files_and_junk_are_ignored_and_other_files_counted(tmp_path: Path) -> None:
    fill(tmp_path, a=2, b=2)
    for name in ("a/._00.png", "a/.DS_Store", "a/Thumbs.db", ".hidden/x.png", "__MACOSX/a/00.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "a" / "notes.txt").write_text("hello")
    write(tmp_path / "loose.png", 99)
    found = find_images(tmp_path)
    assert found.classes == ("a", "b")
    assert sum(map(len, found.splits.values())) == 4
    assert any("1 files" in note and "no image suffix" in note for note in found.notes)
    assert any(note.startswith("1 images in ") for note in found.notes)


def test_looped_links_are_visited_once(tmp_path: Path) -> None:
    fill(tmp_path, a=3, b=3)
    (tmp_path / "a" / "loop").symlink_to("..", target_is_directory=True)
    (tmp_path / "a" / "self").symlink_to(".", target_is_directory=True)
    (tmp_path / "a" / "b").symlink_to("../b", target_is_directory=True)
    (tmp_path / "a" / "ouroboros").symlink_to("ouroboros")
    assert sum(map(len, find_images(tmp_path).splits.values())) == 6


def test_what_is_no_file_is_skipped_with_a_reason(tmp_path: Path) -> None:
    fill(tmp_path, a=2, b=2)
    os.mkfifo(tmp_path / "a" / "fifo.png")
    (tmp_path / "a" / "dangling.png").symlink_to("nowhere")
    (tmp_path / "a" / "folder.png").mkdir()
    skipped = find_images(tmp_path).skipped
    assert [(skip.path.name, skip.code, skip.message) for skip in skipped] == [
        ("dangling.png", "unreadable", "a link to nothing"),
        ("fifo.png", "unreadable", "not a regular file"),
    ]


def test_names_that_are_not_utf8_work(tmp_path: Path) -> None:
    fill(tmp_path, a=2, b=2)
    odd = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(odd)
    for number in range(2):
        shutil.copy(write(tmp_path / "x.png", 50 + number), odd + b"/\xe9%d.png" % number)
    (tmp_path / "x.png").unlink()
    found = find_images(tmp_path)
    assert found.classes[2] == "\udcff\udcfe"
    assert all(item.path.is_file() for items in found.splits.values() for item in items)
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(DataError) as caught:
        find_images(tmp_path)
    str(caught.value).encode("utf-8")


# --- duplicates and the split


def test_the_same_image_in_two_splits_or_under_two_labels_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "train", a=3, b=3)
    fill(tmp_path / "val", first=10, a=1, b=1)
    shutil.copy(tmp_path / "train" / "a" / "00.png", tmp_path / "val" / "a" / "copy.png")
    shutil.copy(tmp_path / "train" / "a" / "01.png", tmp_path / "train" / "b" / "copy.png")
    leak, torn = find_images(tmp_path).notes
    assert leak.startswith("1 images are in more than one of train, val")
    assert torn.startswith("1 images are there under two labels")


def test_files_have_one_word_where_and_only_where_their_bytes_are_the_same(tmp_path: Path) -> None:
    """Those of one size are told apart by their middle, and those that agree there by all of it."""
    alike = bytearray(np.random.default_rng(0).bytes(3 * SAMPLE))
    first, last = bytearray(alike), bytearray(alike)
    first[0] ^= 1
    last[-1] ^= 1
    contents = [alike, first, last, alike, alike[:-1], np.random.default_rng(1).bytes(3 * SAMPLE), b"small", b"smell", b"small", b""]
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    gone = tmp_path / "gone"
    words = fingerprints([*paths, gone])
    for one, own in zip(paths, contents, strict=True):
        assert words[one] != words[gone]
        for other, theirs in zip(paths, contents, strict=True):
            assert (words[one] == words[other]) == (bytes(own) == bytes(theirs)), (one.name, other.name)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=12), min_size=2, max_size=5),
    st.integers(0, 5),
    st.sampled_from([0.1, 0.2, 0.5, 0.9]),
)
def test_equal_files_never_part_and_every_class_is_on_both_sides(classes: list[list[int]], seed: int, share: float) -> None:
    """Any assignment of contents (numbers) to classes: a split that keeps the rules, or a clear refusal."""
    items = tuple(Item(Path(f"{label}/{n}"), label) for label, contents in enumerate(classes) for n in range(len(contents)))
    prints = {item.path: str(classes[item.label][int(item.path.name)]) for item in items}
    names = tuple(str(label) for label in range(len(classes)))
    try:
        train, val = _split(items, prints, names, seed, share)
    except DataError:
        assert any(len(set(contents)) == 1 for contents in classes) or len(set(prints.values())) < len(prints)
        return
    assert sorted((*train, *val), key=str) == sorted(items, key=str)
    assert not {prints[item.path] for item in train} & {prints[item.path] for item in val}
    assert {item.label for item in train} == {item.label for item in val} == set(range(len(classes)))


def test_new_files_move_few_old_ones(tmp_path: Path) -> None:
    before = find_images(fill(tmp_path, a=40, b=40)).splits["val"]
    write(tmp_path / "a" / "new.png", 999)
    after = find_images(tmp_path).splits["val"]
    assert len({item.path for item in before} - {item.path for item in after}) <= 1


# --- lists


def write_csv(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "list.csv").write_bytes(text.encode(encoding))
    return root / "list.csv"


@pytest.mark.parametrize(
    "text",
    [
        "path,label,split\na/00.png,x,train\na/01.png,y,train\nb/00.png,x,valid\nb/01.png,y,val\n",
        "\ufeffpath;label;split\r\na/00.png;x;train\r\na/01.png;y;train\r\n\r\nb/00.png;x;val\r\nb/01.png;y;val",
        'split,extra,Label,Path\ntrain,,x,"a/00.png"\ntrain,,y,a/../a/01.png\nval,,x,./b/00.png\nval,"1\n2",y,b/01.png\n',
    ],
)
def test_a_list_is_read_in_its_usual_dialects(tmp_path: Path, text: str) -> None:
    fill(tmp_path, a=2, b=2)
    found = find_images(write_csv(tmp_path, text))
    assert found.classes == ("x", "y")
    assert [(item.path, item.label) for item in found.splits["val"]] == [(tmp_path / "b/00.png", 0), (tmp_path / "b/01.png", 1)]


def test_a_list_without_splits_is_split(tmp_path: Path) -> None:
    fill(tmp_path, a=5, b=5)
    rows = "".join(f"{name}/{number:02d}.png,{name}\n" for name in "ab" for number in range(5))
    assert find_images(write_csv(tmp_path, "path,label\n" + rows + rows[:11])).counts()["val"] == {"a": 1, "b": 1}


def test_wrong_lines_are_named_by_number(tmp_path: Path) -> None:
    fill(tmp_path, a=3)
    lines = ["a/00.png,x", "../../etc/passwd,x", "/etc/passwd,x", "a/99.png,x", "a/01.png,", ",x", "a/00.png,y", "a/01.png"]
    with pytest.raises(DataError) as caught:
        find_images(write_csv(tmp_path, "path,label\n" + "\n".join(lines) + "\n"))
    message = str(caught.value)
    for words in (
        "7 wrong lines",
        "line 3: ../../etc/passwd is outside the CSV's folder",
        "line 4: /etc/passwd is outside",
        "line 5: there is no file a/99.png",
        "line 6: the label is empty",
        "line 7: the path is empty",
        "line 8: 00.png was 'x' in train on line 2",
        "line 9: has 1 cells, the first line 2",
    ):
        assert words in message


def test_only_the_first_wrong_lines_are_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="50 wrong lines") as caught:
        find_images(write_csv(tmp_path, "path,label\n" + "absent.png,x\n" * 50))
    assert str(caught.value).endswith("and 40 more")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no 'path'"),
        ("path,label\n", "no rows"),
        ("file,class\na/00.png,x\n", "no 'path'"),
        ("path,label,split\na/00.png,x,holdout\n", "split must be train, val or test; got 'holdout'"),
        ("path,label\n" + "x" * 200_000 + ",a\n", "line 2: field larger"),
        ('path,label\n"a/00.png,x\n', "1 wrong line\n"),
    ],
)
def test_a_list_that_makes_no_sense_says_why(tmp_path: Path, text: str, words: str) -> None:
    fill(tmp_path, a=2)
    with pytest.raises(DataError, match=words):
        find_images(write_csv(tmp_path, text))


# --- for evaluation and prediction


def test_evaluation_takes_the_classes_of_the_run(tmp_path: Path) -> None:
    fill(tmp_path / "flat", b=2, c=1)
    found = find_labelled(tmp_path / "flat", classes=("a", "b", "c"))
    assert found.counts() == {"all": {"a": 0, "b": 2, "c": 1}}
    with pytest.raises(DataError, match="train lacks: b"):
        find_labelled(tmp_path / "flat", classes=("a", "c"))
    fill(tmp_path / "sets" / "val", b=1)
    fill(tmp_path / "sets" / "train", b=3)
    assert find_labelled(tmp_path / "sets", classes=("b",)).counts() == {"val": {"b": 1}}
    assert find_labelled(tmp_path / "sets", classes=("b",), split="train").counts() == {"train": {"b": 3}}
    with pytest.raises(DataError, match="has no 'test' images; it has train, val"):
        find_labelled(tmp_path / "sets", classes=("b",), split="test")


def test_image_files_are_sorted(tmp_path: Path) -> None:
    fill(tmp_path, b=2, a=1)
    assert [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)] == ["a/00.png", "b/00.png", "b/01.png"]


def test_finding_imports_no_torch() -> None:
    code = "import sys, phiscale.data.find; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
