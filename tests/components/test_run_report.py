"""The page of a run: its numbers, and what it holds whatever labels, paths and artifacts are like."""

import dataclasses
import html
import itertools
import re
from pathlib import Path

import hypothesis
import lxml.html
import numpy as np
import pytest
from hypothesis import strategies as st

from components.model_evaluator import gate
from components.run_report import page, sections
from components.run_report.answers import MOST, Answers, threshold_for
from components.run_report.facts import Facts, Made
from components.run_report.shown import Shown
from tests.components import report_facts

UNRULY = ["<script>alert(1)</script>", 'it\'s "quoted" & co', "كلب", "🐕‍🦺 dog", "$x^2$", "a\u2028b", "{{ 7*7 }}", "plain"]


def rendered(facts: Facts) -> lxml.html.HtmlElement:
    return lxml.html.document_fromstring(page.render(facts))


def text_of(element: lxml.html.HtmlElement, xpath: str) -> list[str]:
    return [" ".join(one.text_content().split()) for one in element.xpath(xpath)]


@hypothesis.given(st.integers(2, 6), st.integers(0, 120), st.integers(0, 2**32 - 1))
def test_what_answers_say_is_what_counting_says(classes: int, count: int, seed: int) -> None:
    labels = [f"label {number}" for number in range(classes)]
    rows = report_facts.rows(labels, count, seed)
    found = Answers(rows)
    right = [row["label"] == row["answer"] for row in rows]
    before = [row["label"] == row["baseline_answer"] for row in rows]
    assert (found.total, found.mistakes) == (count, count - sum(right))
    assert found.lost_count == sum(was and not now for was, now in zip(before, right, strict=True))
    assert found.won_count == sum(now and not was for was, now in zip(before, right, strict=True))
    wrong = sorted((row for row, now in zip(rows, right, strict=True) if not now), key=lambda row: -row["score"])
    assert [one.score for one in found.surest_mistakes] == [row["score"] for row in wrong[:MOST]]
    for one in found.classes():
        own = [row for row in rows if row["label"] == one.label]
        assert one.pictures == len(own)
        assert one.right == sum(row["answer"] == one.label for row in own)
        assert one.answered == sum(row["answer"] == one.label for row in rows)
    matrix = found.confusion(labels)
    assert matrix.sum() == count
    assert np.trace(matrix) == sum(right)
    pairs = found.confused(3)
    assert [one.pictures_in_all for one in pairs] == sorted(
        (matrix[i, j] for i, j in itertools.permutations(range(classes), 2) if matrix[i, j]), reverse=True
    )[:3]
    for pair in pairs:
        assert {(one.label, one.answer) for one in pair.pictures} == {(pair.label, pair.answer)}


@hypothesis.given(st.integers(1, 80), st.integers(0, 2**32 - 1), st.floats(0.5, 1.0))
def test_the_threshold_is_the_lowest_that_gives_the_accuracy(count: int, seed: int, wanted: float) -> None:
    rows = report_facts.rows(["a", "b", "c"], count, seed, right=0.8)
    for row in rows:
        row["score"] = round(row["score"], 1)
    found = threshold_for(wanted, Answers(rows).coverage())
    good = {}
    for threshold in {row["score"] for row in rows}:
        taken = [row["label"] == row["answer"] for row in rows if row["score"] >= threshold]
        if sum(taken) / len(taken) >= wanted:
            good[threshold] = len(taken) / count, sum(taken) / len(taken)
    if not good:
        assert found is None
        return
    lowest = min(good)
    assert found == pytest.approx((lowest, *good[lowest]))


def test_the_order_of_the_rows_makes_no_difference(tmp_path: Path) -> None:
    rows = report_facts.rows(["a", "b", "c"], 400)
    for row in rows:
        row["score"] = round(row["score"], 1)
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    one, other = Answers(rows), Answers(shuffled)
    assert one.surest_mistakes == other.surest_mistakes
    assert one.classes() == other.classes()
    assert [pair.pictures for pair in one.confused(5)] == [pair.pictures for pair in other.confused(5)]


def test_the_page_s_numbers_are_the_gate_s_and_the_history_s(tmp_path: Path) -> None:
    facts = report_facts.facts(tmp_path, ["cat", "dog"])
    found = rendered(facts)
    assert text_of(found, "//*[@id='verdict']") == [
        "Version 1795478357 is published and live: accuracy 0.9000 (95 %: 0.8600 to 0.9300) on 300 test pictures, where the"
        " model that was live before has 0.8000."
    ]
    assert facts.made.evaluation is not None
    table = [text_of(row, "td") for row in found.xpath("//section[@id='gate']//tbody/tr")]
    for row, check in zip(table, gate.read(facts.made.evaluation), strict=True):
        assert row[0] == check.metric
        assert row[1] == gate.shown(check.value)
        assert row[4] == check.threshold
        assert row[6].startswith("pass" if check.passed else "refused")
    changed = [
        text_of(row, "td") for row in found.xpath("//section[@id='changed']//table[contains(@class,'sortable')]/tbody/tr")
    ]
    assert changed == [["cat", "27", "30", "+3"]]
    assert "training.batch_size" in text_of(found, "//section[@id='changed']")[0]
    newest = text_of(found.xpath("//section[@id='history']//tbody/tr")[0], "td")
    assert newest == ["2027-01-02 03:04", "published", "0.9000", "930", "1795478357 live", "data, code", ""]
    classes = {row[0]: row for row in (text_of(one, "td") for one in found.xpath("//section[@id='classes']//tbody/tr"))}
    counted = {one.label: one for one in Answers(report_facts.rows(["cat", "dog"], 300)).classes()}
    for label, one in counted.items():
        assert classes[label][1:4] == ["10", "10", "10"]
        assert classes[label][4:6] == [f"{one.precision:.3f}", f"{one.recall:.3f}"]


