"""Landscape and ablation: fitted LoRAs at scales in parts, which add up to what was fitted."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from fit_stills import setup
from random_case import finished, fitted_on
from torch import Tensor, nn

from perturb.diffusion import sample_generator
from perturb.errors import UserError
from perturb.models.partition import Partition
from perturb.models.videocrafter.system import VideoSystem
from perturb.perturbation import LoraPerturbation, Perturbation, ScaledPerturbation, Unfitted, scaled
from perturb.perturbation.anatomy import BLOCKS
from perturb.perturbation.reference import Reference
from perturb.store.rundir import RunDir
from perturb.store.states import step_id
from perturb.store.tensors import hash_modules, summarise
from perturb.study.states import make_states

SEED, STEP = 4, 5  # of the runs that `finished` makes
SCALES = (0, 0.5, 1.5)
KINDS = ("convolution", "attention", "feed_forward", "other")


@pytest.fixture(autouse=True)
def _frozen(tiny_system: VideoSystem) -> None:
    """As it is while sampling: torch's matmul looks at requires_grad when it picks a kernel, and kernels round."""
    tiny_system.unet.requires_grad_(False)


def call(unet: nn.Module) -> Tensor:
    x, context = (torch.randn(shape, generator=sample_generator(0)) for shape in ((1, 4, 2, 4, 4), (1, 5, 32)))
    with torch.no_grad():
        return unet(x, torch.tensor([500]), context, torch.tensor([8]))


def runs(unet: nn.Module, root: Path) -> dict[str, RunDir]:
    return {group: finished(unet, root / group, group) for group in ("spatial", "temporal")}


def landscape(unet: nn.Module, sources: dict[str, RunDir], **changes: object) -> ScaledPerturbation:
    settings = {"spatial_scales": SCALES, "temporal_scales": SCALES, "step": STEP, "lora": LoraPerturbation(rank=2)}
    paths = {group: str(run.path) for group, run in sources.items()}
    perturbation = scaled.landscape(**(settings | paths | changes))  # pyright: ignore[reportArgumentType]
    perturbation.attach(unet, Partition.of(unet), "both", SEED)
    return perturbation


def ablation(unet: nn.Module, run: RunDir, *parts: str, group: str = "spatial") -> ScaledPerturbation:
    perturbation = scaled.ablation(reference=str(run.path), parts=["none", *parts], step=STEP)
    perturbation.attach(unet, Partition.of(unet), group, SEED)
    return perturbation


def alone(unet: nn.Module, run: RunDir, alpha: float) -> Tensor:
    """What the fitted LoRA does by itself, at a scale that is set in peft's own way."""
    lora = LoraPerturbation.restore(unet, run.adapter(step_id(STEP)))
    for factor in lora.parameters():
        factor.requires_grad_(False)
    lora.scale(alpha)
    result = call(unet)
    lora.detach()
    return result


def test_the_edges_of_a_landscape_are_each_lora_alone(tiny_system: VideoSystem, tmp_path: Path):
    unet = tiny_system.unet
    sources, plain = runs(unet, tmp_path), call(unet)
    wanted = {(a, 0.0): alone(unet, sources["spatial"], a) for a in SCALES}
    wanted |= {(0.0, a): alone(unet, sources["temporal"], a) for a in SCALES}
    both = landscape(unet, sources)
    assert isinstance(both, Unfitted)
    pairs = {(float(s.coordinates["spatial"]), float(s.coordinates["temporal"])): s for s in both.states()}
    assert list(pairs) == [(s, t) for s in SCALES for t in SCALES]
    assert torch.equal(call(unet), plain)  # as attached: the first state
    outputs = {}
    for pair, state in reversed(pairs.items()):
        both.at(state)
        outputs[pair] = call(unet)
    assert torch.equal(outputs[0, 0], plain)
    for pair, output in wanted.items():
        if 1.5 in pair:  # three halves of a factor are rounded; 0, 1/2 and 1 are exact
            torch.testing.assert_close(outputs[pair], output, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(outputs[pair], output), pair
    assert len({tuple(output.flatten().tolist()) for output in outputs.values()}) == 9
    assert both.parameters() == []


def test_the_size_of_a_state_is_made_of_both_sizes(tiny_system: VideoSystem, tmp_path: Path):
    unet = tiny_system.unet
    sources, squares = runs(unet, tmp_path), {}
    for group, run in sources.items():
        lora = LoraPerturbation.restore(unet, run.adapter(step_id(STEP)))
        size = lora.magnitude()
        squares[group] = sum((size.per_layer[layer] * size.bases[layer]) ** 2 for layer in size.bases)
        squares[f"{group} base"] = sum(base**2 for base in size.bases.values())
        lora.detach()
    both = landscape(unet, sources)
    both.at(both.states()[5])  # α_S = 1/2, α_T = 3/2
    delta = 0.25 * squares["spatial"] + 2.25 * squares["temporal"]
    expected = (delta / (squares["spatial base"] + squares["temporal base"])) ** 0.5
    assert both.magnitude().total == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["landscape", "ablation"])
