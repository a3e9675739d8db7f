"""The page of a real run, in a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from components.model_evaluator import gate
from tests import browser
from tests.components import report_facts
from tests.components.test_run_report import UNRULY
from tests.e2e.conftest import Finished, Project


@pytest.fixture(scope="module", params=[(1280, False), (390, True)], ids=["wide, light", "narrow, dark"])
def opened(request: pytest.FixtureRequest) -> Iterator[webdriver.Chrome]:
    width, dark = request.param
    with browser.chromium(width, 900, dark) as driver:
        yield driver


def show(driver: webdriver.Chrome, page: Path) -> None:
    """Open a page; it must load without a request to anywhere and without an error."""
    driver.get("about:blank")
    driver.get_log("performance")
    driver.get_log("browser")
    driver.get(page.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert driver.get_log("browser") == []


def test_the_page_of_a_run_loads_nothing_fits_and_says_what_the_gate_says(
    opened: webdriver.Chrome, project: Project, first: Finished
) -> None:
    assert first.code == 0, first.err
    show(opened, project.root / "run" / "report.html")
    width = opened.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]
    assert opened.find_element(By.ID, "verdict").text.startswith(f"Version {project.versions()[-1]} is published and live")
    checks = gate.read(str(project.latest("Evaluator/evaluation/*")))
    rows = opened.find_elements(By.CSS_SELECTOR, "#gate tbody tr")
    assert [row.find_elements(By.TAG_NAME, "td")[1].text for row in rows] == [gate.shown(check.value) for check in checks]
    assert opened.find_elements(By.CSS_SELECTOR, "#mistakes img[alt='where the model looked']")
    background = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (width[1] > 600)
    for picture in opened.find_elements(By.TAG_NAME, "img"):
        assert opened.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", picture)


def test_tables_are_sorted_by_keyboard_and_filtered(opened: webdriver.Chrome, tmp_path: Path) -> None:
    from components.run_report import page

    facts = report_facts.facts(tmp_path, [*UNRULY, *(f"class {number}" for number in range(20))])
    (tmp_path / "page.html").write_text(page.render(facts), encoding="utf-8")
    show(opened, tmp_path / "page.html")
    assert opened.title == "photos: published"

    def column(number: int) -> list[str]:
        rows = opened.find_elements(By.CSS_SELECTOR, "#classes tbody tr")
        return [row.find_elements(By.TAG_NAME, "td")[number].text for row in rows if row.is_displayed()]

    heads = opened.find_elements(By.CSS_SELECTOR, "#classes thead button")
    recall = next(number for number, head in enumerate(heads) if head.text.startswith("recall"))
    heads[recall].send_keys(Keys.ENTER)
    up = [float(value) for value in column(recall)]
    assert up == sorted(up)
    heads[recall].send_keys(Keys.SPACE)
    assert [float(value) for value in column(recall)] == sorted(up, reverse=True)
    assert opened.find_elements(By.CSS_SELECTOR, "#classes thead th")[recall].get_attribute("aria-sort") == "descending"
    opened.find_element(By.CSS_SELECTOR, "#classes input[type=search]").send_keys("SCRIPT")
    assert column(0) == ["<script>alert(1)</script>"]
