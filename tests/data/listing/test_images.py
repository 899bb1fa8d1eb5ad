"""Which files arguments stand for, in which order, with which labels."""

import io
import os
from pathlib import Path, PurePath

import pytest
from heard import Heard
from PIL import Image as PillowImage
from traced_memory import traced_memory

from dino_cli.data.decoding.decode import UnreadableImage, read_image
from dino_cli.data.listing.globs import expand_braces
from dino_cli.data.listing.images import absolute_argument, find_images
from dino_cli.errors import TaskError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def found(*arguments: object) -> list[tuple[str, str]]:
    return [(str(i.relative), i.label) for i in find_images([str(a) for a in arguments])]


def test_a_folder_is_searched_sorted_and_labelled(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jpg", "b/10.PNG", "a/x/deep.webp", "a/1.jpeg", "top.tif", "a/notes.md")
    touch(tmp_path, ".hidden.jpg", "b/.cache/3.jpg", "b/movie.mp4", "b/page.pdf", "c/list.txt")
    assert found(tmp_path) == [
        ("a/1.jpeg", "a"),
        ("a/x/deep.webp", "a"),
        ("b/10.PNG", "b"),
        ("b/2.jpg", "b"),
        ("top.tif", ""),
    ]


def test_paths_are_joined_to_the_argument_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "photos/cat/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert [i.path for i in find_images(["photos"])] == [Path("photos/cat/1.jpg")]
    assert [i.path for i in find_images([str(tmp_path)])] == [tmp_path / "photos/cat/1.jpg"]


def test_single_files_of_any_suffix_in_the_order_given(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.weird")
    assert found(tmp_path / "b.jpg", tmp_path / "a.weird") == [("b.jpg", ""), ("a.weird", "")]


def test_links_are_followed_without_loops(tmp_path: Path) -> None:
    touch(tmp_path, "data/cats/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "data/dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/cats/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert found(tmp_path / "data") == [
        ("cats/1.jpg", "cats"),
        ("dogs/2.jpg", "dogs"),
        ("gone.jpg", ""),
    ]


def test_pipes_are_passed_over_and_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "2.jpg")
    assert found(tmp_path) == [("1.jpg", "")]
    with pytest.raises(TaskError, match="neither a file nor a folder"):
        found(tmp_path / "2.jpg")


def test_the_same_file_twice_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.jpg")
    monkeypatch.chdir(tmp_path)
    heard = Heard()
    arguments = ["a/2.jpg", ".", str(tmp_path / "a" / "1.jpg")]
    images = find_images(arguments, reporter=heard)
    assert [str(i.path) for i in images] == ["a/2.jpg", "a/1.jpg"]
    assert heard.remarks == ["2 pictures are named more than once; each is used once"]


def test_lists_are_relative_to_themselves(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.jpg")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa/2.jpg\r\n\r\na/1.jpg\r\n")
    images = find_images([str(tmp_path / "list.txt")])
    assert [i.path for i in images] == [tmp_path / "a/2.jpg", tmp_path / "a/1.jpg"]
    assert [i.label for i in images] == ["", ""]  # one parent folder says nothing
    assert [i.relative for i in images] == [PurePath("a/2.jpg"), PurePath("a/1.jpg")]


def test_folders_given_one_by_one_are_classes_when_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "p/cat/1.jpg", "p/dog/2.jpg", "p/dog/old/3.jpg", "q/dog/4.jpg")
    monkeypatch.chdir(tmp_path / "p")

    def labels(*arguments: str) -> dict[str, str]:
        files = find_images(arguments)
        told = files.labelled()
        assert [(a.path, a.relative) for a in told] == [(b.path, b.relative) for b in files]
        return {file.path.stem: file.label for file in told}

    assert labels("*/*.jpg") == {"1": "cat", "2": "dog"}
    assert labels("dog/2.jpg", "cat", "../q/dog") == {"1": "cat", "2": "dog", "4": "dog"}
    assert labels("../p/dog/../cat/.", "dog/2.jpg") == {"1": "cat", "2": "dog"}
    assert labels("cat", "dog") == {"1": "", "2": "", "3": "old"}  # a folder says a class
    assert labels("dog/2.jpg", "../q/dog") == {"2": "", "4": ""}  # one class is none
    assert labels(".") == {"1": "cat", "2": "dog", "3": "dog"}


def test_labels_of_lists(tmp_path: Path) -> None:
    (tmp_path / "folders.txt").write_text("a/1.jpg\nb/1.jpg\n")
    (tmp_path / "columns.txt").write_text("a/1.jpg\ttabby cat\nb/2.jpg\nb/3.jpg\t\n")
    assert found(tmp_path / "folders.txt") == [("a/1.jpg", "a"), ("b/1.jpg", "b")]
    assert found(tmp_path / "columns.txt") == [
        ("a/1.jpg", "tabby cat"),
        ("b/2.jpg", ""),
        ("b/3.jpg", ""),
    ]


def test_odd_names_in_lists(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b" # sp ace.jpg\n\xff\xe9.jpg\n")
    paths = [i.path for i in find_images([str(tmp_path / "list.txt")])]
    assert paths[0] == tmp_path / " # sp ace.jpg"
    assert os.fsencode(paths[1].name) == b"\xff\xe9.jpg"


def test_absolute_lists_mirror_below_their_common_folder(tmp_path: Path) -> None:
    list_file = tmp_path / "lists" / "l.txt"
    touch(tmp_path, "lists/l.txt")
    list_file.write_text(f"{tmp_path}/x/a/1.jpg\n../x/b/1.jpg\n")
    assert found(list_file) == [("a/1.jpg", "a"), ("b/1.jpg", "b")]


def test_list_on_stdin(tmp_path: Path) -> None:
    images = find_images(["-"], stdin=io.StringIO("x/1.jpg\ny/2.jpg\n"))
    assert [(i.path, i.label) for i in images] == [(Path("x/1.jpg"), "x"), (Path("y/2.jpg"), "y")]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "empty/readme.md", "none.txt")
    with pytest.raises(TaskError, match=r"gone\.jpg' does not exist"):
        found(tmp_path / "gone.jpg")
    with pytest.raises(TaskError, match=r"no pictures in the folder .*empty.*\.jpg"):
        found(tmp_path / "empty")
    with pytest.raises(TaskError, match=r"the list .*none\.txt' is empty"):
        found(tmp_path / "none.txt")
    with pytest.raises(TaskError, match="File name too long"):
        found("x" * 5000)


