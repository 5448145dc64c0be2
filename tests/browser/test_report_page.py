"""The report in Debian's Chromium, from file://: no error, no request, and the player does what it says.

Skipped where there is no Chromium (apt-get install chromium).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from perturb.report import main
from perturb.store.states import step_id
from tests.unit.coupling_runs import STEPS, Key, make_study

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")

HOSTILE = "</script><img src=x onerror=\"document.body.dataset.broken='yes'\"> & {{ 7*7 }}"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def clip(key: Key, prompt: int, step: int) -> np.ndarray:
    """Frames 2 × 16 × 16 of one colour, different for every model, prompt and step."""
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    frames[...] = (200 if key.training == "full" else 60, 80 * prompt, 2 * step)
    frames[1] += 20
    return frames


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two runs, spatial, with clips and a hostile prompt."""
    folder = tmp_path_factory.mktemp("study") / "secret folder"
    for key, run in make_study(
        folder, lambda key: key.group == "spatial" and key.kind == "lora" and not key.seed
    ).items():
        run.update_manifest(prompts={"p001": HOSTILE}, system={"checkpoint": str(folder / "model.ckpt")})
        for step in STEPS:
            run.clips(step_id(step)).mkdir(parents=True)
            for prompt in range(3):
                np.save(run.clip(step_id(step), f"p{prompt:03d}", 0), clip(key, prompt, step))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as program:
        chromium = program.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


class Opened:
    """A page with what it said and asked for."""

    def __init__(self, browser, path: Path, *, width: int = 1400, height: int = 900) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-charts=drawn]")

    def colours(self) -> list[list[int]]:
        """The middle pixel of both clips, as drawn."""
        script = "c => { const d = c.getContext('2d').getImageData(8, 8, 1, 1).data; return [d[0], d[1], d[2]] }"
        self.page.wait_for_timeout(120)
        return [self.page.locator(f"#{side} canvas").evaluate(script) for side in ("first", "second")]

    def shows(self, step: int, prompt: int) -> None:
        """Both canvases hold the clips of a step and prompt, in the same frame."""
        frames = [self.page.locator(f"#{side} canvas").get_attribute("data-frame") for side in ("first", "second")]
        assert frames[0] == frames[1]
        for found, key in zip(self.colours(), (FULL, PARTIAL), strict=True):
            expected = clip(key, prompt, step)[int(frames[0])][8, 8]
            assert np.abs(np.array(found) - expected).max() <= 8, (found, expected)


FULL, PARTIAL = (Key(training, "spatial", "single_frame", "lora", 0) for training in ("full", "partial"))


@pytest.fixture(scope="module")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "report.html"
    assert main([str(runs), "-o", str(output)]) == 0
    return output


@pytest.fixture
def study(browser, written: Path) -> Iterator[Opened]:
    opened = Opened(browser, written)
    opened.page.locator("#play").click()  # a clip that stands still is one that can be compared
    yield opened
    opened.page.close()


def test_it_loads_without_an_error_and_asks_for_nothing(study: Opened, written: Path, runs: Path) -> None:
    assert study.said == []
    assert [url for url in study.asked if not url.startswith("data:")] == [written.as_uri()]
    assert study.page.locator(".chart svg").count() == study.page.locator(".chart").count() > 4
    assert "Inconclusive" in study.page.locator("h1").inner_text()
    assert study.page.locator("h1").bounding_box()["y"] < 200
    assert written.stat().st_size < 5e6
    assert str(runs) not in written.read_text()
    assert "secret" not in written.read_text()


def test_hostile_text_is_text(study: Opened) -> None:
    assert study.page.locator("body").get_attribute("data-broken") is None
    assert HOSTILE in study.page.locator("#clip option").all_inner_texts()
    assert HOSTILE in study.page.locator("details li").all_text_contents()


