"""The report: one self-contained file, in which text of the user is never markup."""

from __future__ import annotations

import base64
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from tiledseg.errors import ArrayError, FileError
from tiledseg.evaluate import (
    EvaluationResult,
    Evaluator,
    FailedPair,
    ImageScores,
    ScoredImage,
    compare,
    score_map,
)
from tiledseg.io import read_image
from tiledseg.metrics import BoundaryCounts, Counts, InstanceCounts
from tiledseg.plots import ERROR_COLOURS, PALETTE
from tiledseg.report import (
    Picture,
    PictureRow,
    Triples,
    WorstCases,
    picture_row,
    write_evaluation,
    write_report,
)
from tiledseg.report.page import key_figures

NASTY = '<script>alert("1")</script>\' onerror=x \udcff\n'
SIZE = "1920 \N{MULTIPLICATION SIGN} 2560"
SCORES = ImageScores(
    "smear 7",
    (1920, 2560),
    (Counts(2, 2, 1, 3),),
    1.0625,
    35,
    12.34,
    boundary=(BoundaryCounts(true=4, true_near=3, found=8, found_near=6),),
    distances=(7.5,),
    instances=(InstanceCounts(5, 4, (3,) + (0,) * 9, 2.7, 2.8),),
)
RESULT = EvaluationResult((SCORES,))


class Page(HTMLParser):
    """Collects tags with their attributes, and texts."""

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
        ("Mean Dice", "0.571"),
        ("Cells found", "3 of 5"),
        ("Outline F1", "0.750"),
        ("Seam ratio", "1.06"),
        ("Seconds per image", "12.3"),
    ]:
        assert texts[texts.index(name) + 1] == value
    assert "2 missed, 1 false, 0 merged, 0 split; 0 predicted and 0 true specks left out" in texts
    assert f"1 image of {SIZE} px, scored at full resolution; threshold 0.5, stated." in texts


def test_sizes_and_tiles_that_differ_between_images_are_not_summarised(tmp_path):
    other = ImageScores("8", (10, 20), SCORES.counts, tiles=1)
    texts = page_of(tmp_path, EvaluationResult((SCORES, other))).texts
    assert "2 images, scored at full resolution; threshold 0.5, stated." in texts
    assert not any("35 tiles" in text for text in texts)
    assert texts[texts.index("smear 7") + 1] == SIZE


def test_a_tolerance_in_px_is_stated(tmp_path):
    result = replace(RESULT, config=RESULT.config.changed(boundary_px=2.5))
    assert "2.5 px" in " ".join(page_of(tmp_path, result).texts)


def test_unknown_scores_are_no_key_figures(tmp_path):
    texts = page_of(tmp_path, EvaluationResult((ImageScores("7", (2, 4), SCORES.counts),))).texts
    assert {"Cells found", "Calibration error"}.isdisjoint(texts)
    assert texts.count("Outline F1") == texts.count("Seam ratio") == 1  # the columns of the table


def test_each_image_has_a_line(tmp_path):
    texts = page_of(tmp_path).texts
    line = texts.index("smear 7")
    assert texts[line : line + 13] == [
        "smear 7", "0.571", "0.400", "0.500", "0.667", "0.750", "7.5",
        "3", "2", "1", "0.600", "1.06", "12.3",
    ]  # fmt: skip


def test_intervals_stand_below_the_means(tmp_path):
    result = EvaluationResult(tuple(replace(SCORES, name=str(place)) for place in range(3)))
    texts = page_of(tmp_path, result).texts
    assert (
        texts[texts.index("95 % interval of the mean, from") + 1] == texts[texts.index("to") + 1] == "0.571"
    )
    assert "95 %: 0.571 to 0.571" in texts
    assert "95 % Hausdorff 7.5 px, the median" in texts


def test_failures_are_listed(tmp_path):
    texts = page_of(tmp_path, EvaluationResult((), (FailedPair("9", "no such file"),))).texts
    assert texts[texts.index("9") + 1] == ": no such file"
    assert "0 images, 1 failed, scored at full resolution; threshold 0.5, stated." in texts
    assert "Images" not in texts


def test_facts_and_versions_are_listed(tmp_path):
    texts = page_of(tmp_path, facts={"Tiling": "512 px"}).texts
    assert texts[texts.index("Tiling") + 1] == "512 px"
    assert texts[texts.index("Decision") + 1] == "threshold 0.5, stated"
    assert texts[texts.index("Outline tolerance") + 1] == "0.75 % of the image's diagonal"
    assert re.match(r"\d+\.", texts[texts.index("numpy") + 1])


def test_text_of_the_user_is_never_markup(tmp_path):
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


def test_page_loads_nothing_from_elsewhere(tmp_path):
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
    with pytest.raises(ArrayError, match="finite"):
        picture_row(replace(scored(4, 4), image=np.full((4, 4), np.nan, np.float32)))


def test_several_classes_have_a_legend(tmp_path):
    truth = np.array([[0, 1, 2]])
    result = EvaluationResult((score_map(truth, truth, classes=3),), labels=("none", "nucleus", "plasma"))
    texts = page_of(tmp_path, result, pictures=[picture_row(scored(4, 4))]).texts
    assert texts[texts.index("Truth and prediction:") + 1 :][:2] == ["nucleus", "plasma"]
    assert "nucleus, all together" in texts


