"""The official dVAE: the same numbers in our architecture, converted once, used as published."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from official import FORMATS, Decoder, Encoder, pretend, save_new
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from minidalle.bundle import load
from minidalle.bundle_files import find, load_dvae
from minidalle.dvae import DVAE, DVAEConfig, map_pixels
from minidalle.openai_dvae import (
    convert,
    crop,
    official_names,
    open_picture,
    read_official,
    reconstruct,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Couldn't retrieve source code"),  # of the stand-ins
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),
]


@pytest.fixture(autouse=True)
def _dall_e(monkeypatch, tmp_path):
    pretend(monkeypatch)
    monkeypatch.chdir(tmp_path)


def publish(encoder=None, decoder=None, save=save_new) -> tuple[nn.Module, nn.Module]:
    """Write encoder.pkl and decoder.pkl; returns the modules as they were."""
    halves = encoder or Encoder(), decoder or Decoder()
    for name, half in zip(("encoder.pkl", "decoder.pkl"), halves, strict=True):
        save(half, Path(name))
    return halves


def read() -> DVAE:
    return read_official("encoder.pkl", "decoder.pkl")


# -------------------------------------------------------------------------------------- same numbers


@pytest.mark.parametrize(
    "sizes", [{}, {"n_hid": 4, "vocab_size": 9, "n_blk_per_group": 1}], ids=str
)
def test_logits_and_pixels_are_those_of_the_official_modules(sizes):
    """Bit for bit on the CPU: the stand-ins' own forward pass and ours."""
    encoder, decoder = publish(Encoder(**sizes), Decoder(**sizes))
    model = read()
    x = torch.rand(1, 3, 8, 8).repeat_interleave(32, 2).repeat_interleave(32, 3)
    with torch.no_grad():
        expected = encoder(map_pixels(x))
        assert torch.equal(model.logits(x), expected)
        z = F.one_hot(expected.argmax(1), encoder.vocab_size).movedim(-1, 1).float()
        assert torch.equal(model.decoder(z), decoder(z))
        assert len(expected.argmax(1).unique()) > 1, "the test has something to compare"


@pytest.mark.parametrize("format", FORMATS)
def test_every_form_of_file_gives_the_same_model(format):
    """Names, shapes and values are in no form's hands."""
    torch.manual_seed(3)
    halves = Encoder(), Decoder()
    expected = [parameter.clone() for half in halves for parameter in half.parameters()]
    publish(*halves, FORMATS[format])
    found = sorted(p.sum().item() for p in read().parameters())
    assert found == sorted(p.sum().item() for p in expected)


def test_every_tensor_of_the_published_size_has_its_place():
    """Encoder and decoder as published, on the meta device: all official names and shapes are those of
    `DVAEConfig()` under another name, none left on either side."""
    with torch.device("meta"):
        model = DVAE(DVAEConfig())
        halves = {"encoder": Encoder(256, 8192), "decoder": Decoder(256, 8192, n_init=128)}
    for half, module in halves.items():
        ours = {name: tuple(t.shape) for name, t in getattr(model, half).state_dict().items()}
        for name, tensor in module.state_dict().items():
            layer, kind = name.rsplit(".", 1)
            name = official_names(DVAEConfig(), half)[layer] + {"w": ".weight", "b": ".bias"}[kind]
            assert ours.pop(name) == tuple(tensor.shape)
        assert not ours


def test_published_names_are_spelled_as_published():
    """A few, by hand."""
    names = official_names(DVAEConfig(), "encoder")
    assert names["blocks.input"] == "layers.1"
    assert names["blocks.group_2.block_1.id_path"] == "layers.5.id_path"
    assert names["blocks.group_4.block_2.res_path.conv_4"] == "layers.12.res_path.7"
    assert names["blocks.output.conv"] == "layers.14"
    assert official_names(DVAEConfig(), "decoder")["blocks.output.conv"] == "layers.13"


# ------------------------------------------------------------------------------------ files that err


def damage(half: str, change) -> None:
    """Publish both halves, one of them changed."""
    halves = {"encoder": Encoder(), "decoder": Decoder()}
    change(halves[half])
    publish(*halves.values())