def test_slider_and_prompt_chooser_change_both_clips(study: Opened) -> None:
    study.shows(step=STEPS[1], prompt=0)
    study.page.locator("#step").fill("2")
    study.shows(step=STEPS[2], prompt=0)
    assert "100" in study.page.locator("#step-name").inner_text()
    study.page.locator("#clip").select_option("2")
    study.shows(step=STEPS[2], prompt=2)
    scores = study.page.locator(".readings tbody tr").first.locator("td").all_inner_texts()
    assert scores == ["motion quality ↑", "0.38", "0.6"]  # .7 − .32 and .7 − .1


def test_keys_move_through_steps_and_prompts_and_stop_the_clips(study: Opened) -> None:
    study.page.locator("#player").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        study.page.keyboard.press(key)
    study.shows(step=STEPS[2], prompt=1)
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):
        study.page.keyboard.press(key)
    study.shows(step=STEPS[0], prompt=0)
    assert study.page.locator("#play").inner_text() == "Play"
    study.page.keyboard.press(" ")
    assert study.page.locator("#play").inner_text() == "Pause"
    first = study.page.locator("#first canvas")
    frame = first.get_attribute("data-frame")
    study.page.wait_for_function(f"document.querySelector('#first canvas').dataset.frame !== '{frame}'")


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_the_answer_is_in_the_first_screen_and_nothing_is_cut_off(
    browser, written: Path, width: int, height: int
) -> None:
    opened = Opened(browser, written, width=width, height=height)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    last = opened.page.locator(".figures > div").last.bounding_box()
    assert last["y"] + last["height"] < height
    opened.page.close()


def test_without_clips_it_says_why(browser, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "copy", ignore=shutil.ignore_patterns("clips"))
    assert main([str(tmp_path / "copy"), "-o", str(tmp_path / "report.html")]) == 0
    opened = Opened(browser, tmp_path / "report.html")
    assert opened.said == []
    assert opened.page.locator("#no-clips").is_visible()
    assert "a run copied without its folder clips/" in opened.page.locator("main").inner_text()
    opened.page.close()


def test_one_run_shows_its_start_beside_it(browser, runs: Path, tmp_path: Path) -> None:
    (run,) = runs.glob("spatial_full/*")
    assert main([str(run), "-o", str(tmp_path / "report.html")]) == 0
    opened = Opened(browser, tmp_path / "report.html")
    opened.page.locator("#play").click()
    opened.page.locator("#step").fill("2")
    frame = int(opened.page.locator("#first canvas").get_attribute("data-frame"))
    start, end = opened.colours()
    assert np.abs(np.array(start) - clip(FULL, 0, STEPS[0])[frame][8, 8]).max() <= 8
    assert np.abs(np.array(end) - clip(FULL, 0, STEPS[2])[frame][8, 8]).max() <= 8
    assert opened.said == []
    assert "needs its twin" in opened.page.locator("header").inner_text()
    opened.page.close()


def test_the_gallery_sorts_plays_and_fits_a_phone(browser, runs: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery.html"
    assert main([str(runs), "--gallery", "-o", str(gallery)]) == 0
    page = browser.new_page(viewport={"width": 390, "height": 844})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(gallery.as_uri())

    def levels() -> list[float]:
        cells = page.locator('[data-name="motion quality"]').all_inner_texts()
        return [float(text.split("→")[1].split()[0]) for text in cells]

    first = levels()
    assert len(set(first)) == 2
    for wanted in (sorted(first), sorted(first, reverse=True)):
        page.get_by_role("button", name="motion quality").click()
        assert levels() == wanted
    move = "clip => getComputedStyle(clip).animationName + getComputedStyle(clip).animationPlayState"
    assert page.locator(".strip i").count() == 2 * len(STEPS)
    assert page.locator(".strip i").first.evaluate(move) == "framesrunning"
    page.locator("#play").click()
    assert page.locator(".strip i").first.evaluate(move) == "framespaused"
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("body").get_attribute("data-broken") is None
    assert said == []
    page.close()