# curves


def rising(name: str, shift: float = 0.0) -> ImageScores:
    """Scores of a map that rises along x, with its truth in the right half."""
    probs = np.clip(np.tile(np.linspace(0, 1, 64, dtype=np.float32), (40, 1)) - np.float32(shift), 0, 1)
    return score_map(probs, np.arange(64) >= 32 + np.zeros((40, 1)), name=name, borders=((), (16, 32, 48)))


def test_curves_are_drawn_if_their_data_is_known(tmp_path):
    page = page_of(tmp_path, EvaluationResult((rising("7"),)))
    drawn = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert drawn == ["Threshold", "Calibration", "Errors and seams"]
    assert "used: 0.5" in page.texts
    assert "svg" not in {tag for tag, _ in page_of(tmp_path).tags}


def test_curves_have_the_coordinates_of_their_numbers(tmp_path):
    page = page_of(tmp_path, EvaluationResult((rising("7"),)))
    lines = {attributes["class"]: attributes for tag, attributes in page.tags if tag == "polyline"}
    points = [tuple(map(float, point.split(","))) for point in lines["third"]["points"].split()]
    assert len(points) == 255
    # recall: all at the least threshold, next to nothing at the highest; the plot ends at y = 12 and 234
    assert points[0][1] == 12
    assert 220 < points[-1][1] < 234
    assert all(here[1] <= there[1] for here, there in itertools.pairwise(points))
    bars = [attributes for tag, attributes in page.tags if (tag, attributes.get("class")) == ("rect", "bar")]
    assert len(bars) == 16 + 4  # reliability, and the distances up to 8 px from borders 16 px apart
    assert all(float(bar["height"]) >= 0 and float(bar["width"]) > 0 for bar in bars)


def test_a_perfect_map_has_curves_too(tmp_path):
    truth = np.eye(9) > 0
    scores = score_map(truth.astype(np.float32), truth, borders=((4,), ()))
    page = page_of(tmp_path, EvaluationResult((scores,)))
    assert [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"][
        -1
    ] == "Errors and seams"


# comparison


@pytest.mark.parametrize(
    ("shifts", "text"),
    [
        ((0.0, 0.2), "a has a higher mean Dice than b, by"),
        ((0.2, 0.0), "b has a higher mean Dice than a, by"),
        ((0.1, 0.1), "uncertain"),
    ],
)
def test_comparison_states_which_is_better_and_how_certain_that_is(tmp_path, shifts, text):
    first, second = (
        EvaluationResult(tuple(rising(str(place), shift) for place in range(4))) for shift in shifts
    )
    comparison = compare(first, second, names=("a", "b"))
    page = page_of(tmp_path, first, comparison=comparison)
    assert any(text in one for one in page.texts)
    assert "a and b" in page.texts
    assert sum(attributes.get("class") == "mark" for tag, attributes in page.tags if tag == "circle") >= 4
    assert page.texts.index("Panoptic quality of cells") > page.texts.index("a and b")


def test_one_image_does_not_rank_two_models(tmp_path):
    result = EvaluationResult((rising("7"),))
    page = page_of(tmp_path, result, comparison=compare(result, result))
    assert any("One image, or one group of them, is not enough" in text for text in page.texts)


# worst cases


def seen(name: str, dice_px: int) -> ScoredImage:
    """An image with `dice_px` of 20 px found."""
    truth, predicted = np.zeros((4, 20), np.uint8), np.zeros((4, 20), np.uint8)
    truth[1], predicted[1, :dice_px] = 1, 1
    return ScoredImage(
        np.full((4, 20), 9, np.uint8), truth, predicted, score_map(predicted, truth, name=name)
    )


def test_the_worst_images_are_listed_worst_first():
    worst = WorstCases(3)
    for place, found in enumerate([20, 3, 12, 1, 9, 18]):
        worst(seen(str(place), found))
    assert [row.name for row in worst.rows] == ["3", "1", "4"]
    none = WorstCases(0)
    none(seen("0", 1))
    assert none.rows == []


def test_px_that_do_not_count_are_no_errors_in_pictures():
    truth, predicted, void = np.zeros((3, 4, 20), np.uint8)
    predicted[1, :6], void[1:3] = 1, 1
    one = ScoredImage(np.full((4, 20), 9, np.uint8), truth, predicted, seen("0", 3).scores, void > 0)
    pictures = [picture_row(scored).pictures for scored in (one, replace(one, predicted=truth))]
    assert (pictures[0][3].pixels == pictures[1][3].pixels).all()
    assert (pictures[0][2].pixels != pictures[1][2].pixels).any()


def test_images_of_12_bits_are_shown_by_their_values():
    bytes_ = np.arange(80, dtype=np.uint8).reshape(4, 20) * 3 + 5
    one = seen("0", 3)
    shown = [
        picture_row(replace(one, image=image)).pictures[0].pixels
        for image in (bytes_, bytes_ * np.uint16(16))
    ]
    assert (shown[0].min(), shown[1].min(), shown[1].max()) == (5, 0, 255)