def test_unruly_labels_and_paths_are_shown_as_they_are_and_do_nothing(tmp_path: Path) -> None:
    found = rendered(report_facts.facts(tmp_path, UNRULY))
    (script,) = found.xpath("//script")
    assert "sortable" in script.text
    assert not found.xpath("//*[@onerror or @onclick or @onload]")
    names = text_of(found, "//section[@id='classes']//tbody/tr/td[1]")
    assert sorted(names) == sorted(" ".join(label.split()) for label in UNRULY)
    assert "49" not in text_of(found, "//section[@id='confusion']//h3")
    matrix = found.xpath("//section[@id='confusion']//*[local-name()='svg']//*[local-name()='text']")
    drawn = {html.unescape(one.text_content()).strip() for one in matrix}
    assert {"plain", "$x^2$", "كلب"} <= drawn


def test_words_from_right_to_left_turn_nothing_round_that_stands_beside_them(tmp_path: Path) -> None:
    reason = "recall of كلب كبير 0.25 on 8 pictures, asked for: 0.5 <b>"
    facts = dataclasses.replace(report_facts.facts(tmp_path, ["cat", "dog"]), verdict="refused", reason=reason)
    (said,) = rendered(facts).xpath("//*[@id='verdict']")
    assert reason in said.text_content()
    assert [one.text for one in said.xpath("bdi")] == ["كلب كبير"]
    assert not said.xpath("b")


def test_it_loads_nothing_and_its_ids_are_its_own(tmp_path: Path) -> None:
    text = page.render(report_facts.facts(tmp_path, ["cat", "dog"]))
    found = lxml.html.document_fromstring(text)
    assert {one.partition(":")[0] for one in found.xpath("//*/@src")} == {"data"}
    assert {one[0] for one in found.xpath("//a/@href")} == {"#"}
    assert not re.findall(r"(?:src|href)=\"https?:|url\((?!#)|@import", text)
    ids = found.xpath("//*/@id")
    assert len(ids) == len(set(ids))
    for reference in re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text):
        assert reference in ids
    assert "default-src 'none'" in text


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    facts = report_facts.facts(tmp_path, ["cat", "dog"], pictures=False)
    text = page.render(facts)
    assert "data:image/jpeg" not in text
    assert "cat/" in text  # paths stay
    with_pictures = page.render(report_facts.facts(tmp_path / "other", ["cat", "dog"]))
    assert with_pictures.count("data:image/jpeg") > 30


@pytest.mark.parametrize("classes", [2, 100])
def test_it_stays_small_with_many_test_pictures_and_classes(tmp_path: Path, classes: int) -> None:
    facts = report_facts.facts(tmp_path, [f"class {number}" for number in range(classes)], tests=20_000)
    text = page.render(facts)
    assert len(text) < 5e6
    assert text.count('<section id="') >= 9


def test_a_run_that_was_refused_for_its_data_has_a_page_without_a_model(tmp_path: Path) -> None:
    facts = report_facts.facts(tmp_path, ["cat", "dog"])
    refused = Facts(
        pipeline="photos",
        run="18",
        verdict="refused",
        reason="DataGate failed: RefusedDataError: the data are refused",
        node="DataGate",
        live=1795478357,
        made=Made(rejects=facts.made.rejects),
        findings=[sections.data_gate.findings.Finding("refused", "new labels: <b>bird</b>")],
    )
    found = rendered(refused)
    assert text_of(found, "//*[@id='verdict']") == [
        "Nothing was published: the data are refused. Version 1795478357 stays live."
    ]
    assert "refused: new labels: <b>bird</b>" in text_of(found, "//section[@id='data']//li")
    assert not found.xpath("//section[@id='mistakes']")
    assert "could not be made" not in found.text_content()


def test_a_run_of_which_nothing_is_known_has_a_page(tmp_path: Path) -> None:
    found = rendered(Facts(pipeline="photos", run="1", verdict="failed", reason="no network"))
    assert text_of(found, "//*[@id='verdict']") == ["The run failed: no network. No model is live."]


def test_a_part_that_can_not_be_made_takes_no_other_away(tmp_path: Path) -> None:
    facts = report_facts.facts(tmp_path, ["cat", "dog"])
    assert facts.made.predictions is not None
    for path in Path(facts.made.predictions).iterdir():
        path.write_bytes(b"no parquet")
    found = rendered(facts)
    assert "This part could not be made" in found.text_content()
    assert found.xpath("//section[@id='gate']//tbody/tr")
    assert found.xpath("//section[@id='history']//tbody/tr")


def test_pictures_that_are_gone_leave_their_words(tmp_path: Path) -> None:
    facts = report_facts.facts(tmp_path, ["cat", "dog"], tests=500)
    shown, mistakes = Shown(facts), Answers(report_facts.rows(["cat", "dog"], 500)).surest_mistakes
    shown.look_for("test", (one.path for one in mistakes))
    cards = shown.answered(mistakes)
    assert {card.src is None for card in cards} == {True, False}  # only the first 400 are there
    assert all(card.path and card.label and card.answer for card in cards)
