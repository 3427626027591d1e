import pytest
import torch

from video_module.engine.mixing import Mixer

CPU = torch.device("cpu")


def batch_of(num_clips: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips and labels in which clip n has the value 10 * n everywhere and the class n."""
    values = 10 * torch.arange(num_clips, dtype=torch.uint8)
    return values[:, None, None, None, None].expand(num_clips, 2, 8, 6, 3), torch.arange(num_clips)


def mix(mixer: Mixer, batch, *, begin: int = 0, end: int | None = None, seed: int = 0):
    return mixer(*batch, begin=begin, end=end or len(batch[1]), seed=seed, device=CPU)


def test_mixup_blends_clips_as_it_blends_labels():
    clips, targets = mix(Mixer(num_classes=5, mixup=0.8, cutmix=0), batch_of(5))
    assert clips.shape == (5, 2, 8, 6, 3)
    for row in range(5):
        own, other = targets[row, row].item(), targets[row, row - 1].item()
        assert own + other == pytest.approx(1)
        assert torch.allclose(clips[row], torch.tensor(10.0 * (own * row + other * ((row - 1) % 5))), atol=1e-4)


def test_cutmix_labels_by_the_area_that_is_left():
    mixer = Mixer(num_classes=5, mixup=0, cutmix=1.0)
    shares = set()
    for seed in range(20):
        clips, targets = mix(mixer, batch_of(5), seed=seed)
        assert clips.dtype == torch.uint8
        for row in range(5):
            kept = (clips[row] == 10 * row).float().mean().item()
            assert targets[row, row].item() == pytest.approx(kept, abs=1e-5)
            assert ((clips[row] == 10 * row) | (clips[row] == 10 * ((row - 1) % 5))).all()
            assert torch.equal(clips[row][0], clips[row][1])  # one box for all frames
        shares.add(round(kept, 4))
    assert len(shares) > 5


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_in_parts_is_mixed_as_a_whole_one(seed):
    mixer, batch = Mixer(num_classes=7, mixup=0.8, cutmix=1.0), batch_of(7)
    whole = mix(mixer, batch, seed=seed)
    parts = [mix(mixer, batch, begin=begin, end=min(begin + 3, 7), seed=seed) for begin in (0, 3, 6)]
    for number in (0, 1):
        assert torch.equal(torch.cat([part[number] for part in parts]), whole[number])


@pytest.mark.parametrize("seed", range(6))
def test_clips_have_one_layout_and_the_batch_stays_as_it_is(seed):
    clips, labels = batch_of(4)
    clips = clips.contiguous()
    for begin, end in ((0, 4), (0, 2), (2, 4)):
        mixed, _ = mix(Mixer(num_classes=4, mixup=0.8, cutmix=1.0), (clips, labels), begin=begin, end=end, seed=seed)
        assert mixed.is_contiguous()
    assert torch.equal(clips, batch_of(4)[0])


def test_both_ways_come_and_the_seed_alone_decides():
    mixer, batch = Mixer(num_classes=4, mixup=0.8, cutmix=1.0), batch_of(4)
    dtypes = []
    for seed in range(20):
        torch.manual_seed(99 - seed)
        dtypes.append(mix(mixer, batch, seed=seed)[0].dtype)
    assert set(dtypes) == {torch.uint8, torch.float32}
    assert dtypes == [mix(mixer, batch, seed=seed)[0].dtype for seed in range(20)]