def test_an_image_without_a_score_is_not_among_the_worst():
    worst, void = WorstCases(2), np.full((4, 20), 255, np.uint8)
    none = score_map(void * 0, void, ignore_label=255)
    for one in (seen("0", 12), replace(seen("1", 1), scores=none), seen("2", 3), seen("3", 1)):
        worst(one)
    assert [row.name for row in worst.rows] == ["3", "2"]


@pytest.mark.parametrize("n_channels", [2, 4, 5])
def test_images_of_other_numbers_of_channels_are_shown_by_the_first(n_channels):
    one = scored(20, 30, n_channels=n_channels)
    first = picture_row(replace(one, image=one.image[..., 0]))
    np.testing.assert_array_equal(picture_row(one).pictures[0].pixels, first.pictures[0].pixels)


def test_an_image_that_cannot_be_shown_is_skipped(caplog):
    worst, one = WorstCases(), scored(4, 4)
    worst(replace(one, image=np.full((4, 4), np.nan, np.float32)))
    assert worst.rows == []
    assert "no picture" in caplog.text


def test_the_prediction_of_another_model_is_added():
    worst = WorstCases(1)
    worst(seen("7", 3))
    worst.add_other(seen("7", 20), "other")
    worst.add_other(seen("8", 20), "other")
    (row,) = worst.rows
    assert [one.title for one in row.pictures[-2:]] == ["Prediction of other", "Agreement of other"]
    assert row.note.endswith("other: Dice 1.000")


# the folder of an evaluation


def test_folder_holds_tables_page_and_sheet(tmp_path):
    worst = WorstCases()
    for place in range(2):
        worst(seen(str(place), 5 * place))
    result = EvaluationResult(tuple(rising(str(place)) for place in range(2)))
    folder = tmp_path / "scores"
    options = {"title": "Smears", "result": result, "pictures": worst.rows}
    write_evaluation(folder, **options, comparison=compare(result, result))
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.txt", "report.html", "scores.csv", "scores.json", "scores.md", "summary.csv", "worst.png"
    ]  # fmt: skip
    assert read_image(folder / "worst.png").ndim == 3
    with pytest.raises(FileError, match="new or empty"):
        write_evaluation(folder, **options)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file"):
        write_report(tmp_path / "file" / "report.html", title="", result=RESULT)


def test_triples_show_input_truth_and_prediction_of_every_image(tmp_path):
    with Triples(thumb_px=40) as triples:
        triples(scored(60, 80))
        write_evaluation(tmp_path / "out", title="Smears", result=RESULT, triples=triples)
    head, line = 26 + 10, 26  # of the title, and of the name
    modes = {(tmp_path / "out" / name).stat().st_mode for name in ("", "triples")}
    assert len(modes) == 1  # who may read one may read the other
    picture = read_image(tmp_path / "out" / "triples" / "7.png")
    assert picture.shape[1] == 20 + 3 * 80 + 2 * 4 + 20
    truth, predicted = (picture[head + line :, 20 + place * 84 :][:60, :80].any(axis=2) for place in (1, 2))
    assert truth[:, :40].all()
    assert not truth[:, 40:].any()
    assert predicted[:30].all()
    assert not predicted[30:].any()
    assert read_image(tmp_path / "out" / "sheet.png").shape[1] == 20 + 3 * 40 + 2 * 4 + 20


def test_the_loss_stands_beside_the_scores_in_each_table(tmp_path):
    truth = np.array([[1, 0], [0, 0]], np.uint8)
    probs = np.array([[0.5, 0.5], [0.0, 0.0]], np.float32)
    pairs = [(np.zeros((2, 2), np.uint8), truth)] * 2
    result = Evaluator({"loss": "bce_dice"}).score_maps([probs, probs], pairs)
    entropy, dice = -2 * np.log(0.5) / 4, 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    expected = (entropy + dice) / 2
    assert result.summary()["loss"] == pytest.approx(expected, rel=1e-5)
    assert str(result).split()[:2] == ["image", "loss"]
    assert f"loss (bce_dice) {expected:.4f}, the mean over the images" in str(result)
    assert ("Loss", f"{expected:.4f}", "bce_dice") in key_figures(
        result, result.summary(), result.intervals()
    )
    write_evaluation(tmp_path / "out", title="Smears", result=result)
    rows = (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8").splitlines()
    assert float(dict(row.split(",") for row in rows[1:])["loss"]) == result.summary()["loss"]
    assert (tmp_path / "out" / "scores.csv").read_text(encoding="utf-8").split(",")[3] == "loss"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    table = next(part for part in page.split("<table>") if "Outline F1" in part and "Image</th>" in part)
    assert table.count('<th scope="col">Loss</th>') == 1
    assert {row.split("</tr>")[0].count("<t") for row in table.split("<tr>")[1:]} == {14}
    without = Evaluator().score_maps([probs, probs], pairs)
    assert str(without).split()[:2] == ["image", "dice"]