@pytest.mark.parametrize(
    ("name", "fact", "way"),
    [
        ("labels.csv", "is a table, no picture", "a tab before a label"),
        ("photos.ZIP", "is an archive, no picture", "as an uncompressed .tar"),
        ("train.h5", "is a store of arrays, no picture", "save its pictures as files"),
        ("scan.nii.gz", "is a medical volume, no picture", "--in-chans 1"),
    ],
)
def test_other_files_of_data_are_told_for_what_they_are(
    tmp_path: Path, name: str, fact: str, way: str
) -> None:
    touch(tmp_path, name, "list.txt")
    with pytest.raises(TaskError, match=fact) as caught:
        found(tmp_path / name)
    assert way in str(caught.value)
    (tmp_path / name).write_text("content")
    (tmp_path / "list.txt").write_text(name)
    (listed,) = find_images([str(tmp_path / "list.txt")])
    with pytest.raises(UnreadableImage, match=fact.removeprefix("is ")):
        read_image(listed.path)


@pytest.mark.parametrize("line", ["a.jpg,cat", "a.jpg cat", "a.jpg;cat"])
def test_a_label_after_anything_but_a_tab_is_told(tmp_path: Path, line: str) -> None:
    touch(tmp_path, "a.jpg", "list.txt")
    (tmp_path / "list.txt").write_text(line)
    (listed,) = find_images([str(tmp_path / "list.txt")])
    with pytest.raises(UnreadableImage, match=r"no such file; lists separate a label .* by a tab"):
        read_image(listed.path)
    with pytest.raises(UnreadableImage, match=r"no such file$"):
        read_image(tmp_path / "b.jpg cat")


def test_unreadable_folder_is_an_error_not_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.jpg", "locked/2.jpg")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(TaskError, match="locked': Permission denied"):
        found(tmp_path)


AWKWARD = ["a\nb.jpg", "tab\there.jpg", " spaced .jpg", "cr\rlf.jpg", os.fsdecode(b"\xff.jpg")]


def test_names_that_end_in_nul_bytes_may_hold_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = b"".join(os.fsencode(f"in/{name}") + b"\0" for name in AWKWARD)
    (tmp_path / "list.txt").write_bytes(content)
    images = find_images(["list.txt"], null=True)
    assert [(i.path.name, i.label) for i in images] == [(name, "") for name in AWKWARD]
    assert [i.path.parent for i in images] == [Path("in")] * 5
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    assert [i.path.name for i in find_images(["-"], stdin=stdin, null=True)] == AWKWARD
    with pytest.raises(TaskError, match="--null"):
        find_images(["list.txt"])
    (tmp_path / "empty.txt").write_bytes(b"\0\0")
    with pytest.raises(TaskError, match="is empty"):
        find_images(["empty.txt"], null=True)


