"""`dino attention --html`: what the page says and shows of photos."""

import json

import numpy as np
import pytest
from page_reader import Page, levels, rises_with
from PIL import Image
from small_vit import photo


@pytest.mark.parametrize("masks", ["attention", "seeded"])
def test_page_shows_every_photo_and_asks_nobody(attention, tmp_path, masks):
    for i in range(3):
        photo(tmp_path / "in" / f"{i}<b>.png", seed=i)
    attention("in", "--html", "--masks", masks, "--instances")
    page = Page(tmp_path / "attention/index.html")
    assert page.words.count("<b>.png") == 3
    pictures = [a for tag, a in page.tags if tag == "img"]
    heads = 4 + (3 if masks == "attention" else 1)  # heat maps of the mean and 3 heads, masks
    assert len(pictures) == 3 * (1 + heads + (masks == "attention"))
    assert all(a["src"].startswith("data:image/") and a["alt"] for a in pictures)
    assert not any(tag == "script" for tag, _ in page.tags)
    assert not any("href" in a and not a["href"].startswith("data:") for _, a in page.tags)


def test_page_tells_the_scores_of_objects_beside_the_picture(attention, tmp_path):
    """In the text, since what is drawn in a tile has another size on each screen."""
    photo(tmp_path / "cat.png", (140, 100))
    options = ["--head", "mean", "--threshold", "0.5", "--image-size", 96]
    options += ["--instances", "--html", "--format", "coco"]
    attention("cat.png", *options)
    page = Page(tmp_path / "attention/index.html")
    read = json.loads((tmp_path / "attention/coco.json").read_text())
    expected = [f"{one['score']:.2f}" for one in read["annotations"]]
    assert len(expected) > 1
    colours = [a["style"] for tag, a in page.tags if tag == "span" and "style" in a]
    assert len(set(colours)) == len(colours) == min(8, len(expected))
    assert "".join(expected[:8]) in page.words


def test_guesses_are_named_on_the_page_and_can_be_chosen(attention, tmp_path, monkeypatch):
    from dino_cli.tasks.attention import look

    for i in range(4):
        photo(tmp_path / "in" / f"{i}.png", (70 + 20 * i, 60), seed=i)
    options = ["--masks", "seeded", "--image-size", 80]
    rows = json.loads(attention("in", *options, "--json").stdout)["images"]
    scores = sorted(row["score"] for row in rows)
    monkeypatch.setitem(look.GUESS_BELOW, "seeded", (scores[0] + scores[-1]) / 2)
    attention("in", *options, "--html", "--format", "coco", "-o", "b")
    page = Page(tmp_path / "b/index.html")
    classes = [a.get("class") for tag, a in page.tags if tag == "li"]
    said = sum(score < (scores[0] + scores[-1]) / 2 for score in scores)
    assert 0 < said < 4
    assert (classes.count("unsure"), classes.count("sure")) == (said, 4 - said)
    assert [a["id"] for tag, a in page.tags if tag == "input"] == ["everything", "guesses", "sure"]
    read = json.loads((tmp_path / "b/coco.json").read_text())
    assert sum(one.get("guess", False) for one in read["annotations"]) == said


def test_heat_maps_of_the_page_are_the_attention_of_each_head(attention, tmp_path):
    photo(tmp_path / "cat.png", (90, 60), seed=3)
    options = ["--head", "mean", "--image-size", 64, "--palette", "viridis", "--html", "--json"]
    row = json.loads(attention("cat.png", *options).stdout)["images"][0]
    saved = np.load(tmp_path / "attention/cat/attention.npy")
    page = Page(tmp_path / "attention/index.html")
    names = {"mean attention of the heads": saved.mean(0)}
    names |= {f"attention of head {head}": one for head, one in enumerate(saved)}
    for alt, values in names.items():
        (picture,) = page.pictures(alt)
        assert picture.shape == (8, 12, 3)
        assert rises_with(levels(picture, "viridis"), values)
    assert row["best_head"] > 0  # not the first, which anything might name
    assert page.words.count(", best") == 2  # of the row, and of the heat map
    assert f"best head {row['best_head']}" in page.words.replace("\xa0", " ")
    assert f"head {row['best_head']}, best" in page.words


