"""Adapters of other libraries in and out: Δ is that of the library's own merge, and the way back is exact."""

import json
from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
import torch
from animatediff_parts import small
from lora_net import Net, attached, frozen_net, randomise
from safetensors.torch import load_file, save_file
from sd_models import image_unet, small_spec
from torch import Tensor, nn

from perturb.convert import main
from perturb.errors import UserError
from perturb.models.names import DIFFUSERS, OFFICIAL, layer_names, vocabularies
from perturb.models.partition import Partition
from perturb.models.videocrafter.checkpoint import save_system
from perturb.models.videocrafter.keymap.stable_diffusion import diffusers_unet
from perturb.models.videocrafter.spec import ModelSpec
from perturb.models.videocrafter.system import VideoSystem
from perturb.nn import VideoUNet
from perturb.perturbation import LoraPerturbation, foreign

LAYERS = ("outer.conv", "outer.volume", "outer.project", "outer.sequence", "inner.outer.project")


def noisy(network: nn.Module) -> None:
    """Values in every factor of a LoRA, the halves that begin at 0 too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def merged(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """Our θ + Δ with the adapter at ``path``, under our names; the network keeps θ."""
    lora = LoraPerturbation.restore(network, path)
    state = plain(lora, network)
    lora.detach()
    return state


def plain(lora: LoraPerturbation, network: nn.Module) -> dict[str, Tensor]:
    """θ + Δ of what is attached."""
    return lora.merged_copy(network).state_dict()


def close(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


# in ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_with_ranks_and_alphas_by_layer(rslora: bool, tmp_path: Path):
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=list(LAYERS), use_rslora=rslora,
        rank_pattern={"project": 2, "outer.volume": 4}, alpha_pattern={"^outer.project": 7, "conv": 1.5},
    )  # fmt: skip
    model = peft.get_peft_model(frozen_net(), config)  # pyright: ignore[reportArgumentType]
    noisy(model)
    model.save_pretrained(str(tmp_path / "theirs"))
    mine = merged(frozen_net(), tmp_path / "theirs")
    theirs = model.merge_and_unload().state_dict()  # pyright: ignore[reportCallIssue]
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        close(mine[key], value)
    lora = LoraPerturbation.restore(again := frozen_net(), tmp_path / "theirs")
    lora.save(tmp_path / "ours")  # and back: peft has the same model from what we write
    lora.detach()
    back = peft.PeftModel.from_pretrained(again, str(tmp_path / "ours")).merge_and_unload().state_dict()
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
    files = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])


@pytest.fixture
def pair(tiny_spec: ModelSpec) -> tuple[VideoUNet, nn.Module]:
    """Our network, and diffusers' image network with the same weights."""
    spec = small_spec(tiny_spec).unet
    ours, theirs = VideoUNet(spec).requires_grad_(False).eval(), image_unet(spec).requires_grad_(False)
    theirs.load_state_dict({key: ours.get_parameter(mine) for key, mine in diffusers_unet(spec).items()})
    return ours, theirs


def check_same(mine: dict[str, Tensor], theirs: nn.Module, names: dict[str, str]) -> None:
    """Every weight of diffusers' fused network is ours."""
    state = {key.replace(".base_layer.", "."): x for key, x in theirs.state_dict().items() if "lora_" not in key}
    assert state.keys() <= names.keys()
    for key, value in state.items():
        close(mine[names[key]], value)


def test_peft_in_diffusers_with_its_metadata(pair: tuple[VideoUNet, nn.Module], tmp_path: Path):
    ours, theirs = pair
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    theirs.add_adapter(peft.LoraConfig(  # pyright: ignore[reportCallIssue]
        r=2, lora_alpha=3, target_modules=["to_q", "to_out.0", "conv1", "time_emb_proj"], rank_pattern={"conv1": 4}
    ))  # fmt: skip
    noisy(theirs)
    theirs.save_lora_adapter(tmp_path)  # pyright: ignore[reportCallIssue]
    mine = merged(ours, tmp_path)
    theirs.fuse_lora()  # pyright: ignore[reportCallIssue]
    check_same(mine, theirs, vocabularies(ours)[DIFFUSERS])
    changed = {key for key, value in mine.items() if not torch.equal(value, before[key])}
    names = vocabularies(ours)[DIFFUSERS]
    expected = {
        ours for key, ours in names.items()
        if key.endswith((".to_q.weight", ".to_out.0.weight", ".conv1.weight", ".time_emb_proj.weight"))
        and "temp_" not in key and "transformer_in" not in key
    }  # fmt: skip
    assert changed == expected