def test_a_list_on_stdin_need_not_be_utf8():
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff.jpg\n"), encoding="utf-8")
    assert [os.fsencode(i.path) for i in find_images(["-"], stdin=stdin)] == [b"\xff.jpg"]


@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_mark_that_begins_a_file_on_windows_is_no_part_of_a_name(
    tmp_path: Path, null: bool, encoding: str
) -> None:
    content = b"\xef\xbb\xbfx/1.jpg\0x/2.jpg\0" if null else b"\xef\xbb\xbfx/1.jpg\r\nx/2.jpg\r\n"
    (tmp_path / "list.txt").write_bytes(content)
    listed = find_images([str(tmp_path / "list.txt")], null=null)
    assert [i.path for i in listed] == [tmp_path / "x/1.jpg", tmp_path / "x/2.jpg"]
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding=encoding, errors="surrogateescape")
    piped = find_images(["-"], stdin=stdin, null=null)
    assert [i.path for i in piped] == [Path("x/1.jpg"), Path("x/2.jpg")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # formats that Pillow will drop
def test_whatever_pillow_writes_and_opens_is_found(tmp_path: Path) -> None:
    picture, opened = PillowImage.new("RGB", (20, 10), (200, 0, 0)), set()
    for suffix, name in PillowImage.registered_extensions().items():
        path = tmp_path / f"photo{suffix.upper()}"
        try:
            more = {"save_all": True, "append_images": [picture]} if name == "MPO" else {}
            picture.save(path, name, **more)
            with PillowImage.open(path) as image:
                if image.size == picture.size:  # icons come in sizes of their own
                    opened.add(path)
        except (OSError, KeyError, ValueError):  # no encoder, or one for other pictures
            pass
        if path not in opened:
            path.unlink(missing_ok=True)
    assert {path.suffix.lower() for path in opened} >= {".jfif", ".jpe", ".mpo", ".apng", ".webp"}
    runs_a_program = {path for path in opened if path.suffix in (".EPS", ".PS")}
    found = {file.path for file in find_images([str(tmp_path)])}
    assert found == opened - runs_a_program
    assert {read_image(path).size for path in found} == {(20, 10)}


@pytest.mark.parametrize("null", [False, True])
def test_a_long_list_is_never_held_in_pieces(tmp_path, null):
    """A path of fifty bytes may cost some three hundred while the list is read, not a thousand."""
    count = 20_000
    names = [f"/data/photos/{i % 100:010}/{i:020}.jpg" for i in range(count)]
    (tmp_path / "long.txt").write_text(("\0" if null else "\n").join(names))
    (tmp_path / "short.txt").write_text("a.jpg")
    find_images([str(tmp_path / "short.txt")], null=null)  # what is imported is no list's
    with traced_memory() as traced:
        images = find_images([str(tmp_path / "long.txt")], null=null)
    assert traced.most < 400 * count
    assert [str(image.path) for image in images] == names
    assert images[101].relative == PurePath(f"{1:010}/{101:020}.jpg")


def test_a_pattern_means_the_same_from_any_folder_whatever_its_name(tmp_path, monkeypatch):
    here = tmp_path / "a[1]*"
    here.mkdir()
    (tmp_path / "a1").mkdir()
    for folder in (here, tmp_path / "a1"):
        (folder / "x.png").touch()
    monkeypatch.chdir(here)
    absolute = absolute_argument("*.png")
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in find_images([absolute])] == [here / "x.png"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{3..1}", ["3", "2", "1"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{8..010}", ["008", "009", "010"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{00..101}", [f"{i:03}" for i in range(102)]),
        ("{0..10}", [f"{i}" for i in range(11)]),
    ],
)
def test_ranges_are_as_in_a_shell(pattern, names):
    assert expand_braces(pattern) == names


def test_a_list_is_known_by_its_suffix_in_any_case(tmp_path):
    (tmp_path / "NAMES.TXT").write_text("x.png\tred\n")
    (file,) = find_images([str(tmp_path / "NAMES.TXT")])
    assert (file.path, file.label) == (tmp_path / "x.png", "red")


def test_a_folder_that_a_list_spells_in_two_ways_is_no_class(tmp_path):
    (tmp_path / "x.txt").write_text("red/0.png\n./red/1.png\n")
    assert [file.label for file in find_images([str(tmp_path / "x.txt")])] == ["", ""]


def test_places_of_a_list_that_leads_up_are_below_what_its_folders_share(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/x.txt").write_text("../a/b/0.png\n../a/c/1.png\n")
    files = find_images([str(tmp_path / "lists/x.txt")])
    assert [file.relative for file in files] == [PurePath("b/0.png"), PurePath("c/1.png")]
