"""A very small Whisper with random weights, in the form faster-whisper loads. It recognises nothing.

``learn`` overfits it to a few sentences, so that the whole way from audio to text can be tested without a hub.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAMES_PER_S = 100
_MELS = 80
_TEXT_TOKENS = 50257
_LANGUAGES = 99


class TinyWhisper:
    """The model in transformers' form; ``save`` converts it.

    ``window_s`` is 30 in a real Whisper; ``words`` get a token each.
    """

    def __init__(self, window_s: int = 30, seed: int = 0, words: Sequence[str] = ()) -> None:
        import torch
        from transformers import WhisperConfig, WhisperForConditionalGeneration
        from transformers.utils import logging

        logging.set_verbosity_error()
        torch.manual_seed(seed)
        self.window_s = window_s
        self.tokens, self._tokenizer = _tokenizer(words)
        self.eot = self.tokens["<|endoftext|>"]
        self.no_speech = self.tokens["<|nospeech|>"]
        self.start = [self.tokens[f"<|{name}|>"] for name in ("startoftranscript", "en", "transcribe", "notimestamps")]
        self.model: Any = WhisperForConditionalGeneration(
            WhisperConfig(
                vocab_size=len(self.tokens),
                num_mel_bins=_MELS,
                d_model=64,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=128,
                decoder_ffn_dim=128,
                max_source_positions=window_s * FRAMES_PER_S // 2,
                max_target_positions=448,
                dropout=0.0,
                decoder_start_token_id=self.start[0],
                eos_token_id=self.eot,
                bos_token_id=self.eot,
                pad_token_id=self.eot,
            )
        )

    def learn(self, examples: Sequence[tuple[NDArray[np.float32], str]], steps: int = 600) -> float:
        """Overfit to (features of a whole window, text) pairs; the loss at the end.

        Without a text: no speech, and any of the words as the text, as a Whisper makes one up.
        """
        import torch

        texts = [self._tokenizer.encode(f" {text}").ids if text else [] for _, text in examples]
        used = sorted({self.eot, self.no_speech, *self.start, *(token for ids in texts for token in ids)})
        words = sorted({token for ids in texts for token in ids})
        empty = [number for number, ids in enumerate(texts) if not ids]
        sequences = [[*self.start, *(ids or words[:1]), self.eot] for ids in texts]
        longest = max(map(len, sequences))
        inputs = torch.tensor([[*ids[:-1], *[self.eot] * (longest - len(ids))] for ids in sequences])
        place = {token: number for number, token in enumerate(used)}
        first = [self.start[1] if ids else self.no_speech for ids in texts]
        prompt = len(self.start) - 1
        labels = torch.full((len(texts), longest - 1), -100)
        for number, ids in enumerate(sequences):
            labels[number, 0] = place[first[number]]
            labels[number, prompt : len(ids) - 1] = torch.tensor([place[token] for token in ids[prompt + 1 :]])
        labels[empty, prompt] = -100
        made_up = torch.tensor([place[token] for token in words])
        # All tokens that no text needs get one common row, which is learnt once and counts for all of them.
        unused = [token for token in range(len(self.tokens)) if token not in place]
        rows = torch.tensor([*used, unused[0]])
        crowd = torch.tensor([0.0] * len(used) + [math.log(len(unused))])
        features = torch.from_numpy(np.stack([features for features, _ in examples]))
        embedding = self.model.model.decoder.embed_tokens.weight
        optimiser = torch.optim.Adam(self.model.parameters(), lr=2e-3)
        mean = 1.0
        # Threads of a busy machine wait for each other: with two, a step takes seven times as long as with one.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.model.train()
        for _ in range(steps):
            noisy = features + 0.02 * torch.randn(features.shape)
            hidden = self.model.model(input_features=noisy, decoder_input_ids=inputs).last_hidden_state
            logits = hidden @ embedding[rows].T + crowd
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
            vague = -logits[empty, prompt].log_softmax(-1)[:, made_up].mean() if empty else 0.0
            optimiser.zero_grad()
            (loss + 0.1 * vague).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimiser.step()
            mean = 0.9 * mean + 0.1 * float(loss.item())
            if mean < 0.02:
                break
        with torch.no_grad():
            embedding[torch.tensor(unused)] = embedding[unused[0]].clone()
        self.model.eval()
        torch.set_num_threads(threads)
        return mean

    def save(self, folder: Path) -> Path:
        """Write the model for CTranslate2 to ``folder / "ct2"``."""
        from ctranslate2.converters import TransformersConverter
        from transformers import WhisperFeatureExtractor

        source = folder / "transformers"
        self.model.generation_config.alignment_heads = [[1, 0], [1, 1]]
        self.model.generation_config.suppress_tokens = [self.tokens["<|startoftranscript|>"]]
        self.model.generation_config.begin_suppress_tokens = [self.eot]
        self.model.save_pretrained(source)
        WhisperFeatureExtractor(_MELS, chunk_length=self.window_s).save_pretrained(source)
        self._tokenizer.save(str(source / "tokenizer.json"))
        (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "WhisperTokenizerFast"}))
        converter = TransformersConverter(str(source), copy_files=["tokenizer.json", "preprocessor_config.json"])
        target = Path(converter.convert(str(folder / "ct2"), force=True))
        config = json.loads((target / "config.json").read_text())
        # transformers 5 does not keep them where the converter looks.
        config["lang_ids"] = list(range(self.start[1], self.start[1] + _LANGUAGES))
        (target / "config.json").write_text(json.dumps(config))
        return target


def _tokenizer(words: Sequence[str]) -> tuple[dict[str, int], Any]:
    """Bytes, a token for each word, as many others as make Whisper's number, then its special tokens in its order."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(len(word)):
            merge = (f"Ġ{word[:end]}", word[end])
            if merge not in merges:
                merges.append(merge)
                pieces.append("".join(merge))
    # CTranslate2 knows a multilingual Whisper by its empty token.
    names = [*pieces, *(f"Ġw{number}" for number in range(_TEXT_TOKENS - len(pieces) - 1)), ""]
    tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    special = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in list(LANGUAGES)[:_LANGUAGES]),
        *(f"<|{name}|>" for name in tasks),
        *(f"<|{step * 0.02:.2f}|>" for step in range(1501)),
    ]
    vocabulary = {name: number for number, name in enumerate([*names, *special])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return vocabulary, tokenizer
