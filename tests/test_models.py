"""Checkpoints that score pictures: the processors' own pixels, transformers' own numbers, and no random weights."""

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image
from fixtures import checkpoints
from fixtures.make import picture
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionModelWithProjection,
    SiglipImageProcessorPil,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hfds.errors import BadRow, ConfigError, HfdsError
from hfds.model import Model
from hfds.pixels import Encoded
from hfds.run import Run
from processors.models import Scorer
from processors.models.aesthetic import load_predictor
from processors.models.classifier import load_classifier
from processors.models.clip import load_clip
from processors.models.preprocessing import Preprocessing
from processors.quality import ScoreNsfw

torch.set_num_threads(1)

SIDES = [(224, 224), (225, 224), (333, 517), (517, 333), (64, 900), (1001, 50), (31, 33), (1, 1), (1, 60), (7, 301)]
PROCESSORS: list[tuple[type, dict[str, Any]]] = [
    (ViTImageProcessorPil, {}),
    (ViTImageProcessorPil, {"size": 32, "resample": 3, "image_mean": [0.1, 0.2, 0.3]}),
    (ViTImageProcessorPil, {"size": {"height": 40, "width": 33}, "do_rescale": False, "do_normalize": False}),
    (CLIPImageProcessorPil, {}),
    (CLIPImageProcessorPil, {"size": 37, "crop_size": 37, "rescale_factor": 1 / 127.5}),
    (CLIPImageProcessorPil, {"size": {"shortest_edge": 40}, "crop_size": {"height": 51, "width": 44}}),
    (CLIPImageProcessorPil, {"size": {"height": 48, "width": 36}, "do_center_crop": False}),
    (SiglipImageProcessorPil, {}),
    (SiglipImageProcessorPil, {"size": {"height": 384, "width": 384}, "resample": 2}),
]


def model(folder: Path, dtype: str = "float32") -> Model:
    return Model(str(folder), dtype=dtype)


def preprocessing(folder: Path, **said: Any) -> Preprocessing:
    """That of a folder with nothing but these two files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return Preprocessing.of(model(folder))


def smooth(width: int, height: int, seed: int = 0, **options: Any) -> bytes:
    """A JPEG that looks more like a photo than noise does."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 11, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC).save(buffer, "JPEG", **options)
    return buffer.getvalue()


# --- preprocessing


@pytest.mark.parametrize("kind, said", PROCESSORS)
def test_pixels_are_those_of_the_processor(tmp_path: Path, kind: Any, said: dict[str, Any]) -> None:
    kind(**said).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/preprocessor_config.json").read_text())
    ours = preprocessing(tmp_path / "full", **saved)
    assert ours == preprocessing(tmp_path / "short", **said, image_processor_type=saved["image_processor_type"])

    pictures = [picture("PNG", *sides, seed=n) for n, sides in enumerate(SIDES)]
    shown = [ours.shown(Encoded.of(data), exact=True) for data in pictures]
    theirs = kind(**said)([PIL.Image.open(io.BytesIO(data)) for data in pictures], return_tensors="pt")["pixel_values"]

    assert {one.shape for one in shown} == {(*ours.shape, 3)}
    assert {one.dtype for one in shown} == {np.dtype(np.uint8)}
    torch.testing.assert_close(ours.tensor(shown, "cpu", torch.float32), theirs.float(), atol=2e-6, rtol=1e-6)


def test_all_forms_of_the_file_say_the_same(tmp_path: Path) -> None:
    new = preprocessing(tmp_path, image_processor_type="CLIPImageProcessor", size={"shortest_edge": 9}, crop_size=9)
    assert preprocessing(tmp_path, feature_extractor_type="CLIPFeatureExtractor", size=9, crop_size=9) == new
    assert preprocessing(tmp_path, image_processor_type="CLIPImageProcessorFast", size=9, crop_size=9) == new
    unsaid = {"resample": None, "do_center_crop": None}
    assert preprocessing(tmp_path, image_processor_type="CLIPImageProcessor", size=9, crop_size=9, **unsaid) == new

    (tmp_path / "preprocessor_config.json").unlink()
    part = {"image_processor_type": "CLIPImageProcessor", "size": 9, "crop_size": 9}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": part}))
    assert Preprocessing.of(model(tmp_path)) == new


