"""The page for votes: what it shows, what it hides, and the key that undoes it."""

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perturb.analysis.load import find_runs, load
from perturb.analysis.report.blind import blind_page
from perturb.analysis.report.blind_pairs import BlindSettings, comparisons
from perturb.errors import UserError
from perturb.report import main
from perturb.store.states import step_id
from tests.unit.blind_runs import FPS, FRAMES, PROMPTS, SIZE, flicker, make_twin, make_twins
from tests.unit.coupling_runs import TEXTS, make_study


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_twins(tmp_path / "runs")
    return tmp_path / "runs"


def write(runs: Path, *options: str) -> tuple[dict, list[dict[str, str]], str]:
    """The content of the page, the rows of the key, and the page."""
    page = runs.parent / "test.html"
    assert main([str(runs), "--blind", str(page), *options]) == 0
    html = page.read_text()
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', html, re.DOTALL)
    assert found
    with (runs.parent / "test.key.csv").open(newline="") as file:
        return json.loads(found[1]), list(csv.DictReader(file)), html


def frames(sprite: str) -> np.ndarray:
    """t h w c, as a browser cuts them."""
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite))).convert("RGB"))
    return np.stack(np.split(image, FRAMES, axis=1))


def test_key_names_exactly_what_each_clip_shows(runs: Path) -> None:
    content, key, _ = write(runs)
    clips = {clip["id"]: (pair["id"], clip) for pair in content["pairs"] for clip in pair["clips"]}
    assert len(clips) == len(key) == 2 * len(PROMPTS)
    for row in key:
        pair, clip = clips[row["clip"]]
        training = {"first": "full", "second": "partial"}[row["role"]]
        shown = frames(clip["sprite"])
        assert shown.shape == (FRAMES, SIZE, SIZE, 3)
        assert (shown == (flicker(training, row["prompt_id"]), 90, 30)).all()  # lossless
        assert (row["pair"], row["study"], row["step"]) == (pair, content["study"], "100")
        assert (row["run_id"], row["name"]) == (f"{training[:4]}000000", {"full": "M_F'", "partial": "M_P'"}[training])
        assert row["comparison"] == "M_F' against M_P': spatial, step 100"
    assert content["fps"] == FPS
    for pair in content["pairs"]:
        assert len({row["prompt_id"] for row in key if row["pair"] == pair["id"]}) == 1


def test_page_gives_nothing_away(runs: Path) -> None:
    content, key, html = write(runs)
    for secret in ("full", "partial", "M_F", "M_P", "spatial", "secret words", "p003", *(row["run_id"] for row in key)):
        assert secret not in json.dumps(content)
        assert not re.search(rf"\b{re.escape(secret)}\b", html)
    assert "default-src 'none'" in html
    role = {row["clip"]: row["role"] for row in key}
    first = [role[pair["clips"][0]["id"]] for pair in content["pairs"]]
    assert 2 < first.count("first") < 10
    prompts = {row["pair"]: row["prompt_id"] for row in key}
    assert [prompts[pair["id"]] for pair in content["pairs"]] != sorted(PROMPTS)


def test_same_seed_same_page_and_another_seed_another_order(runs: Path) -> None:
    one, again, other = write(runs), write(runs), write(runs, "--seed", "1")
    assert one == again
    assert one[0]["study"] != other[0]["study"]
    assert {row["prompt_id"] for row in one[1]} == {row["prompt_id"] for row in other[1]}


def test_question_ties_and_number_of_pairs_are_options(runs: Path) -> None:
    content, key, html = write(runs, "--question", "Which is <b>sharper</b> & calmer?", "--ties", "--pairs", "5")
    assert content["question"] == key[0]["question"] == "Which is <b>sharper</b> & calmer?"
    assert "<b>sharper" not in html
    assert 'data-choice="tie"' in html
    assert len(content["pairs"]) == 5
    assert 'data-choice="tie"' not in write(runs)[2]


def test_pairs_are_shared_evenly_among_comparisons(runs: Path) -> None:
    _, key, _ = write(runs, "--at", "0", "100", "--pairs", "6")
    assert sorted(row["step"] for row in key) == ["0"] * 6 + ["100"] * 6


def test_one_run_is_compared_with_its_start(runs: Path) -> None:
    _, key, _ = write(runs / "spatial_full")
    assert {(row["role"], row["step"], row["name"]) for row in key} == {
        ("first", "100", "step 100"),
        ("second", "0", "step 0"),
    }


def test_two_runs_are_compared_whatever_they_are(runs: Path) -> None:
    shutil.rmtree(runs / "spatial_partial")
    make_twin(runs, "full", seed=1)
    _, key, _ = write(runs)
    assert {row["name"] for row in key} == {"spatial_full/full000000", "spatial_full/full000001"}


def test_lora_seeds_and_conditions_are_paired_with_their_twins(tmp_path: Path) -> None:
    for step_run in make_study(tmp_path).values():
        for step in (0, 50, 100):
            step_run.clips(step_id(step)).mkdir(parents=True)
            for prompt in TEXTS:
                np.save(step_run.clip(step_id(step), prompt, 0), np.zeros((2, 8, 8, 3), np.uint8))
    found = comparisons(load(find_runs([tmp_path])), ())
    assert len(found) == 12  # 3 conditions × 2 kinds × 2 LoRA seeds
    for one in found:
        manifests = [side.run.manifest for side in one.sides]
        assert [m.system["training"] for m in manifests] == ["full", "partial"]
        assert len({(m.perturbation["kind"], m.perturbation["group"], m.perturbation["seed"]) for m in manifests}) == 1
    assert len({one.title for one in found}) == 6
    assert "M_F'' against M_P'': random Δ, temporal, repeat, step 100" in {one.title for one in found}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--at", "70"], "allowed: [0, 100]"),
        (["--pairs", "0"], "pairs from 1"),
        (["--question", " "], "allowed: a question"),
        (["--clips-mb", "0"], "0 of 12 pairs fit"),
        (["-o", "report.html"], "leave --output"),
    ],
)
def test_mistakes_are_named(runs: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    assert main([str(runs), "--blind", str(runs / "x.html"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (runs / "x.html").exists()


def test_runs_without_clips_or_twin_or_of_other_shape_are_refused(runs: Path) -> None:
    make_twin(runs, "full", seed=1)
    with pytest.raises(UserError, match=r"LoRA seed 1.*one full and one partial"):
        comparisons(load(find_runs([runs])), ())
    shutil.rmtree(runs / "spatial_full" / "full000001")
    study = load(find_runs([runs]))
    study.runs[1].directory.update_manifest(clips={"height": SIZE, "width": SIZE, "frames": FRAMES, "fps": 8})
    with pytest.raises(UserError, match="differ in their fps"):
        comparisons(load(find_runs([runs])), ())
    shutil.rmtree(runs / "spatial_full/full000000/clips")
    study.runs[1].directory.update_manifest(clips={"height": SIZE, "width": SIZE, "frames": FRAMES, "fps": FPS})
    with pytest.raises(UserError, match="no clip in common"):
        comparisons(load(find_runs([runs])), ())


def test_a_missing_clip_costs_its_pair_only(runs: Path) -> None:
    next(runs.glob("spatial_full/*/clips/step_000100/p003*")).unlink()
    found = comparisons(load(find_runs([runs])), ())
    _, key = blind_page(found, BlindSettings())
    assert {row.prompt_id for row in key} == set(PROMPTS) - {"p003"}
