"""FIFO-Diffusion and FreeNoise: their invariants, refusals, resuming, scripts, and a batch that does not matter."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from perturb.diffusion import Conditioning, DDIMSampler, NoiseSchedule, SamplerStep, draw, sample_generator
from perturb.diffusion.conditioning import by_frame
from perturb.diffusion.fifo import FIFOSampler, FIFOState
from perturb.diffusion.freenoise import FreeNoiseSampler, reschedule
from perturb.diffusion.sampler import Given
from perturb.errors import UserError
from perturb.models.videocrafter.published import get_spec
from perturb.models.videocrafter.system import VideoSystem
from perturb.nn import Windows
from tests.unit.sampler_case import Knowing, conditioning, noises, replayed, told, toy_denoise

SCHEDULE = NoiseSchedule(latent_scale=0.7)
FIFO = FIFOSampler(steps=8, guidance=3.0, eta=1.0, window=4, partitions=2)
SIZE = (4, 7, 2, 2)


def fifo(sampler: FIFOSampler, which: tuple[int, ...] = (0, 1), **told: Tensor) -> Tensor:
    cond, uncond = conditioning(2), conditioning(2, seed=1)
    cond = dataclasses.replace(cond, **told)
    rows = list(which)
    generators = [sample_generator("clip", i) for i in rows]
    x_T = draw(SIZE, generators)
    sampler.check(SCHEDULE)
    return sampler(toy_denoise, x_T, cond.index(rows), uncond.index(rows), generators, SCHEDULE)


def test_equal_timesteps_per_frame_are_one_timestep(tiny_system: VideoSystem):
    cond, _ = told(tiny_system)
    x = noises((4, 4, 4, 4), "x")
    with torch.no_grad():
        base = tiny_system.denoise(x, torch.tensor([500, 20]), cond)
        frames = tiny_system.denoise(x, torch.tensor([[500] * 4, [20] * 4]), cond)
    assert torch.equal(frames, base)


@pytest.mark.parametrize("lookahead", [True, False])
def test_a_clip_does_not_depend_on_its_batch_nor_on_that_of_the_windows(lookahead: bool):
    sampler = dataclasses.replace(FIFO, lookahead=lookahead)
    together = fifo(sampler)
    assert together.shape == (2, *SIZE)
    torch.testing.assert_close(torch.cat([fifo(sampler, (0,)), fifo(sampler, (1,))]), together)
    torch.testing.assert_close(fifo(dataclasses.replace(sampler, windows_per_batch=1)), together)
    torch.testing.assert_close(fifo(dataclasses.replace(sampler, windows_per_batch=3)), together)


def test_windows_bound_the_memory():
    calls = list[int]()

    def counted(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        calls.append(len(x))
        assert t.shape == (len(x), 4)
        return toy_denoise(x, t, cond)

    queue, fresh = noises((4, 10, 2, 2), "q"), noises((4, 2, 2), "z")
    for windows, expected in ((None, [16]), (1, [4] * 4), (3, [12, 4])):
        calls.clear()
        sampler = dataclasses.replace(FIFO, windows_per_batch=windows)
        draws = itertools.repeat(fresh)
        sampler.iterate(queue, replayed(counted, conditioning(2), conditioning(2, seed=1), draws, SCHEDULE))
        assert calls == expected  # 4 windows, 2 samples, 2 sides


def test_too_little_memory_says_what_to_do():
    def full(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        raise torch.OutOfMemoryError

    given = replayed(full, conditioning(1), None, itertools.repeat(noises((4, 2, 2), "z", count=1)), SCHEDULE)
    sampler = dataclasses.replace(FIFO, guidance=1.0)
    with pytest.raises(UserError, match=r"4 windows at a time do not fit .* set sampler\.windows_per_batch=2"):
        sampler.iterate(noises((4, 10, 2, 2), "q", count=1), given)


def test_a_killed_run_goes_on_with_the_same_bytes():
    generators = [sample_generator("clip", i) for i in range(2)]
    given = Given(toy_denoise, conditioning(2), conditioning(2, seed=1), generators, SCHEDULE)
    state = FIFO.start(draw(SIZE, generators), given)
    run = FIFO.stream(state, given)
    before = list(itertools.islice(run, 6))
    saved = {name: tensor.clone() for name, tensor in state.tensors().items()}
    rest = list(run)
    again = FIFOState.restore(saved)
    resumed = list(FIFO.stream(again, given))
    assert [number for number, _ in before + rest] == list(range(-4, 7))
    assert [number for number, _ in resumed] == [number for number, _ in rest]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(resumed, rest, strict=True))
    whole = fifo(FIFO)
    assert torch.equal(torch.stack([frame for number, frame in before + resumed if number >= 0], dim=2), whole)


@pytest.mark.parametrize("changes", [{}, {"lookahead": False}, {"windows_per_batch": 3}, {"guidance": 1.0}])
def test_the_work_is_what_is_done(changes: dict[str, object]):
    sampler, calls = dataclasses.replace(FIFO, **changes), list[int]()

    def counted(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        calls.append(len(x) * x.shape[2])
        return toy_denoise(x, t, cond)

    generators = [sample_generator(0)]
    sampler(counted, draw(SIZE, generators), conditioning(1), conditioning(1, seed=1), generators, SCHEDULE)
    work = sampler.work(7)
    assert work.forwards == pytest.approx(sum(calls) / 7)
    assert work.at_once == pytest.approx(max(calls) / 7)


def test_every_step_is_told_once():
    steps, generators = list[SamplerStep](), [sample_generator(0)]
    x_T, cond = draw(SIZE, generators), conditioning(1)
    dataclasses.replace(FIFO, guidance=1.0)(toy_denoise, x_T, cond, None, generators, SCHEDULE, steps.append)
    total = 8 + 7 + 8 - 4  # the base run, then N + S − f iterations
    assert [(step.number, step.total) for step in steps] == [(i, total) for i in range(1, total + 1)]


@pytest.mark.parametrize("lookahead", [True, False])
def test_the_corrected_scale_keeps_the_queue_where_the_network_was_trained(lookahead: bool):
    """With the exact denoiser of one still picture every frame stays q_sample of it, one timestep earlier each time."""
    still = noises((4, 1, 2, 2), "still", count=1)
    errors = {}
    for scale in ("published", "corrected"):
        sampler = dataclasses.replace(FIFO, guidance=1.0, eta=0.0, lookahead=lookahead, latent_scale=scale)
        noise = noises((4, len(sampler.positions()), 2, 2), "z", count=1)
        draws = itertools.chain(noise.unbind(2), itertools.repeat(torch.zeros(1, 4, 2, 2)))
        given = replayed(Knowing(still, SCHEDULE), conditioning(1), None, draws, SCHEDULE)
        again = sampler.iterate(sampler.prepare(still.expand(-1, -1, 4, -1, -1), given), given)
        earlier = [0, *sampler.table(SCHEDULE).timesteps.tolist()[:-1]]
        first = sampler.leaves_at
        for position, t in enumerate(earlier, start=first):
            trained = SCHEDULE.q_sample(still, torch.tensor([t]), noise[:, :, position : position + 1])
            errors.setdefault(scale, []).append((again[:, :, position : position + 1] - trained).abs().max().item())
    assert max(errors["corrected"]) < 1e-4
    assert max(errors["published"]) > 0.1


def test_the_whole_queue_reads_the_text_of_the_frame_that_leaves():
    seen = list[Tensor]()

    def reading(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        if t.ndim == 2:
            assert (cond.text == cond.text[:1]).all()
            seen.append(cond.text[0, 0, 0])
        return toy_denoise(x, t, cond)

    script = torch.arange(7.0).reshape(1, 7, 1, 1).expand(1, 7, 5, 4)
    cond = Conditioning(script, torch.tensor([8]))
    generators = [sample_generator(0)]
    dataclasses.replace(FIFO, guidance=1.0)(reading, draw(SIZE, generators), cond, None, generators, SCHEDULE)
    assert seen == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6]  # S − f = 4 frames before the clip begins
    same = conditioning(2).text[:, None].expand(-1, 7, -1, -1)
    assert torch.equal(fifo(FIFO, text=same), fifo(FIFO))


def test_what_fifo_refuses():
    resolved = FIFOSampler().resolved(get_spec("t2v_512_v2").sampling)
    assert (resolved.window, resolved.steps) == (16, 64)
    for changes, message in (
        ({"window": 5, "steps": 10}, "window is 5; allowed with lookahead: an even number"),
        ({"latent_scale": "none"}, "latent_scale is 'none'; allowed: published, corrected"),
        ({"steps": 9}, "steps is 9; allowed: null"),
        ({"window": None}, "leaves settings open"),
        ({"partitions": 0}, "partitions is 0; allowed: a whole number from 1"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(FIFO, **changes).check(SCHEDULE)
    with pytest.raises(UserError, match=r"at least sampler\.window = 4 frames; 3 are asked for"):
        FIFO(toy_denoise, torch.zeros(1, 4, 3, 2, 2), conditioning(1), None, [sample_generator(0)], SCHEDULE)


def freenoise(system: VideoSystem, sampler: DDIMSampler, frames: int, text: Tensor | None = None) -> Tensor:
    cond, uncond = told(system)
    cond = cond if text is None else dataclasses.replace(cond, text=text)
    generators = [sample_generator("clip", i) for i in range(2)]
    x_T = draw((4, frames, 4, 4), generators)
    return sampler(system.denoise, x_T, cond, uncond, generators, system.schedule)


def test_as_many_frames_as_the_window_are_plain_ddim(tiny_system: VideoSystem):
    plain = freenoise(tiny_system, DDIMSampler(steps=2, guidance=3.0, eta=0.0), 4)
    windowed = FreeNoiseSampler(steps=2, guidance=3.0, eta=0.0, window=4, stride=2)
    torch.testing.assert_close(freenoise(tiny_system, windowed, 4), plain, rtol=1e-3, atol=1e-4)
    longer = freenoise(tiny_system, windowed, 8)
    assert longer.shape[2] == 8
    unwindowed = freenoise(tiny_system, dataclasses.replace(windowed, window=8), 8)
    assert (longer - unwindowed).abs().max() > 1e-2


@pytest.mark.parametrize(("frames", "nearest"), [(3, "4 or 6"), (7, "6 or 8"), (9, "8 or 10")])
def test_frames_that_no_window_holds_are_refused(frames: int, nearest: str, tiny_system: VideoSystem):
    sampler = FreeNoiseSampler(steps=2, guidance=1.0, eta=0.0, window=4, stride=2)
    with pytest.raises(UserError, match=f"{frames} frames do not fit windows of 4 every 2; .* such as {nearest}$"):
        freenoise(tiny_system, sampler, frames)
    x, cond = noises((4, frames, 4, 4), "x"), dataclasses.replace(told(tiny_system)[0], windows=Windows(4, 2))
    with pytest.raises(UserError, match="do not fit windows"):  # nor does the network itself take them
        tiny_system.denoise(x, torch.tensor([1, 1]), cond)


def test_every_window_holds_each_noise_once():
    frames = torch.arange(12.0).reshape(1, 12, 1, 1)
    orders = torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]])
    again = reschedule(frames, orders, Windows(4, 2))
    # blocks at 4, 6, 8 and 10 take frames (1 0), (2 3), then of those (0 1) swapped back, (2 3)
    assert again.flatten().tolist() == [0, 1, 2, 3, 1, 0, 2, 3, 0, 1, 2, 3]
    for start in range(0, 9, 2):
        assert sorted(again.flatten()[start : start + 4].tolist()) == [0, 1, 2, 3]
    assert frames.flatten().tolist() == list(range(12))


def test_eta_left_open_is_zero():
    defaults = get_spec("t2v_512_v2").sampling
    assert FreeNoiseSampler().resolved(defaults) == FreeNoiseSampler(50, 12.0, eta=0.0, window=16, stride=4)
    assert FreeNoiseSampler(eta=1.0).resolved(defaults).eta == 1.0
    with pytest.raises(UserError, match="windows of 4 frames every 5"):
        FreeNoiseSampler(steps=5, guidance=1.0, eta=0.0, window=4, stride=5).check(SCHEDULE)


def test_a_fused_constant_stays_and_weights_rise_and_fall():
    assert Windows(5, 1).weights().tolist() == [1, 2, 3, 2, 1]
    assert Windows(4, 1).weights().tolist() == [1, 2, 2, 1]
    x = torch.ones(1, 1, 8, 2)
    torch.testing.assert_close(Windows(4, 2).attend(lambda q, k, v: v, x, x, 3 * x), 3 * x)
    # frame 2 lies in windows 0 (as its third frame, weight 2) and 1 (as its first, weight 1)
    first = iter([1.0, 4.0, 0.0])
    fused = Windows(4, 2).attend(lambda q, k, v: v * next(first), x, x, x)
    assert float(fused[0, 0, 2, 0]) == pytest.approx((2 * 1 + 1 * 4) / 3)


def test_two_texts_and_the_injection_of_the_last(tiny_system: VideoSystem):
    texts = torch.tensor([0.0, 1.0, 5.0]).reshape(3, 1, 1).expand(3, 2, 3)
    published = by_frame(texts[:2], (0, 8), 16, blend=4)[:, 0, 0]
    assert published.tolist() == pytest.approx([0] * 6 + [0, 1 / 3, 2 / 3, 1] + [1] * 6)
    assert by_frame(texts, (0, 2, 5), 7)[:, 0, 0].tolist() == [0, 0, 1, 1, 1, 5, 5]
    assert by_frame(texts, (0, 2, 5), 7, blend=3)[:, 0, 0].tolist() == [0, 0, 0.5, 1, 1, 3, 5]
    sampler = FreeNoiseSampler(steps=20, guidance=3.0, eta=0.0, window=4, stride=2)
    injected = list[bool]()

    def watching(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        injected.append(cond.injected is not None)
        if cond.injected is not None:
            assert torch.equal(cond.injected[0], cond.text[0, -1])  # the conditional side reads the last text
            assert torch.equal(cond.injected[2], cond.text[2, 0])  # the other one its own
        return toy_denoise(x, t, cond)

    cond, uncond = told(tiny_system)
    text = torch.stack([by_frame(torch.stack(pair), (0, 2), 4) for pair in zip(cond.text, uncond.text, strict=True)])
    generators = [sample_generator(i) for i in range(2)]
    x_T = draw((4, 4, 2, 2), generators)
    sampler(watching, x_T, dataclasses.replace(cond, text=text), uncond, generators, SCHEDULE)
    assert [i for i, yes in enumerate(injected) if not yes] == list(range(5, 16))
    still = cond.text[:, None].expand(-1, 4, -1, -1)  # the same text in every frame is that text
    short = dataclasses.replace(sampler, steps=2)
    plain = freenoise(tiny_system, short, 4)
    torch.testing.assert_close(freenoise(tiny_system, short, 4, text=still), plain, rtol=1e-3, atol=1e-4)