@pytest.mark.parametrize(
    "said, problem",
    [
        ({}, "by None, which is none of ViTImageProcessor, CLIPImageProcessor, SiglipImageProcessor"),
        ({"image_processor_type": "Qwen2VLImageProcessor"}, "by Qwen2VLImageProcessor, which is none of ViT"),
        ({"do_resize": False}, "cannot be followed: it leaves pictures at different sizes"),
        ({"size": {"shortest_edge": 9}}, "it leaves pictures at different sizes"),
        ({"size": {"longest_edge": 9}}, "must be height and width or shortest_edge, got {'longest_edge': 9}"),
        ({"size": "large"}, "must be height and width or shortest_edge, got large"),
        ({"resample": 17}, "17 is not a valid Resampling"),
        ({"image_mean": [0.5]}, "must have three values each, got"),
    ],
)
def test_what_cannot_be_followed_is_named(tmp_path: Path, said: dict[str, Any], problem: str) -> None:
    kind = {} if said.keys() <= {"image_processor_type"} else {"image_processor_type": "ViTImageProcessor"}
    with pytest.raises(ConfigError) as refused:
        preprocessing(tmp_path, **kind, **said)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"does not say how pictures .* it has no preprocessor_config.json"):
        Preprocessing.of(model(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"preprocessor_config.json cannot be read as JSON"):
        Preprocessing.of(model(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"must hold a JSON object, got list"):
        Preprocessing.of(model(tmp_path))


@pytest.mark.parametrize("sides", [(1333, 1000), (1000, 667), (701, 1003), (640, 480)])
@pytest.mark.parametrize("said", [{"size": 64, "crop_size": 64}, {"size": 100, "crop_size": 90}])
def test_fast_decoding_changes_little(tmp_path: Path, said: dict[str, Any], sides: tuple[int, int]) -> None:
    ours = preprocessing(tmp_path, image_processor_type="CLIPImageProcessor", **said)
    data = smooth(*sides)
    fast, exact = (ours.shown(Encoded.of(data), exact).astype(int) for exact in (False, True))
    difference = np.abs(fast - exact)
    assert difference.max() > 0, "it is decoded at a part of its size"
    assert difference.mean() < 2


def test_a_strip_is_not_blown_up(tmp_path: Path) -> None:
    ours = preprocessing(tmp_path, image_processor_type="CLIPImageProcessor")
    for sides in ((60_000, 1), (1, 60_000)):
        assert ours.shown(Encoded.of(picture("PNG", *sides)), exact=True).shape == (224, 224, 3)


def test_pictures_are_upright(tmp_path: Path) -> None:
    ours = preprocessing(tmp_path, image_processor_type="ViTImageProcessor", size=8)
    lying = PIL.Image.Exif()
    lying[0x0112] = 6
    data = smooth(64, 48)
    turned, stored = (ours.shown(Encoded.of(d), True).astype(int) for d in (smooth(64, 48, exif=lying), data))
    assert np.abs(turned - np.rot90(stored, -1)).mean() < 3


def test_a_broken_picture_has_a_reason(tmp_path: Path) -> None:
    ours = preprocessing(tmp_path, image_processor_type="CLIPImageProcessor")
    for data, reason in ((b"", "empty_image"), (b"no picture", "not_an_image"), (smooth(64, 48)[:500], "truncated")):
        with pytest.raises(BadRow) as refused:
            ours.shown(Encoded.of(data), exact=True)
        assert refused.value.reason.startswith(reason)


# --- scores


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for make in (checkpoints.nsfw, checkpoints.watermark, checkpoints.aesthetic, checkpoints.clip):
        make(folder / make.__name__)
    return folder


LOADERS: dict[str, Callable[[Model, str], Scorer]] = {
    "nsfw": lambda checkpoint, device: load_classifier(checkpoint, device, "nsfw"),
    "watermark": lambda checkpoint, device: load_classifier(checkpoint, device, "Watermark"),
    "aesthetic": load_predictor,
    "clip": load_clip,
}
VISION = {"image_size": 32, "patch_size": 8, "projection_dim": 16}
DATA = [picture("PNG", 40 + n, 90 - n, seed=n) for n in range(16)]
TEXTS = [f"picture number {n} " * (n + 1) for n in range(16)]


def items(name: str, folders: Path) -> list[Any]:
    ours = Preprocessing.of(model(folders / name))
    shown = [ours.shown(Encoded.of(data), exact=True) for data in DATA]
    return [*zip(shown, TEXTS, strict=True)] if name == "clip" else shown


def pixels(folder: Path, kind: Any) -> torch.Tensor:
    """As transformers prepares them."""
    made = kind.from_pretrained(folder)([PIL.Image.open(io.BytesIO(data)) for data in DATA], return_tensors="pt")
    found: torch.Tensor = made["pixel_values"]
    return found


def test_a_probability_is_that_of_transformers(folders: Path) -> None:
    for name, index in (("nsfw", 1), ("watermark", 1)):
        network = ViTForImageClassification.from_pretrained(folders / name)
        with torch.inference_mode():
            theirs = network(pixels(folders / name, ViTImageProcessorPil)).logits.softmax(-1)[:, index].numpy()
        ours = LOADERS[name](model(folders / name), "cpu").scores(items(name, folders))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert ours.dtype == np.float32
        assert len({*ours.tolist()}) == len(DATA), "each picture has its own"


def test_a_similarity_is_that_of_transformers(folders: Path) -> None:
    network = CLIPModel.from_pretrained(folders / "clip")
    tokenizer = AutoTokenizer.from_pretrained(folders / "clip")
    tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.inference_mode():
        theirs = network(pixel_values=pixels(folders / "clip", CLIPImageProcessorPil), **tokens)
        theirs = (theirs.logits_per_image / network.logit_scale.exp()).diag().numpy()
    ours = load_clip(model(folders / "clip"), "cpu").scores(items("clip", folders))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours.dtype == np.float32
    assert np.abs(ours).max() <= 1


def test_an_aesthetic_score_is_that_of_its_layers(folders: Path) -> None:
    weights = load_file(folders / "aesthetic/model.safetensors")
    vision = CLIPVisionModelWithProjection.from_pretrained(
        folders / "aesthetic", config=CLIPVisionModelWithProjection.config_class(**checkpoints.TINY, **VISION)
    )
    with torch.inference_mode():
        embedded = vision(pixels(folders / "aesthetic", CLIPImageProcessorPil)).image_embeds
        embedded /= embedded.norm(dim=-1, keepdim=True)
        for place in (0, 2, 4, 6, 7):
            embedded = embedded @ weights[f"layers.{place}.weight"].T + weights[f"layers.{place}.bias"]
    ours = load_predictor(model(folders / "aesthetic"), "cpu").scores(items("aesthetic", folders))
    np.testing.assert_allclose(ours, embedded[:, 0].numpy(), atol=1e-5)
    assert ours.dtype == np.float32


@pytest.mark.parametrize("name", LOADERS)
def test_a_score_does_not_depend_on_place_or_neighbours(folders: Path, name: str) -> None:
    scorer, shown = LOADERS[name](model(folders / name), "cpu"), items(name, folders)
    first = scorer.scores(shown)
    for turn in (1, 5, 15):
        assert np.roll(first, turn).tobytes() == scorer.scores(shown[-turn:] + shown[:-turn]).tobytes()
    alone = scorer.scores([shown[3]] * 16)
    assert {score.tobytes() for score in alone} == {first[3].tobytes()}
    padded = scorer.scores(shown[:5] + [shown[4]] * 11)
    assert padded[:5].tobytes() == first[:5].tobytes()


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(folders: Path, name: str, dtype: str) -> None:
    shown = items(name, folders)
    full = LOADERS[name](model(folders / name), "cpu").scores(shown)
    half = LOADERS[name](model(folders / name, dtype), "cpu").scores(shown)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("dtype, near", [("float32", 5e-3), ("bfloat16", 0.05)])
def test_on_a_gpu_it_is_the_same(folders: Path, name: str, dtype: str, near: float) -> None:
    shown = items(name, folders)
    full = LOADERS[name](model(folders / name), "cpu").scores(shown)
    scorer = LOADERS[name](model(folders / name, dtype), "cuda:0")
    there = scorer.scores(shown)
    np.testing.assert_allclose(there, full, atol=near)
    assert np.roll(there, 1).tobytes() == scorer.scores(shown[-1:] + shown[:-1]).tobytes()


# --- what is refused


def refusal(load: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as refused:
        load()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "name, holds, problem",
    [
        ("nsfw", "text_model", "must hold a classifier of pictures (ForImageClassification), got BertModel"),
        ("nsfw", "clip", "must hold a classifier of pictures (ForImageClassification), got CLIPModel"),
        ("clip", "nsfw", "must hold both halves of CLIP (CLIPModel), got ViTForImageClassification"),
        ("clip", "aesthetic", "must hold both halves of CLIP (CLIPModel), got AestheticsPredictorV2Linear"),
        ("aesthetic", "clip", "with aesthetic layers (AestheticsPredictorV2Linear), got CLIPModel"),
        ("aesthetic", "text_model", "with aesthetic layers (AestheticsPredictorV2Linear), got BertModel"),
    ],
)
def test_another_checkpoint_is_refused(tmp_path: Path, name: str, holds: str, problem: str) -> None:
    folder = getattr(checkpoints, holds)(tmp_path / "given")
    assert problem in refusal(lambda: LOADERS[name](model(folder), "cpu"))


def test_a_label_that_is_not_there(folders: Path) -> None:
    given = model(folders / "nsfw")
    assert "knows no label 'nswf': did you mean 'nsfw'?" in refusal(lambda: load_classifier(given, "cpu", "nswf"))
    assert "no label 'cat': it is one of: normal, nsfw" in refusal(lambda: load_classifier(given, "cpu", "cat"))


def test_weights_are_never_made_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = {
        "1 of its weights are missing or of another shape than its config.json says, such as 'vit.layernorm.weight'": (
            "nsfw",
            checkpoints.without(checkpoints.nsfw(tmp_path / "a"), "vit.layernorm.weight"),
        ),
        "such as 'visual_projection.weight'": (
            "clip",
            checkpoints.without(checkpoints.clip(tmp_path / "b"), "visual_projection.weight"),
        ),
        "2 of its weights are missing": (
            "aesthetic",
            checkpoints.without(checkpoints.aesthetic(tmp_path / "c"), "layers.6.weight", "layers.7.bias"),
        ),
        "such as 'vit.embeddings.position_embeddings'": (
            "nsfw",
            checkpoints.config_of(checkpoints.nsfw(tmp_path / "d"), image_size=64),
        ),
    }
    for problem, (name, folder) in cases.items():
        assert problem in refusal(lambda name=name, folder=folder: LOADERS[name](model(folder), "cpu"))
    assert capfd.readouterr() == ("", "")


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    folder = checkpoints.nsfw(tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded: " in refusal(lambda: LOADERS["nsfw"](model(folder), "cpu"))
    (folder / "model.safetensors").unlink()
    assert "Error no file named model.safetensors" in refusal(lambda: LOADERS["nsfw"](model(folder), "cpu"))
    (folder / "pytorch_model.bin").write_bytes(b"no weights")
    assert "cannot be loaded: " in refusal(lambda: LOADERS["nsfw"](model(folder), "cpu"))


def test_a_tokenizer_is_never_made_up(tmp_path: Path) -> None:
    folder = checkpoints.clip(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    assert "the tokenizer of" in refusal(lambda: load_clip(model(folder), "cpu"))
    (folder / "tokenizer.json").unlink()
    assert "it has no tokenizer.json or vocab.json" in refusal(lambda: load_clip(model(folder), "cpu"))


def test_pictures_of_another_size_than_the_model_sees(tmp_path: Path) -> None:
    for name in ("nsfw", "aesthetic", "clip"):
        folder = getattr(checkpoints, name)(tmp_path / name)
        checkpoints.config_of(folder, "preprocessor_config.json", size={"height": 48, "width": 48}, crop_size=48)
        problem = refusal(lambda name=name, folder=folder: LOADERS[name](model(folder), "cpu"))
        assert "its config.json wants pictures of 32x32, and its preprocessing makes them 48x48" in problem


def test_loading_says_nothing(folders: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, load in LOADERS.items():
            load(model(folders / name), "cpu").scores(items(name, folders))
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_is_known_by_what_is_in_its_folder_now(tmp_path: Path) -> None:
    model = Model(str(checkpoints.nsfw(tmp_path / "one")))
    before = model.identity
    checkpoints.nsfw(tmp_path / "elsewhere/two")
    assert Model(str(tmp_path / "elsewhere/two")).identity == before, "wherever it lies"
    checkpoints.config_of(tmp_path / "one", temperature=2)
    assert model.identity != before
    assert Model(model.repo, dtype="bfloat16").identity != model.identity


def test_a_package_with_the_files_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.nsfw(tmp_path / "one")
    (tmp_path / "nsfw_in_a_package.py").write_text(f"def get_model_path():\n    return {str(folder)!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    commit = "0" * 40
    model = Model("somebody/nsfw", commit, package="nsfw-in-a-package")
    assert model.folder() == folder, "which the Hub is not asked for"
    assert model.identity == Model("somebody/nsfw", commit).identity == f"somebody/nsfw@{commit} float32"


def test_a_checkpoint_that_changes_while_it_is_loaded(tmp_path: Path) -> None:
    folder = checkpoints.nsfw(tmp_path / "one")

    class Slow(ScoreNsfw):
        def load(self, device: str) -> Any:
            loaded = super().load(device)
            checkpoints.config_of(folder, temperature=2)
            return loaded

    rows = Dataset.from_dict({"image": [{"bytes": picture(), "path": None}]}, Features({"image": Image()}))
    with pytest.raises(HfdsError, match="the checkpoint of Slow was changed while it was loaded; run again"):
        Slow(Model(str(folder)))(rows, Run.here(tmp_path / "work"))


def test_what_is_no_model() -> None:
    assert ScoreNsfw(Model(None)).problems() == [  # type: ignore[arg-type]
        "ScoreNsfw: a model is a repository or folder and a revision, got None and None"
    ]
    commit = "0" * 40
    assert ScoreNsfw(Model("a/b", commit), label="NSFW").key() == ScoreNsfw(Model("a/b", commit), label="nsfw").key()