def test_a_saved_state_is_a_plain_adapter_and_detach_gives_the_network_back(
    tiny_system: VideoSystem, tmp_path: Path, kind: str
):
    unet, sources = tiny_system.unet, runs(tiny_system.unet, tmp_path)
    before = hash_modules({"unet": unet})
    part: Callable[[], ScaledPerturbation] = {
        "landscape": lambda: landscape(unet, sources),
        "ablation": lambda: ablation(unet, sources["spatial"], "all", "down attention"),
    }[kind]
    perturbation = part()
    perturbation.at(perturbation.states()[2])
    expected = call(unet)
    perturbation.save(tmp_path / "kept")
    perturbation.at(perturbation.states()[1])
    perturbation.load(tmp_path / "kept")
    assert torch.equal(call(unet), expected)
    perturbation.detach()
    assert hash_modules({"unet": unet}) == before
    lora = LoraPerturbation.restore(unet, tmp_path / "kept")
    for factor in lora.parameters():
        factor.requires_grad_(False)
    assert torch.equal(call(unet), expected)


@pytest.mark.parametrize("names", [BLOCKS, KINDS])
@pytest.mark.parametrize("group", ["spatial", "temporal"])
def test_the_parts_of_an_ablation_add_up_to_the_whole(
    tiny_system: VideoSystem, tmp_path: Path, names: tuple[str, ...], group: str
):
    unet = tiny_system.unet
    run, plain = finished(unet, tmp_path, group), call(unet)
    cut = ablation(unet, run, "all", *names, group=group)
    assert torch.equal(call(unet), plain)
    cut.at(cut.states()[1])
    whole, factors = call(unet), {layer: b.clone() for layer, (_, b) in cut._attached().factors().items()}
    total = {layer: torch.zeros_like(b) for layer, b in factors.items()}
    for i in range(len(names)):
        cut.at(cut.states()[2 + i])
        part = {layer: b for layer, (_, b) in cut._attached().factors().items()}
        moved = {layer for layer, b in part.items() if b.any()}
        assert moved
        for layer in moved:
            assert not total[layer].any(), f"{layer} is in two parts"
            total[layer] += part[layer]
    assert all(torch.equal(total[layer], factors[layer]) for layer in factors)
    cut.detach()
    assert torch.equal(whole, alone(unet, run, 1.0))


def test_the_manifest_says_what_was_scaled_in_which_states(tiny_system: VideoSystem, tmp_path: Path):
    unet, sources = tiny_system.unet, runs(tiny_system.unet, tmp_path)
    both = landscape(unet, sources)
    described = both.describe()
    assert described["kind"] == "landscape"
    assert [state.id for state in both.states()][:2] == ["spatial_0_temporal_0", "spatial_0_temporal_0.5"]
    origin = {"kind": "lora", "seed": SEED, "as_video": None}
    assert described["sources"] == {group: {"run": group, **origin} for group in ("spatial", "temporal")}
    both.detach()
    layers = Partition.of(unet).layers("temporal")
    cut = ablation(unet, sources["temporal"], "all", "down query", group="temporal")
    assert [state.id for state in cut.states()] == ["part_none", "part_all", "part_down-query"]
    described = cut.describe()
    assert list(described["sources"]) == ["temporal"]
    assert set(described["places"]) == set(described["layers"]) == set(layers)
    assert described["step"] == STEP


def test_what_cannot_be_put_together_is_refused_with_a_reason(tiny_system: VideoSystem, tmp_path: Path):
    unet, sources = tiny_system.unet, runs(tiny_system.unet, tmp_path)
    for scales in ((0.5, 1), (0, 1, 1), (0,), (0, float("nan")), (0, 2, 1)):
        with pytest.raises(UserError, match=r"perturbation\.spatial_scales is .*; allowed: two or more numbers"):
            landscape(unet, sources, spatial_scales=scales)
    with pytest.raises(UserError, match=r"perturbation\.step is 0; allowed: at least 1"):
        landscape(unet, sources, step=0)
    with pytest.raises(UserError, match=r"no adapter of step 3; allowed in perturbation\.step: 0, 2, 5"):
        landscape(unet, sources, step=3)
    swapped = {"spatial": sources["temporal"], "temporal": sources["spatial"]}
    with pytest.raises(UserError, match=r"perturbed the group 'temporal', this run is to perturb 'spatial' with it"):
        landscape(unet, swapped)
    with pytest.raises(UserError, match=r"nowhere is no run whose fit is finished"):
        landscape(unet, sources, temporal=str(tmp_path / "nowhere"))
    one = scaled.landscape(
        spatial_scales=SCALES, temporal_scales=SCALES, step=STEP, lora=LoraPerturbation(),
        **{group: str(run.path) for group, run in sources.items()},
    )  # fmt: skip
    with pytest.raises(UserError, match="group is 'spatial': set group=both"):
        one.attach(unet, Partition.of(unet), "spatial", SEED)
    with pytest.raises(UserError, match=rf"was fitted with fit\.seed={SEED}, and fit\.seed is 0: set fit\.seed={SEED}"):
        one.attach(unet, Partition.of(unet), "both", 0)
    one.attach(unet, Partition.of(unet), "both", SEED)
    with pytest.raises(UserError, match="attached already"):
        landscape(unet, sources)
    one.detach()

    with pytest.raises(UserError, match=r"perturbation\.parts is \['all'\]; allowed: none and then"):
        scaled.ablation(reference="x", parts=["all"], step=STEP)
    with pytest.raises(UserError, match=r"perturbed no layer that is 'up\.7'; its layers are called .*, attention, "):
        ablation(unet, sources["spatial"], "up.7")
    with pytest.raises(UserError, match="perturbed the group 'spatial', this run is to perturb 'temporal'"):
        ablation(unet, sources["spatial"], "all", group="temporal")
    assert not hasattr(unet, "peft_config")


