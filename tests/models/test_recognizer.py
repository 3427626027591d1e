import hashlib
import pickle
import urllib.error
from pathlib import Path

import pytest
import torch
from torchvision.models import get_model_weights

from video_module.config import ClipConfig
from video_module.errors import InputError
from video_module.models import recognizer
from video_module.models.recognizer import Recognizer, build_model
from video_module.models.registry import MODELS

NANO = "swin3d_nano"


def clips(seed: int = 0, dtype=torch.uint8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 8, 64, 64, 3), generator=generator, dtype=torch.uint8).to(dtype)


def test_normalises_inside():
    model = build_model(NANO, num_classes=4).eval()
    x = clips()
    clip = model.clip
    normalised = (x.float() / 255 - torch.tensor(clip.mean)) / torch.tensor(clip.std)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), model.backbone(normalised.permute(0, 4, 1, 2, 3)), rtol=0, atol=1e-5)
        torch.testing.assert_close(model(x), model(clips(dtype=torch.float32)))


def test_the_seed_decides_the_start():
    weights = [build_model(NANO, num_classes=4, seed=seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_state_dict_holds_nothing_but_the_backbone():
    model = build_model(NANO, num_classes=4)
    assert all(key.startswith("backbone.") for key in model.state_dict())


def test_weights_from_a_file(tmp_path, capsys):
    donor = build_model(NANO, num_classes=4, seed=3)
    torch.save(donor.backbone.state_dict(), tmp_path / "plain.pth")
    same = build_model(NANO, num_classes=4, weights=str(tmp_path / "plain.pth"))
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), donor.parameters(), strict=True))
    assert capsys.readouterr().out == ""
    other = build_model(NANO, num_classes=9, weights=str(tmp_path / "plain.pth"))
    assert "new last layer for 9 classes" in capsys.readouterr().out
    assert torch.equal(other.backbone.patch_embed.proj.weight, donor.backbone.patch_embed.proj.weight)


def test_a_last_layer_of_as_many_other_classes_starts_anew(tmp_path, capsys):
    donor = build_model(NANO, num_classes=2, seed=3)
    torch.save({"weights": donor.backbone.state_dict(), "class_names": ["run", "sit"]}, tmp_path / "x.pth")

    def load(*class_names: str):
        return build_model(NANO, num_classes=2, class_names=class_names, weights=str(tmp_path / "x.pth"))

    assert torch.equal(load("run", "sit").head.weight, donor.head.weight)
    assert capsys.readouterr().out == ""
    other = load("jump", "sit")
    assert "new last layer for 2 classes" in capsys.readouterr().out
    assert torch.equal(other.head.weight, build_model(NANO, num_classes=2).head.weight)
    assert torch.equal(other.backbone.patch_embed.proj.weight, donor.backbone.patch_embed.proj.weight)


def test_the_inputs_of_every_networks_last_layer_can_be_dropped():
    for name, spec in MODELS.items():
        with torch.device("meta"):
            model = Recognizer(spec.build(num_classes=2), name=name, clip=spec.clip)
            calls = []
            model.head.register_forward_pre_hook(lambda *_, name=name, calls=calls: calls.append(name))
            model.backbone(torch.zeros(1, 3, *spec.clip.shape[:3]))
        assert calls == [name], name


def test_weights_that_do_not_fit_name_the_tensor(tmp_path):
    state = build_model(NANO, num_classes=4).backbone.state_dict()
    del state["norm.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"does not fit swin3d_nano: 1 of 70 tensors .*: missing norm\.weight$"):
        build_model(NANO, num_classes=4, weights=str(tmp_path / "short.pth"))


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_pickle_with_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Payload()}, "evil.pth")
    with pytest.raises(InputError, match="contains code, which is never run"):
        recognizer.load_torch_file(Path("evil.pth"))
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1, 2], protocol=2)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pth: "):
        recognizer.load_torch_file(tmp_path / "x.pth")


@pytest.fixture
def torch_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_published_weights_come_from_torchs_cache(torch_cache, monkeypatch, capsys):
    """A file with torchvision's name is used without a download if its content matches the hash in the name."""
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("asked the network"))
    donor = build_model("swin3d_t", num_classes=400, seed=1)
    file = torch_cache / get_model_weights("swin3d_t")["KINETICS400_V1"].url.rpartition("/")[2]
    torch_cache.mkdir()
    torch.save(donor.backbone.state_dict(), file)
    for weights in ("KINETICS400_V1", str(file)):
        with pytest.raises(InputError, match=r"swin3d_t-7615ae03\.pth: differs from .* with 7615ae03, this file"):
            build_model("swin3d_t", num_classes=51, weights=weights)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(recognizer, "_published_hash", {file.name: digest[:8]}.get)
    model = build_model("swin3d_t", num_classes=51, weights="KINETICS400_V1")
    assert torch.equal(model.backbone.norm.weight, donor.backbone.norm.weight)
    block = "features.4.3.attn.qkv.weight"
    assert torch.equal(model.backbone.state_dict()[block], donor.backbone.state_dict()[block])
    assert model.head.weight.shape == (51, 768)


def test_names_of_published_files_tell_their_hash():
    hashes = [recognizer._published_hash(name) for name in ("swin3d_t-7615ae03.pth", "run-20240101.pth", "X3D_S.pyth")]
    assert hashes == ["7615ae03", None, None]


def test_offline_it_says_which_file_to_put_where_and_what_else_would_do(torch_cache, monkeypatch):
    def no_network(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(InputError) as error:
        build_model("swin3d_b", num_classes=51, weights="KINETICS400_IMAGENET22K_V1")
    url = get_model_weights("swin3d_b")["KINETICS400_IMAGENET22K_V1"].url
    assert f"download {url} elsewhere, and save it as {torch_cache / url.rpartition('/')[2]}" in str(error.value)
    assert all(flag in str(error.value) for flag in ("--weights none", "--model_type swin3d_nano", "--probe"))
    with pytest.raises(InputError) as error:  # as in an export, where other weights are no alternative
        build_model("swin3d_b", num_classes=400, weights="KINETICS400_V1", keeps_head=True)
    assert "--probe" not in str(error.value)


def test_unknown_weights_list_the_known():
    with pytest.raises(InputError, match="KINETICS400_IMAGENET22K_V1, KINETICS400_V1, none"):
        build_model("swin3d_b", num_classes=2, weights="KINETICS600")


def test_kinetics_class_names():
    names = recognizer.published_class_names("swin3d_t", "KINETICS400_V1")
    assert len(names) == 400
    assert "abseiling" in names


def test_another_input_contract_can_be_given():
    clip = ClipConfig(num_frames=4, frame_stride=1, resize=36, crop=32)
    model = build_model(NANO, num_classes=3, clip=clip).eval()
    assert model(torch.zeros(1, *clip.shape, dtype=torch.uint8)).shape == (1, 3)