def old_and_kohya(layers: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor], dict[str, float]]]:
    """The same factors as each library writes them, and the factor before B A that it means."""
    factors = {
        name: (torch.randn(2, *w.shape[1:]) * 0.1, torch.randn(len(w), 2, *(1 for _ in w.shape[2:])) * 0.1)
        for name, w in layers.items()
    }
    kohya, alphas = {}, {}
    for place, (name, (a, b)) in enumerate(factors.items()):
        stem = f"lora_unet_{name.replace('.', '_')}"
        kohya |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b}
        alphas[name] = 1.0
        if place % 2:  # α per module; without it α = r
            kohya[f"{stem}.alpha"], alphas[name] = torch.tensor(place + 0.5), (place + 0.5) / 2
    yield "kohya", kohya, alphas
    attention = {name: ab for name, ab in factors.items() if ".attn" in name}
    old = {}
    for name, (a, b) in attention.items():
        block, _, leaf = name.removesuffix(".0").rpartition(".")
        old |= {f"{block}.processor.{leaf}_lora.down.weight": a, f"{block}.processor.{leaf}_lora.up.weight": b}
    yield "processors", old, dict.fromkeys(attention, 1.0)
    ends = {f"unet.{name}.lora.down.weight": a for name, (a, _) in factors.items()}
    ends |= {f"unet.{name}.lora.up.weight": b for name, (_, b) in factors.items()}
    yield "diffusers", ends, dict.fromkeys(factors, 1.0)


def test_kohya_and_older_diffusers_by_their_formula(tiny_system: VideoSystem, tmp_path: Path):
    """W + (α/r)·(up.flatten(1) @ down.flatten(1)), by hand; temporal layers and convolutions are among them."""
    unet = tiny_system.unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    names = layer_names(vocabularies(unet)[DIFFUSERS])
    chosen = [key for key in names if key.startswith(("down_blocks.1.", "transformer_in.transformer"))]
    chosen = [key for key in chosen if before[f"{names[key]}.weight"].ndim > 1]
    layers = {key: before[f"{names[key]}.weight"] for key in chosen}
    assert any(weight.ndim == 5 for weight in layers.values())
    for kind, tensors, alphas in old_and_kohya(layers):
        path = tmp_path / f"{kind}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        mine = merged(unet, path)
        values = {name: foreign.read(unet, path).factors[names[name]] for name in alphas}
        for name, factor in alphas.items():
            a, b = values[name]
            wanted = before[key := f"{names[name]}.weight"] + factor * (b.flatten(1) @ a.flatten(1)).view_as(
                before[key]
            )
            close(mine[key], wanted)
        still = before.keys() - {f"{names[name]}.weight" for name in alphas}
        assert all(torch.equal(mine[key], before[key]) for key in still)


def test_official_names_with_the_prefix_of_a_checkpoint(tiny_system: VideoSystem, tmp_path: Path):
    unet, key = tiny_system.unet, "input_blocks.1.0.temopral_conv.conv1.2"
    ours = layer_names(vocabularies(unet)[OFFICIAL])[key]
    a, b = torch.ones(1, 32, 3, 1, 1), torch.ones(32, 1, 1, 1, 1)
    prefix = f"base_model.model.model.diffusion_model.{key}"
    torch.save({"state_dict": {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}}, tmp_path / "x.ckpt")
    assert foreign.read(unet, tmp_path / "x.ckpt").factors.keys() == {ours}


