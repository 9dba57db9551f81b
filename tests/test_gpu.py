"""What only a GPU can show: the same results there as on the CPU, float16 with a scaled loss, resumption.

Skipped where PyTorch sees no CUDA GPU.
"""

import pytest
import torch
from accelerate.state import AcceleratorState
from builders import tiny_bundle, tiny_dalle, tiny_dvae, tiny_tokens, tiny_transformer
from test_loop import DATA, STEPS, run, stage

import minidalle.device as device_room
from minidalle import load, processes
from minidalle.checkpoint import newest
from minidalle.data import generator_of
from minidalle.dvae import exponential
from minidalle.generate import generate
from minidalle.loop import fit
from minidalle.optim import Muon
from minidalle.transformer import FORMS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA GPU")


@pytest.fixture(autouse=True)
def _exact_convolutions():
    """float32 convolutions in float32, not in TF32's 10 bit (products of matrices are so by default)."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def float16(monkeypatch):
    """As on a GPU without bfloat16 (a T4)."""
    for room in (device_room, processes):
        monkeypatch.setattr(room, "choose_precision", lambda device: (torch.float16, "planted"))
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("kind", ["row", "column", "convolution"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_forms_of_attention_agree_with_the_cpu(kind, dtype):
    """Outputs and gradients of two layers, odd sizes; bfloat16 up to its rounding."""
    model = tiny_transformer((kind, kind), h=5, w=3, prefix=7)
    x = torch.randn(3, 7 + 15, 8)
    expected = model(leaf := x.clone().requires_grad_())
    expected.square().sum().backward()
    model.cuda()
    near = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    for form in FORMS:
        model.form = form
        there = x.clone().cuda().requires_grad_()
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            found = model(there)
        found.float().square().sum().backward()
        scale = expected.abs().max(), leaf.grad.abs().max()
        torch.testing.assert_close(found.float().cpu() / scale[0], expected / scale[0], **near)
        torch.testing.assert_close(there.grad.cpu() / scale[1], leaf.grad / scale[1], **near)


def test_the_dvae_is_the_cpus():
    """Tokens, pictures and every part of the ELB under the same noise."""
    dvae, x = tiny_dvae(), torch.rand(4, 3, 8, 8)
    tokens = dvae.encode(x)
    pictures, kl = dvae.decode(tokens), dvae.elb(x, 1.0, 1.0).kl_per_token
    dvae.cuda()
    assert torch.equal(dvae.encode(x.cuda()).cpu(), tokens)
    torch.testing.assert_close(dvae.decode(tokens.cuda()).cpu(), pictures, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(dvae.elb(x.cuda(), 1.0, 1.0).kl_per_token.cpu(), kl)


def test_noise_of_a_row_does_not_depend_on_its_batch():
    """A generator on the GPU for each position: a step divides into processes as on the CPU."""
    device = torch.device("cuda")

    def noise(positions: range) -> torch.Tensor:
        out = torch.empty(len(positions), 11, 2, 2, device=device)
        return exponential(out, [generator_of(0, p, device) for p in positions])

    whole = noise(range(6))
    assert torch.equal(whole, torch.cat([noise(range(2)), noise(range(2, 6))]))
    assert (whole > 0).all() and (whole[0] != whole[1]).any()
    many = exponential(
        torch.empty(2, 10**6, device=device), [generator_of(1, p, device) for p in (0, 1)]
    )
    torch.testing.assert_close(many.mean(1).cpu(), torch.ones(2), rtol=0.01, atol=0)


def test_sampling_is_the_cpus():
    """The same tokens from the same seed: random numbers are drawn on the CPU."""
    model = tiny_dalle()
    text, _ = tiny_tokens(model, B=5)
    drawn = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator().manual_seed(0)
        drawn.append(generate(model.to(device), text.to(device), generator).cpu())
    assert torch.equal(*drawn)


def test_muon_is_the_cpus():
    """Three steps of matrices and kernels, up to the rounding of 16 bit."""
    torch.manual_seed(0)
    here = [torch.nn.Parameter(torch.randn(s)) for s in ((8, 8), (6, 20), (5, 4, 3, 3))]
    there = [torch.nn.Parameter(p.detach().cuda()) for p in here]
    optimizers = Muon(here, lr=0.1), Muon(there, lr=0.1)
    for _ in range(3):
        for a, b in zip(here, there, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.cuda()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=0, atol=2e-2)


def stop_after(steps: int):
    """A rate that asks the run to stop, as Ctrl-C would."""
    import signal

    def rate(step: int) -> float:
        if step == steps:
            signal.raise_signal(signal.SIGINT)
        return 1 - step / STEPS.steps

    return rate


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    """Weights, averages, optimiser and the GPU's generator come back: the end is the same."""
    examine = {"examine": lambda model: {}}
    whole = fit(stage(**examine), run(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fit(stage(**examine, rate=stop_after(9)), run(tmp_path / "run"))
    again = fit(stage(**examine), run(tmp_path / "run"))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    assert next(whole.parameters()).is_cuda


def error(model: torch.nn.Module) -> dict[str, float]:
    """Of the toy on all its data, on the device where it is."""
    x = DATA.to(model.out.weight.device)
    return {"error": (model.eval()(x) - x).square().mean().item()}


@pytest.mark.usefixtures("float16")
def test_float16_learns_with_a_scaled_loss(tmp_path):
    """The error falls, the scale is in the checkpoint and comes back."""
    r = run(tmp_path / "run")
    assert r.accelerator.scaler is not None
    before = error(stage().model)["error"]
    fit(stage(examine=error), r)
    errors = [line["error"] for line in r.log.lines if line["stage"] == "Toy"]
    assert errors[-1] < 0.95 * before and torch.tensor(errors).isfinite().all()
    saved = newest(r.checkpoints, "Toy", print)
    assert saved.facts["scaler"]["scale"] > 1
    fit(stage(examine=error), run(tmp_path / "run"))


def test_a_bundle_draws_there(tmp_path):
    """Saved here, loaded there: on the GPU without being asked, and the same pictures."""
    bundle = tiny_bundle()
    bundle.save(tmp_path / "one")
    here = bundle.draw("a small red circle", n=2, seed=0)
    loaded = load(tmp_path / "one")
    assert loaded.device.type == "cuda"
    there = loaded.draw("a small red circle", n=2, seed=0)
    for a, b in zip(here.pictures, there.pictures, strict=True):
        difference = torch.as_tensor(a).float() - torch.as_tensor(b).float()
        assert difference.abs().mean() < 3  # of 255: weights are stored in 16 bit
