"""The kernels on a GPU if there is one, else in Triton's interpreter, which supports fp16 but not bf16."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from video_module.models import swin3d, window_attention
from video_module.models.swin3d import WindowAttention3d

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def explicit(qkv: Tensor, table: Tensor, index: Tensor, regions: Tensor | None) -> Tensor:
    q, k, v = qkv.float().permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + table[index].permute(2, 0, 1)
    if regions is not None:
        numbers = regions[:, 0].repeat(len(qkv) // len(regions), 1)
        scores = scores.where((numbers[:, :, None] == numbers[:, None, :])[:, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)


def drawn(windows: int, tokens: int, channels: int, layout: tuple | None) -> tuple:
    torch.manual_seed(0)
    heads, positions = 2, 300
    return (
        torch.randn(windows, tokens, 3, heads, channels, device=DEVICE, dtype=torch.float16).requires_grad_(),
        torch.randn(positions, heads, device=DEVICE).requires_grad_(),
        torch.randint(positions, (tokens, tokens), device=DEVICE),
        None if layout is None else torch.from_numpy(swin3d._region_spans(*layout)).to(DEVICE),
    )


def difference(a: Tensor, b: Tensor) -> float:
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


@pytest.mark.parametrize(
    ("windows", "tokens", "channels", "layout"),
    [
        (3, 64, 16, None),
        (2, 100, 32, None),  # the last block is not full
        (16, 64, 16, ((8, 8, 8), (4, 4, 4), (2, 2, 2))),  # two samples of 8 windows
        (2, 196, 32, ((8, 7, 7), (4, 7, 7), (2, 0, 0))),  # whole blocks belong to other regions
    ],
)
def test_kernels_equal_the_explicit_form(windows, tokens, channels, layout):
    inputs = drawn(windows, tokens, channels, layout)
    expected, result = explicit(*inputs), window_attention.window_attention(*inputs)
    assert result.dtype == torch.float16
    assert difference(result, expected) < 2e-3
    weight = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, inputs[:2], weight)
    ours = torch.autograd.grad(result, inputs[:2], weight.half())
    assert all(difference(a, b) < 2e-3 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("message", ["Failed to find C compiler.\nPlease set CC", ""])
def test_without_a_c_compiler_torchs_attention_takes_over(message, monkeypatch, capsys):
    class Runtime:
        @property
        def driver(self):
            raise RuntimeError(message)

    monkeypatch.setattr(window_attention, "triton", SimpleNamespace(runtime=Runtime()))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    qkv = SimpleNamespace(shape=(2, 64, 3, 2, 32), is_cuda=True, dtype=torch.bfloat16, device="cuda")
    assert window_attention.is_supported(qkv)
    window_attention.check_compiler()
    assert not window_attention.is_supported(qkv)
    reason = message.partition("\n")[0] or "RuntimeError"
    assert f"note: Triton does not work ({reason})" in capsys.readouterr().out


def test_frozen_biases_have_no_gradient():
    qkv, table, *rest = drawn(2, 64, 16, None)
    result = window_attention.window_attention(qkv, table.detach(), *rest)
    assert torch.autograd.grad(result.sum(), [qkv, table], allow_unused=True)[1] is None


def test_kernels_are_an_operator_that_torch_can_trace():
    for layout in (None, ((8, 8, 8), (4, 4, 4), (2, 2, 2))):
        torch.library.opcheck(window_attention._forward, drawn(8, 64, 16, layout), rtol=1e-2, atol=1e-2)


def test_module_with_the_kernels_equals_the_module_without(monkeypatch):
    torch.manual_seed(0)
    module = WindowAttention3d(32, [4, 4, 4], [2, 2, 2], 2)
    torch.nn.init.normal_(module.relative_position_bias_table)
    module.to(DEVICE)
    x = torch.randn(2, 8, 8, 8, 32, device=DEVICE)
    with torch.autocast(DEVICE, torch.float16):
        monkeypatch.setattr(WindowAttention3d, "is_fused", lambda self, x: False)
        expected = module(x)
        monkeypatch.setattr(WindowAttention3d, "is_fused", lambda self, x: True)
        monkeypatch.setattr(window_attention, "is_supported", lambda qkv: True)
        assert difference(module(x), expected) < 2e-3


def test_where_there_is_no_card_the_kernels_are_not_used():
    assert not window_attention.is_supported(torch.zeros(1, 64, 3, 2, 16, dtype=torch.float16))
