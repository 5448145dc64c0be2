"""The page for votes in Debian's Chromium, from file://, with scripted raters: the analysis must tell them apart.

The scripted raters see what people see, the drawn pixels. Their votes are made here and nowhere else.
"""

import csv
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from perturb.analysis.votes.__main__ import main as analyse
from perturb.report import main
from tests.unit.blind_runs import PROMPTS, flicker, make_twins

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
Reds = tuple[int, int]
Policy = Callable[[Reds], str]
OPEN = ".answers button:not([disabled])"
REDS = """() => ['left', 'right'].map((side) => {
  const canvas = document.getElementById(side);
  const copy = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d');
  copy.drawImage(canvas, 8, 8, 1, 1, 0, 0, 1, 1);
  return canvas.dataset.frame === 'pause' ? -1 : copy.getImageData(0, 0, 1, 1).data[0];
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as program:
        chromium = program.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blind") / "runs"
    make_twins(folder)
    assert main([str(folder), "--blind", str(folder.parent / "test.html"), "--ties"]) == 0
    return folder


class Rater:
    """A person at the page, in a browser of their own."""

    def __init__(self, browser, page: Path, name: str, *, width: int = 1400, height: int = 900) -> None:
        self.name, self.file = name, page
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_context(viewport={"width": width, "height": height}).new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(page.as_uri())

    def start(self) -> "Rater":
        self.page.fill("#rater", self.name)
        self.page.click("#who button")
        return self

    def sees(self) -> Reds:
        """The red of both clips, not in their pause; returns once they may be judged."""
        while -1 in (reds := self.page.evaluate(REDS)):
            self.page.wait_for_timeout(10)
        self.page.wait_for_selector(OPEN)
        return tuple(reds)

    def votes(self, policy: Policy, count: int = len(PROMPTS)) -> list[Reds]:
        """By keys; returns what was seen."""
        seen = []
        for _ in range(count):
            seen.append(self.sees())
            self.page.keyboard.press({"left": "ArrowLeft", "right": "ArrowRight", "tie": "ArrowDown"}[policy(seen[-1])])
        return seen

    def saves(self, folder: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.click("#save")
        file = folder / download.value.suggested_filename
        download.value.save_as(file)
        return file

    def leaves(self) -> None:
        assert self.said == []
        assert {url for url in self.asked if not url.startswith(("data:", "blob:"))} == {self.file.as_uri()}
        self.page.context.close()


def smooth(reds: Reds) -> str:
    return "left" if reds[0] < reds[1] else "right"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def page_order(page: Path) -> dict[str, str]:
    """Pair → the clip that lies first in the page."""
    found = re.search(r'id="content">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return {pair["id"]: pair["clips"][0]["id"] for pair in json.loads(found[1])["pairs"]}


def analysed(browser, runs: Path, folder: Path, policies: dict[str, Policy]) -> tuple[dict, pd.DataFrame]:
    """The tables, after every rater has voted on every pair."""
    files = []
    for name, policy in policies.items():
        rater = Rater(browser, runs.parent / "test.html", name).start()
        seen = rater.votes(policy)
        assert len(set(map(frozenset, seen))) == len(PROMPTS)
        assert rater.page.locator("#thanks").inner_text() == "Done. Thank you!"
        files.append(str(rater.saves(folder)))
        rater.leaves()
    key = str(runs.parent / "test.key.csv")
    assert analyse([*files, "--key", key, "--runs", str(runs), "-o", str(folder / "out")]) == 0
    (rates,) = pd.read_csv(folder / "out" / "votes.csv").to_dict("records")
    return rates, pd.read_csv(folder / "out" / "vote_metrics.csv").set_index("metric")


def test_analysis_tells_a_rater_who_sees_from_one_who_guesses(browser, runs: Path, tmp_path: Path) -> None:
    seeing, guessing = tmp_path / "seeing", tmp_path / "guessing"
    seeing.mkdir()
    guessing.mkdir()
    rates, metrics = analysed(browser, runs, seeing, {f"scripted-smooth-{i}": smooth for i in range(5)})
    assert rates["win_rate"] == pytest.approx(8 / 12, abs=1e-5)  # the full model is smoother in 8 prompts of 12
    assert rates["alpha"] == 1
    assert metrics.spearman["flicker"] < -0.7
    assert metrics.spearman_high["flicker"] < 0

    dice = [random.Random(i) for i in range(5)]
    policies = {f"scripted-random-{i}": lambda _, i=i: dice[i].choice(["left", "right"]) for i in range(5)}
    rates, metrics = analysed(browser, runs, guessing, policies)
    assert rates["win_low"] < 0.5 < rates["win_high"]
    assert rates["alpha"] < 0.3
    assert rates["alpha_low"] < 0
    assert metrics.spearman_low["flicker"] < 0 < metrics.spearman_high["flicker"]


def test_sides_are_balanced_and_differ_between_raters(browser, runs: Path, tmp_path: Path) -> None:
    key = {row["clip"]: row for row in rows(runs.parent / "test.key.csv")}
    orders, sides = [], []
    for name in ("a", "b"):
        rater = Rater(browser, runs.parent / "test.html", name).start()
        seen = rater.votes(lambda _: "left")
        saved = rows(rater.saves(tmp_path))
        for reds, row in zip(seen, saved, strict=True):
            shown = [key[row[side]] for side in ("left", "right")]
            trainings = ["full" if side["role"] == "first" else "partial" for side in shown]
            expected = [flicker(t, side["prompt_id"]) for t, side in zip(trainings, shown, strict=True)]
            assert list(reds) == expected
            assert (row["rater"], row["choice"]) == (name, "left")
            assert 0 < float(row["seconds"]) < 60
        orders.append([row["pair"] for row in saved])
        sides.append({row["pair"]: row["left"] for row in saved})
        rater.leaves()
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    exchanged = [sides[0][pair] != sides[1][pair] for pair in orders[0]]
    assert 2 <= sum(exchanged) <= 10
    content = page_order(runs.parent / "test.html")
    for own in sides:
        assert sum(own[pair] == first for pair, first in content.items()) == 6  # half of the pairs, for everybody


def test_votes_outlive_the_page_and_can_be_changed(browser, runs: Path, tmp_path: Path) -> None:
    rater = Rater(browser, runs.parent / "test.html", "ann").start()
    rater.votes(smooth, 3)
    assert rater.page.locator("#count").inner_text() == "4 of 12"
    rater.page.reload()
    assert rater.page.locator("#rater").input_value() == "ann"
    assert "ann has voted on 3 of 12 pairs" in rater.page.locator("#known").inner_text()
    rater.page.click("#who button")
    assert rater.page.locator("#count").inner_text() == "4 of 12"
    rater.sees()
    rater.page.keyboard.press("Backspace")
    rater.sees()
    assert "Your answer was" in rater.page.locator("#hint").inner_text()
    rater.page.keyboard.press("ArrowDown")
    assert rater.page.locator("#count").inner_text() == "4 of 12"
    rater.page.click("#stop")
    early = rows(rater.saves(tmp_path))
    assert [row["choice"] == "tie" for row in early] == [False, False, True]
    rater.page.click("#again")
    rater.votes(smooth, 9)
    late = rows(rater.saves(tmp_path))
    assert late[:3] == early
    assert len({row["pair"] for row in late}) == len(late) == 12
    rater.page.click("#other")
    rater.page.fill("#rater", "bo")
    rater.page.click("#who button")
    assert rater.page.locator("#count").inner_text() == "1 of 12"
    rater.leaves()


def test_no_answer_before_both_clips_were_seen(browser, runs: Path) -> None:
    rater = Rater(browser, runs.parent / "test.html", "hasty")
    rater.page.fill("#rater", rater.name)
    # begin and pause in one task: on a busy machine the clips would be over before a second one
    rater.page.evaluate("document.getElementById('who').requestSubmit(); toggle()")
    rater.page.wait_for_selector("#vote:not([hidden])")
    for _ in range(3):
        rater.page.keyboard.press("ArrowLeft")
    rater.page.wait_for_timeout(300)
    assert rater.page.locator("#count").inner_text() == "1 of 12"
    assert rater.page.locator(OPEN).count() == 0
    rater.page.keyboard.press(" ")
    rater.votes(smooth, 1)
    assert rater.page.locator("#count").inner_text() == "2 of 12"
    rater.leaves()


def test_a_name_is_asked_for(browser, runs: Path) -> None:
    rater = Rater(browser, runs.parent / "test.html", "=cmd,1").start()
    assert rater.page.locator("#vote").is_hidden()
    rater.leaves()


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_everything_fits_on_one_screen(browser, runs: Path, width: int, height: int) -> None:
    rater = Rater(browser, runs.parent / "test.html", "ann", width=width, height=height).start()
    rater.sees()
    assert rater.page.evaluate("document.documentElement.scrollWidth") <= width
    last = rater.page.locator("#stop").bounding_box()
    assert last["y"] + last["height"] < height
    left, right = (rater.page.locator(f"#{side}").bounding_box() for side in ("left", "right"))
    assert left["y"] == right["y"]
    assert left["width"] == right["width"] > 0.3 * width
    rater.page.click("[data-choice=left]")
    assert rater.page.locator("#count").inner_text() == "2 of 12"
    rater.sees()
    rater.page.keyboard.press(" ")  # pauses, and is no vote
    assert rater.page.locator("#pause").inner_text() == "Play"
    assert rater.page.locator("#count").inner_text() == "2 of 12"
    rater.leaves()