def remove(layer: nn.Module, name: str) -> None:
    """Take a parameter away."""
    del layer._parameters[name]


def replace(layer: nn.Module, name: str, *shape: int) -> None:
    """Give a parameter another shape."""
    setattr(layer, name, nn.Parameter(torch.ones(shape)))


CONV = "blocks.group_1.block_1.res_path.conv_1"
DAMAGE = {
    "missing": (
        "encoder",
        lambda m: remove(m.get_submodule(CONV), "w"),
        rf"encoder\.pkl.*'{CONV}\.w'",
    ),
    "no input": (
        "encoder",
        lambda m: remove(m.blocks.input, "w"),
        r"encoder\.pkl.*'blocks\.input\.w'",
    ),
    "nor here": (
        "decoder",
        lambda m: remove(m.blocks.input, "w"),
        r"decoder\.pkl.*'blocks\.input\.w'",
    ),
    "extra": (
        "decoder",
        lambda m: replace(m.blocks, "codebook", 2),
        r"decoder\.pkl: tensor 'blocks\.codebook' has no place",
    ),
    "shape": (
        "decoder",
        lambda m: replace(m.get_submodule(CONV), "b", 3),
        rf"decoder\.pkl: tensor '{CONV}\.b' has shape \(3,\), not \(16,\)",
    ),
    "flat input": (
        "encoder",
        lambda m: replace(m.blocks.input, "w", 3),
        r"encoder\.pkl.*'blocks\.input\.w'",
    ),
    "even kernel": (
        "encoder",
        lambda m: replace(m.blocks.input, "w", 8, 3, 6, 6),
        r"encoder\.pkl.*odd",
    ),
    "no width": (
        "encoder",
        lambda m: replace(m.blocks.input, "w", 0, 3, 7, 7),
        r"encoder\.pkl.*width",
    ),
    "scalar": (
        "encoder",
        lambda m: replace(m.blocks.output.conv, "w"),
        r"encoder\.pkl.*'blocks\.output",
    ),
    "no blocks": ("encoder", lambda m: m.blocks._modules.pop("group_1"), r"encoder\.pkl.*blocks"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_tensor_that_does_not_fit_is_named_with_its_file(name):
    """Missing, too many, of another shape."""
    half, change, words = DAMAGE[name]
    damage(half, change)
    with pytest.raises(ValueError, match=words):
        read()


def test_halves_of_two_models_are_noticed():
    """Another number of codes, or the two files swapped."""
    publish(Encoder(), Decoder(vocab_size=17))
    with pytest.raises(ValueError, match=r"decoder.pkl: .*blocks.input.w.*17.*not .*16"):
        read()
    with pytest.raises(ValueError, match="holds a dall_e.decoder.Decoder, not a dall_e.encoder"):
        read_official("decoder.pkl", "encoder.pkl")


# --------------------------------------------------------------------------------------- conversion


def test_converting_keeps_every_value():
    """safetensors in 32 bit with config.json, fingerprints and a card; loaded, the same tokens."""
    encoder, decoder = publish()
    folder = convert("encoder.pkl", "decoder.pkl", "dvae")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "dvae.safetensors",
    ]
    assert {t.dtype for t in load_file(folder / "dvae.safetensors").values()} == {torch.float32}
    model = load_dvae(folder, "cpu")
    expected = read().state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
    count = sum(p.numel() for half in (encoder, decoder) for p in half.parameters())
    assert sum(p.numel() for p in model.parameters()) == count
    assert not model.training and model.config.size == 256


def test_the_card_states_the_licence_of_the_original():
    """In front matter that the hub reads."""
    publish()
    card = (convert("encoder.pkl", "decoder.pkl", "dvae") / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "other" and front["license_name"] == "modified-mit"
    assert front["library_name"] == "minidalle" and "pipeline_tag" not in front


def test_converting_never_overwrites_and_leaves_nothing_behind():
    """A folder with a model is refused; refused files make no folder."""
    publish()
    convert("encoder.pkl", "decoder.pkl", "dvae")
    with pytest.raises(FileExistsError, match="already holds"):
        convert("encoder.pkl", "decoder.pkl", "dvae")
    Path("decoder.pkl").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(ValueError, match=r"decoder.pkl is refused.*os\.system"):
        convert("encoder.pkl", "decoder.pkl", "other")
    assert not Path("other").exists()


def test_a_dvae_alone_is_no_model_to_draw_with():
    """`load` says which file is missing; a changed dVAE is noticed as in a bundle."""
    publish()
    folder = convert("encoder.pkl", "decoder.pkl", "dvae")
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    config["dvae"]["size"] = 128
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json has fingerprint"):
        load_dvae(folder)


def test_the_dvae_of_a_whole_bundle_loads_alone_too():
    """The bundled one."""
    one, two = load_dvae("tiny", "cpu"), load("tiny", "cpu").dvae
    assert one.config == two.config
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert find("tiny").name == "tiny"


# ------------------------------------------------------------------------------- the official usage


def photograph(width: int, height: int, name: str = "photo.png", mode: str = "RGB") -> Path:
    """A picture of smooth colours and edges."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 255 // width, y * 255 // height, (x // 40 + y // 40) % 2 * 200], -1)
    Image.fromarray(rgb.astype(np.uint8)).convert(mode).save(name)
    return Path(name)


@pytest.mark.parametrize("size", [(256, 256), (512, 384), (300, 777), (257, 1000), (1000, 256)])
def test_a_photograph_is_scaled_and_its_middle_cut_out(size):
    """Like the official preprocessing: shorter side to 256, Lanczos, centre crop with rounded corner."""
    path = photograph(*size)
    picture = open_picture(path)
    image = Image.open(path)
    ratio = 256 / min(size)
    width, height = round(ratio * size[0]), round(ratio * size[1])
    whole = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    top, left = int(round((height - 256) / 2.0)), int(round((width - 256) / 2.0))
    assert picture.shape == (256, 256, 3) and picture.dtype == np.uint8
    assert (picture == whole[top : top + 256, left : left + 256]).all()


def test_reconstruction_is_the_official_usage():
    """crop → pixel map → encoder → argmax → one-hot → decoder → sigmoid of μ → inverse map: written out
    with the stand-ins."""
    encoder, decoder = publish()
    picture = open_picture(photograph(400, 300))
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        z = torch.argmax(encoder(0.8 * x + 0.1), dim=1)
        z = F.one_hot(z, num_classes=16).permute(0, 3, 1, 2).float()
        mu = decoder(z)[:, :3]
        expected = torch.clamp((torch.sigmoid(mu) - 0.1) / 0.8, 0, 1)
    found = reconstruct(read(), [picture, picture])
    assert found.shape == (2, 256, 256, 3) and (found[0] == found[1]).all()
    expected = (expected[0].permute(1, 2, 0) * 255).numpy()
    assert (
        np.abs(found[0] - expected).max() <= 0.5 + 1e-3
    )  # rounded, where the official usage cuts off


def test_any_picture_is_taken_as_a_person_sees_it():
    """Grey, palette, alpha, CMYK; turned as its EXIF says."""
    for mode, suffix in (("L", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg")):
        assert open_picture(photograph(260, 300, f"p.{suffix}", mode)).shape == (256, 256, 3)
    image = Image.open(photograph(300, 256))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save("turned.png", exif=exif)
    assert (open_picture("turned.png") == crop(image.rotate(-90, expand=True), 256)).all()


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=str)
def test_what_is_no_picture_is_named(content):
    """Also one that is cut off, and one that is too small."""
    whole = photograph(300, 300).read_bytes()
    Path("bad.png").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=r"bad\.png is no picture"):
        open_picture("bad.png")
    with pytest.raises(ValueError, match=r"small\.png has only 255 pixels.*256"):
        open_picture(photograph(255, 600, "small.png"))
    with pytest.raises(FileNotFoundError):
        open_picture("nowhere.png")


def test_a_picture_that_would_fill_the_memory_is_refused(monkeypatch):
    """Pillow's limit is an error here, not a traceback."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"photo\.png is no picture.*exceeds limit"):
        open_picture(photograph(300, 300))