def test_a_motion_lora_of_animatediff(tmp_path: Path):
    """W += up @ down on the attention of every motion module; ``to_out`` is the first of a list."""
    unet, tensors, wanted = small("animatediff_v2").build_unet().requires_grad_(False), {}, {}
    for name, ours in layer_names(vocabularies(unet)[OFFICIAL]).items():
        if ".attention_blocks." in name:
            stem, _, leaf = name.removesuffix(".0").rpartition(".")
            weight = unet.get_parameter(f"{ours}.weight")
            down, up = torch.randn(2, weight.shape[1]), torch.randn(len(weight), 2)
            key = f"{stem}.processor.{leaf}_lora"
            tensors |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
            wanted[f"{ours}.weight"] = weight + up @ down
    assert "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor." \
        "to_out_lora.up.weight" in tensors  # fmt: skip
    torch.save({"state_dict": tensors, "epoch": 0}, tmp_path / "v2_lora_PanLeft.ckpt")
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    mine = merged(unet, tmp_path / "v2_lora_PanLeft.ckpt")
    for key, value in mine.items():
        close(value, wanted.get(key, before[key]))


# what does not fit ----------------------------------------------------------------------------------------------------


def saved(tmp_path: Path, **tensors: Tensor) -> Path:
    save_file({key.replace("__", "."): value for key, value in tensors.items()}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def test_an_unmatched_layer_is_named_with_the_nearest(tmp_path: Path):
    path = saved(tmp_path, lora_unet_outer_konv__lora_down__weight=torch.ones(1, 3, 3, 3),
                 lora_unet_outer_konv__lora_up__weight=torch.ones(4, 1, 1, 1))  # fmt: skip
    with pytest.raises(
        UserError, match=r"1 of its 1 layers are not here, e\.g\. 'lora_unet_outer_konv' \(nearest here: "
    ):
        LoraPerturbation.restore(frozen_net(), path)
    path = saved(
        tmp_path, text_encoder__q__lora_A__weight=torch.ones(1, 3), text_encoder__q__lora_B__weight=torch.ones(3, 1)
    )
    with pytest.raises(UserError, match=r"Adapters of text encoders are not read"):
        LoraPerturbation.restore(frozen_net(), path)


def test_damaged_files_are_named(tmp_path: Path):
    half = saved(tmp_path, conv__lora_A__weight=torch.ones(1, 3, 1, 1))
    with pytest.raises(UserError, match="lacks the factor B of conv"):
        LoraPerturbation.restore(frozen_net(), half)
    factors = {"conv__lora_down__weight": torch.ones(1, 3, 1, 1), "conv__lora_up__weight": torch.ones(3, 1, 1, 1)}
    for alpha, said in ((torch.tensor(-1.0), "alpha of conv is -1"), (torch.ones(2), "holds 2 numbers")):
        with pytest.raises(UserError, match=said):
            LoraPerturbation.restore(frozen_net(), saved(tmp_path, **factors, conv__alpha=alpha))
    with pytest.raises(UserError, match=r"'conv\.dora_scale', which is no LoRA factor"):
        LoraPerturbation.restore(frozen_net(), saved(tmp_path, **factors, conv__dora_scale=torch.ones(3)))
    with pytest.raises(UserError, match=r"rank 1 of conv, where A is \[1, 3, 1, 1\] and B \[3, 2, 1, 1\]"):
        LoraPerturbation.restore(
            frozen_net(), saved(tmp_path, **factors | {"conv__lora_up__weight": torch.ones(3, 2, 1, 1)})
        )
    with pytest.raises(UserError, match=r"has shape \(1, 3, 3, 1\) at conv, here it is \(1, 3, 1, 1\)"):
        LoraPerturbation.restore(
            frozen_net(), saved(tmp_path, **factors | {"conv__lora_down__weight": torch.ones(1, 3, 3, 1)})
        )
    torch.save({"a": 1}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="no table of tensors"):
        LoraPerturbation.restore(frozen_net(), tmp_path / "x.pt")


# out ------------------------------------------------------------------------------------------------------------------


def test_out_to_diffusers_and_peft_and_back_bit_for_bit(
    tiny_system: VideoSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    unet, folder = tiny_system.unet, str(save_system(tiny_system, tmp_path / "model"))
    lora = LoraPerturbation(rank=3, alpha=7.0)
    lora.attach(unet, tiny_system.partition(), "both", 0)
    randomise(lora)
    lora.save(tmp_path / "ours")
    lora.detach()
    wanted = foreign.read(unet, tmp_path / "ours")

    def convert(source: Path, target: Path, *options: str) -> Path:
        assert main([str(source), str(target), "--spec", folder, *options]) == 0
        return target

    ours = tmp_path / "ours"
    out = {
        convert(ours, tmp_path / "x.safetensors", "--adapter", "--to", "diffusers"),
        convert(ours, tmp_path / "diffusers", "--adapter", "--to", "diffusers"),
        convert(ours, tmp_path / "official", "--to", "peft", "--names", "official"),
        convert(tmp_path / "diffusers", tmp_path / "back", "--to", "peft"),
    }
    assert "diffusers, 245 layers" in capsys.readouterr().out
    for path in out:
        found = foreign.read(unet, path)
        assert (found.alphas, found.rslora) == (wanted.alphas, False)
        assert all(torch.equal(found.tensors[key], value) for key, value in wanted.tensors.items())
    official = json.loads((tmp_path / "official" / "adapter_config.json").read_text())["target_modules"]
    assert r"input_blocks\.1\.0\.in_layers\.2" in official
    assert main([str(ours), str(tmp_path / "x.safetensors"), "--spec", folder, "--adapter", "--to", "diffusers"]) == 2
    assert main([str(ours), str(tmp_path / "y"), "--adapter", "--to", "diffusers"]) == 2
    assert main([str(ours), str(tmp_path / "y"), "--spec", folder, "--names", "official"]) == 2


def test_diffusers_has_our_model_from_what_we_write(pair: tuple[VideoUNet, nn.Module], tmp_path: Path):
    ours, theirs = pair
    lora = LoraPerturbation(rank=2, alpha=3.0)
    lora.attach(ours, Partition.of(ours), "spatial", 0)
    randomise(lora)
    lora.save(tmp_path / "ours")
    mine = plain(lora, ours)
    lora.detach()
    adapter = foreign.their_names(foreign.read(ours, tmp_path / "ours"), ours, DIFFUSERS)
    foreign.write_diffusers(adapter, tmp_path / foreign.DIFFUSERS_FILE)
    theirs.load_lora_adapter(str(tmp_path), prefix="unet", weight_name=foreign.DIFFUSERS_FILE)  # pyright: ignore[reportCallIssue]
    theirs.fuse_lora()  # pyright: ignore[reportCallIssue]
    check_same(mine, theirs, vocabularies(ours)[DIFFUSERS])


def test_a_layer_without_a_name_elsewhere_is_an_error(tiny_system: VideoSystem, tmp_path: Path):
    unet = tiny_system.unet
    lora = LoraPerturbation(rank=1)
    lora.attach(unet, tiny_system.partition(), "conditioning", 0)
    lora.save(tmp_path)
    lora.detach()
    with pytest.raises(UserError, match=r"2 layers of the adapter have no counterpart in diffusers, e\.g\. \['fps"):
        foreign.their_names(foreign.read(unet, tmp_path), unet, DIFFUSERS)
    with pytest.raises(UserError, match="this network has no names in 'official'; it has its own alone"):
        foreign.their_names(foreign.read(Net(), _toy(tmp_path / "toy")), Net(), OFFICIAL)


def _toy(folder: Path) -> Path:
    lora = attached(frozen_net())
    lora.save(folder)
    return folder


@pytest.mark.parametrize("prefix", ["unet", "transformer"])
def test_settings_that_diffusers_writes_of_a_network_and_a_text_encoder(prefix: str, tmp_path: Path):
    layers = ("outer.project", "inner.outer.project")
    factors = {f"{prefix}.{layer}.lora_A.weight": torch.zeros(4, 8) for layer in layers}
    factors |= {f"{prefix}.{layer}.lora_B.weight": torch.zeros(8, 4) for layer in layers}
    written = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "peft_type": "LORA", "target_modules": ["project"]}
    told = {f"{prefix}.{name}": value for name, value in written.items()} | {"text_encoder.r": 2}
    path = tmp_path / "lora.safetensors"
    save_file(factors, path, metadata={"format": "pt", foreign.METADATA: json.dumps(told)})
    assert set(foreign._of_file(path).alphas.values()) == {8.0}
    save_file(factors, path, metadata={"format": "pt", foreign.METADATA: "{r: 4"})
    with pytest.raises(UserError, match="no table of settings in JSON"):
        foreign._of_file(path)
