"""The report: one file, nothing from outside, nothing of the user's taken for markup."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from tiledseg.errors import ArrayError, FileError
from tiledseg.evaluate import EvaluationResult, FailedPair, ImageScores, ScoredImage, score_map
from tiledseg.metrics import Counts
from tiledseg.render import ERROR_COLOURS, PALETTE
from tiledseg.report import Picture, PictureRow, picture_row, write_report

NASTY = '<script>alert("1")</script>\' onerror=x \udcff\n'
SIZE = "1920 \N{MULTIPLICATION SIGN} 2560"
SCORES = ImageScores("smear 7", (1920, 2560), (Counts(2, 2, 1, 3),), 1.0625, 35, 12.34)
RESULT = EvaluationResult((SCORES,))


class Page(HTMLParser):
    """Collects tags, their attributes, and text by the tag that it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


def page_of(tmp_path, result=RESULT, **options) -> Page:
    path = tmp_path / "report.html"
    write_report(path, **{"title": "Smears", "result": result, **options})
    return Page(path.read_text(encoding="utf-8"))


def scored(height: int, width: int, n_channels: int = 3) -> ScoredImage:
    image = np.full((height, width, n_channels), 100, np.uint8)
    truth, predicted = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    truth[:, : width // 2] = 1
    predicted[: height // 2] = 1
    return ScoredImage(image, truth, predicted, score_map(predicted, truth, name="7"))


def test_key_figures_are_those_of_the_result(tmp_path):
    texts = page_of(tmp_path).texts
    for name, value in [
        ("Dice", "0.571"),
        ("IoU", "0.400"),
        ("Seam ratio", "1.06"),
        ("Seconds per image", "12.3"),
        ("Image size", SIZE),
        ("Tiles per image", "35"),
    ]:
        assert texts[texts.index(name) + 1] == value


def test_figures_that_differ_between_images_are_not_made_up(tmp_path):
    other = ImageScores("8", (10, 20), SCORES.counts, tiles=1)
    texts = page_of(tmp_path, EvaluationResult((SCORES, other))).texts
    assert texts[texts.index("Image size") + 1] == texts[texts.index("Tiles per image") + 1] == "various"


def test_each_image_has_a_line(tmp_path):
    texts = page_of(tmp_path).texts
    line = texts.index("smear 7")
    assert texts[line : line + 9] == [
        "smear 7", SIZE, "0.571", "0.400", "0.500", "0.667", "1.06", "35", "12.3"
    ]  # fmt: skip


def test_failures_are_told(tmp_path):
    texts = page_of(tmp_path, EvaluationResult((), (FailedPair("9", "no such file"),))).texts
    assert texts[texts.index("9") + 1] == ": no such file"
    assert "0 images, 1 failed" in texts
    assert "Images" not in texts


def test_facts_and_versions_are_listed(tmp_path):
    texts = page_of(tmp_path, facts={"Tiling": "512 px"}).texts
    assert texts[texts.index("Tiling") + 1] == "512 px"
    assert texts[texts.index("Threshold") + 1] == "0.5"
    assert re.match(r"\d+\.", texts[texts.index("numpy") + 1])


def test_text_of_the_users_is_never_markup(tmp_path):
    nasty = ImageScores(NASTY, (2, 4), SCORES.counts)
    picture = Picture(NASTY, np.zeros((2, 2, 3), np.uint8))
    page = page_of(
        tmp_path,
        EvaluationResult((nasty,), (FailedPair(NASTY, NASTY),), (NASTY,)),
        title=NASTY,
        pictures=[PictureRow(NASTY, NASTY, (picture,))],
        facts={NASTY: NASTY},
    )
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    whole = sum('<script>alert("1")</script>\' onerror=x \\udcff' in text for text in page.texts)
    assert whole == 11  # title and heading, failure 2, class, row 2, caption, line, fact 2


def test_page_needs_nothing_from_outside(tmp_path):
    page = page_of(tmp_path, pictures=[picture_row(scored(20, 30))])
    sources = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in {"src", "href"}
    ]
    assert len(sources) == 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert {"link", "script", "iframe"}.isdisjoint(tag for tag, _ in page.tags)


def test_embedded_pictures_are_the_pictures(tmp_path):
    row = picture_row(scored(20, 30))
    page = page_of(tmp_path, pictures=[row])
    shown = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    for picture, url in zip(row.pictures, shown, strict=True):
        packed = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
        pixels = cv2.cvtColor(cv2.imdecode(packed, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        assert np.abs(pixels.astype(int) - picture.pixels).mean() < 3


def test_pictures_show_input_truth_prediction_and_agreement():
    row = picture_row(scored(40, 60))
    images = {picture.title: picture.pixels for picture in row.pictures}
    assert list(images) == ["Input", "Truth", "Prediction", "Agreement"]
    assert (images["Input"] == 100).all()
    assert (images["Truth"] != 100).any(axis=-1)[:, :30].all()
    assert (images["Truth"] == 100)[:, 30:].all()
    assert images["Prediction"][19, 10].tolist() == list(PALETTE[0])  # the outline
    blend = [np.rint(100 * 0.4 + np.array(colour) * 0.6).tolist() for colour in ERROR_COLOURS]
    agreement = images["Agreement"]
    assert [agreement[0, 0].tolist(), agreement[0, 59].tolist(), agreement[39, 0].tolist()] == blend
    assert (row.name, row.note) == ("7", "Dice 0.500")


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(300, 100, (60, 20)), (1, 500, (1, 60)), (30, 60, (30, 60))]
)
def test_pictures_are_no_larger_than_asked(height, width, shape):
    assert {
        picture.pixels.shape[:2] for picture in picture_row(scored(height, width), longest_px=60).pictures
    } == {shape}


def test_an_image_that_cannot_be_shown_is_named():
    with pytest.raises(ArrayError, match="grey or RGB"):
        picture_row(scored(4, 4, n_channels=5))


def test_several_classes_have_a_legend(tmp_path):
    truth = np.array([[0, 1, 2]])
    result = EvaluationResult((score_map(truth, truth, classes=3),), labels=("none", "nucleus", "plasma"))
    texts = page_of(tmp_path, result, pictures=[picture_row(scored(4, 4))]).texts
    assert texts[texts.index("Truth and prediction:") + 1 :][:2] == ["nucleus", "plasma"]
    assert "nucleus, all px" in texts


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        write_report(tmp_path / "file" / "report.html", title="", result=RESULT)
