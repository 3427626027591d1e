import pytest
import torch
from torchvision.models.video.swin_transformer import PatchEmbed3d, ShiftedWindowAttention3d, SwinTransformer3d

from video_module.models import swin3d
from video_module.models.registry import get_spec
from video_module.models.swin3d import WindowAttention3d


# "fused" is the code path for CUDA, here with torch's CPU attention
@pytest.mark.parametrize("way", ["explicit", "fused", "exported"])
@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [
        ((8, 14, 14), [8, 7, 7], [0, 0, 0]),  # even, not shifted
        ((8, 14, 14), [8, 7, 7], [4, 3, 3]),  # the window spans the time axis, so there is no shift along it
        ((16, 14, 14), [8, 7, 7], [4, 3, 3]),  # even
        ((5, 9, 10), [2, 4, 4], [1, 2, 2]),  # padded on all axes
        ((3, 4, 9), [8, 4, 4], [4, 2, 2]),  # larger window than input
    ],
)
def test_attention_equals_torchvisions(size, window, shift, way, monkeypatch):
    monkeypatch.setattr(WindowAttention3d, "is_fused", lambda self, x: way == "fused")
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: way == "exported")
    torch.manual_seed(0)
    theirs, ours = (attention(16, window, shift, 4) for attention in (ShiftedWindowAttention3d, WindowAttention3d))
    torch.nn.init.normal_(theirs.relative_position_bias_table)  # large enough to show
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, *size, 16, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    expected, result = theirs(x), ours(y)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (result * weight).sum().backward()
    torch.testing.assert_close(y.grad, x.grad, rtol=0, atol=1e-4)
    for (name, a), b in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-5, atol=1e-4, msg=name)


@pytest.mark.parametrize(("window", "shift"), [([8, 7, 7], [0, 0, 0]), ([8, 7, 7], [4, 3, 3]), ([4, 7, 7], [2, 3, 3])])
def test_mask_of_the_fused_attention_has_rows_that_its_kernels_take(window, shift, monkeypatch):
    """Rows must be contiguous and start at multiples of 16 bytes. 4 x 7 x 7 tokens are not a multiple of 8."""
    monkeypatch.setattr(WindowAttention3d, "is_fused", lambda self, x: True)
    masks, attend = [], torch.nn.functional.scaled_dot_product_attention

    def noted(*args, attn_mask, **settings):
        masks.append(attn_mask)
        return attend(*args, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    WindowAttention3d(16, window, shift, 4).half()(torch.randn(2, 8, 14, 14, 16).half())
    [mask] = masks
    assert mask.stride(-1) == 1 and mask.stride(-2) % 8 == 0 and mask.stride(-3) % 8 == 0


def test_on_a_cpu_one_kernel_attends_where_no_gradient_is_wanted(monkeypatch):
    calls, attend = [], torch.nn.functional.scaled_dot_product_attention

    def noted(*args, **settings):
        calls.append(args)
        return attend(*args, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    module, x = WindowAttention3d(16, [4, 4, 4], [2, 2, 2], 4).eval(), torch.randn(2, 8, 8, 8, 16)
    explicit = module(x)
    assert not calls
    with torch.inference_mode():
        fused = module(x)
    assert len(calls) == 1
    torch.testing.assert_close(fused, explicit, rtol=0, atol=1e-6)
    with torch.no_grad():
        torch.export.export(module, (x,), strict=False)
    assert len(calls) == 1


@pytest.mark.parametrize("fused", [False, True])
def test_the_mask_gives_the_very_bits_that_torchvisions_gives(fused, monkeypatch):
    monkeypatch.setattr(WindowAttention3d, "is_fused", lambda self, x: fused)
    torch.manual_seed(0)
    module, x = WindowAttention3d(16, [4, 4, 4], [2, 2, 2], 4), torch.randn(2, 8, 8, 8, 16)
    mask = swin3d._shift_mask(swin3d._regions(((8, 8, 8), (4, 4, 4), (2, 2, 2)), x.device, False))
    assert mask.softmax(dim=-1).unique().numel() == 5  # 0 and 1 / (64, 32, 16 or 8 tokens), without subnormal numbers
    with torch.no_grad():
        expected = module(x)
        monkeypatch.setattr(swin3d, "_shift_mask", lambda regions: mask.clamp(min=-100.0))
        assert torch.equal(module(x), expected)


@pytest.mark.parametrize("layout", [((16, 14, 14), (8, 7, 7), (4, 3, 3)), ((8, 8, 8), (8, 4, 4), (0, 2, 2))])
def test_channels_mask_exactly(layout):
    """It adds exactly 0 within a region, and -10,000 between regions."""
    numbers = swin3d._region_numbers(*layout)
    q, k = torch.randn(2, 2, len(numbers), 3, numbers.shape[1], 16).unbind()
    masked_q, masked_k = swin3d._mask_by_channels(q, k, numbers, scale=0.25)
    assert masked_q.shape[-1] == masked_k.shape[-1] == 16 + (8 if layout[2][0] else 4)
    added = masked_q[..., 16:] @ masked_k[..., 16:].mT * 0.25
    together = torch.from_numpy(numbers[:, :, None] == numbers[:, None, :])[None, :, None]
    assert torch.equal(added, torch.where(together, 0.0, -1e4).expand_as(added))


@pytest.mark.parametrize("name", ["swin3d_t", "swin3d_s", "swin3d_b"])
def test_parameters_are_torchvisions(name):
    import torchvision.models.video as zoo

    with torch.device("meta"):
        theirs = getattr(zoo, name)(num_classes=400).state_dict()
        ours = getattr(swin3d, name)(num_classes=400, clip=get_spec(name).clip, drop_path=0.3).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_whole_network_equals_torchvisions():
    settings = {
        "patch_size": [2, 4, 4],
        "embed_dim": 24,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": [4, 4, 4],
    }
    theirs = SwinTransformer3d(**settings, num_classes=5, patch_embed=PatchEmbed3d).eval()
    ours = swin3d._build(**settings, num_classes=5, drop_path=0.1).eval()
    ours.load_state_dict(theirs.state_dict())
    attentions = [module for module in ours.modules() if isinstance(module, ShiftedWindowAttention3d)]
    assert [type(module) for module in attentions] == [WindowAttention3d] * 4
    video = torch.randn(2, 3, 10, 44, 36)  # sizes that need padding on every axis
    with torch.inference_mode():
        torch.testing.assert_close(ours(video), theirs(video), rtol=0, atol=1e-6)


def test_nano_begins_with_filters_that_see_only_what_moves():
    torch.manual_seed(0)
    patches = get_spec("swin3d_nano").build(num_classes=6).patch_embed.proj
    still = torch.randn(1, 3, 1, 64, 64).repeat(1, 1, 8, 1, 1)
    moving = still + 0.1 * torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        seen = [(patches(clip) - patches.bias[:, None, None, None]).std(dim=(0, 2, 3, 4)) for clip in (still, moving)]
    half = len(patches.bias) // 2
    assert seen[0][:half].max() < 1e-4
    assert seen[1][:half].min() > 0.2  # as large as the other filters' output, from a tenth of the change
    assert seen[0][half:].min() > 0.2


def test_nano_is_torchvisions_network():
    net = get_spec("swin3d_nano").build(num_classes=6)
    assert isinstance(net, SwinTransformer3d)
    assert 0.3e6 < sum(parameter.numel() for parameter in net.parameters()) < 0.4e6
    assert any(any(module.shift_size) for module in net.modules() if isinstance(module, WindowAttention3d))