def _middle(marked):
    """Of the pixels that are marked, as shares of the height and the width."""
    return [
        float((at.mean() + 0.5) / n) for at, n in zip(marked.nonzero(), marked.shape, strict=True)
    ]


def test_the_point_is_marked_where_it_lies(attention, tmp_path):
    """On photos that the grid and the page show at sizes of their own."""
    for name, size in {"high": (400, 720), "wide": (720, 400)}.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", size, (0, 0, 90)).save(tmp_path / "in" / f"{name}.png")
    options = ["--query", "75%,20%", "--outline", "lime", "--palette", "grey", "--head", "mean"]
    attention("in", *options, "--html")
    shown = Page(tmp_path / "attention/index.html").pictures("the photo")
    assert [one.shape for one in shown] == [(360, 200, 3), (200, 360, 3)]
    for name, picture in zip(("high", "wide"), shown, strict=True):
        ring = picture[..., 1] > picture[..., [0, 2]].max(-1) + 100
        assert _middle(ring) == pytest.approx([0.2, 0.75], abs=0.01)
        grid = np.asarray(Image.open(tmp_path / f"attention/{name}/grid.png")).astype(int)
        blue = (grid == (0, 0, 90)).all(-1)  # the photo's tile
        (top, bottom), (left, right) = ((at.min(), at.max() + 1) for at in blue.nonzero())
        tile = grid[top:bottom, left:right]
        ring = tile[..., 1] > tile[..., [0, 2]].max(-1) + 100
        assert _middle(ring) == pytest.approx([0.2, 0.75], abs=0.01)


def test_objects_have_the_colours_and_scores_that_the_page_tells(attention, tmp_path):
    photo(tmp_path / "in/cat.png", (140, 100))
    photo(tmp_path / "in/dog.png", (350, 250))
    options = ["--head", "0", "--threshold", "0.5", "--image-size", 240, "--instances"]
    attention("in", *options, "--html", "--format", "pictures,coco")
    page = Page(tmp_path / "attention/index.html")
    read = json.loads((tmp_path / "attention/coco.json").read_text())
    ofcat = [one for one in read["annotations"] if one["image_id"] == 1]
    assert len(ofcat) > 9
    told = [a["style"] for tag, a in page.tags if tag == "span" and "style" in a][:8]
    told = [tuple(bytes.fromhex(style.partition("#")[2])) for style in told]
    scores = "".join(f"{one['score']:.2f}" for one in ofcat[:8])
    assert f"{scores} and {len(ofcat) - 8} more" in page.words
    overlay = np.asarray(Image.open(tmp_path / "attention/cat/overlay_head0.png"))
    for number, (colour, one) in enumerate(zip(told, ofcat, strict=False)):
        x, y, w, h = one["bbox"]
        corners = [tuple(overlay[j, i]) for j in (y, y + h - 1) for i in (x, x + w - 1)]
        assert corners.count(colour) == 4 if number == 0 else colour in corners
    assert told[0] == (255, 196, 0)  # one object alone looks as a mask without --instances

    # Scores are drawn on the picture, and not on the page's, which has them as text.
    count = sum(one["image_id"] == 2 for one in read["annotations"])
    (tile,) = page.pictures(f"head 0 mask over the photo, {count} objects")
    drawn = np.asarray(Image.open(tmp_path / "attention/dog/overlay_head0.png"))
    assert (np.abs(tile - drawn).max(-1) > 150).sum() > 300


def test_the_page_says_what_was_asked(attention, tmp_path):
    photo(tmp_path / "in/a.png")
    photo(tmp_path / "in/b.png", seed=1)
    told = attention("in", "--html").stdout
    assert told.splitlines()[-1] == "attention/index.html: 2 inputs to look at"
    words = Page(tmp_path / "attention/index.html").words
    assert (
        "What the network looks at 2 inputs, attention masks of --head all, as patches, by" in words
    )
    assert ", block" not in words
    options = ["--masks", "seeded", "--refine", "guided", "--layer", 0, "--query", "50%,50%"]
    told = attention("in/a.png", "--html", *options, "-o", "b").stdout
    assert told.splitlines()[-1] == "b/index.html: 1 input to look at"
    words = Page(tmp_path / "b/index.html").words
    said = "seeded masks, fitted to the photos' edges, asked by the patch at 50%,50%, block 0"
    assert f"What the network found 1 input, {said}, by" in words