def test_adapters_of_other_models_are_refused_but_ranks_may_differ(tiny_system: VideoSystem, tmp_path: Path):
    unet, sources = tiny_system.unet, runs(tiny_system.unet, tmp_path)
    fitted_on(tiny_system, sources["spatial"])
    fitted_on(tiny_system, sources["temporal"])
    here = summarise(hash_modules(tiny_system.modules()))
    both = landscape(unet, sources)
    both.detach()
    both.check(here)
    other = here | {"unet": {"tensors": 1, "sha256": "0"}}
    with pytest.raises(
        UserError, match=r"perturbation\.spatial=.* is a run of another model \(tiny, here\): unet diff"
    ):
        both.check(other)
    with pytest.raises(UserError, match=r"perturbation\.reference=.* is a run of another model"):
        scaled.ablation(reference=str(sources["spatial"].path), parts=["none", "all"], step=STEP).check(other)
    wider = LoraPerturbation(rank=3, alpha=3.0)
    wider.attach(unet, Partition.of(unet), "temporal", 0)
    wider.save(sources["temporal"].adapter(step_id(STEP)))
    wider.detach()
    both = landscape(unet, sources)
    assert {b.shape[1] for b in both._fitted.values()} == {2, 3}


def test_an_index_of_ones_own_walks_parts_at_scales(tiny_system: VideoSystem, tmp_path: Path):
    unet = tiny_system.unet
    run, plain = finished(unet, tmp_path), call(unet)
    rows = [({"down": 0.0}, {}), ({"down": 0.5}, {"down": 0.5}), ({"down": 2.0}, {"down": 1.5, "spatial down": 0.5})]
    settings = [scaled.Setting(coordinates, scales) for coordinates, scales in rows]
    reference = Reference("perturbation.reference", run)
    dial = ScaledPerturbation("dial", settings, sources={"spatial": reference}, step=STEP)
    dial.attach(unet, Partition.of(unet), "spatial", SEED)
    assert torch.equal(call(unet), plain)
    sizes = {}
    for state in dial.states():
        dial.at(state)
        sizes[state.id] = dial.magnitude()
    half, double = sizes["down_0.5"], sizes["down_2"]
    moved = {layer for layer, ratio in half.per_layer.items() if ratio}
    assert moved
    assert all(layer.startswith("down.") for layer in moved)
    assert double.total == pytest.approx(4 * half.total, rel=1e-6)  # the scales of all parts that a layer is in add up


def test_a_given_source_is_checked_before_the_other_is_fitted(tiny_system: VideoSystem, tmp_path: Path):
    def fit(perturbation: Perturbation, group: str, probe_steps: Sequence[int]) -> RunDir:
        raise AssertionError(f"{group} may not be fitted")

    space = finished(tiny_system.unet, tmp_path / "space")
    settings = {"spatial_scales": SCALES, "temporal_scales": SCALES, "step": STEP, "lora": LoraPerturbation(rank=2)}
    wrong = scaled.landscape(**settings, temporal=str(space.path))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="perturbed the group 'spatial', this run is to perturb 'temporal'"):
        wrong.prepare(fit)
    right = scaled.landscape(**settings, spatial=str(space.path))  # pyright: ignore[reportArgumentType]
    space.update_manifest(frozen={"before": {"unet": {"sha256": "of another model", "tensors": 1}}})
    with pytest.raises(UserError, match="is a run of another model"):
        make_states(setup(tiny_system), right, group="both", probe_steps=None, run=RunDir(tmp_path / "run"))


def test_states_with_one_name_are_refused():
    scales = (0, 0.1234561, 0.1234562)
    with pytest.raises(UserError, match="has 6 states and only 4 names for them"):
        scaled.landscape(spatial_scales=scales, temporal_scales=(0, 1), step=STEP, lora=LoraPerturbation(rank=2))
