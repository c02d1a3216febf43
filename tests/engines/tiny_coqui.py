"""Very small VITS and XTTS models with random weights, as coqui-tts loads them. What they say is noise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

FRAMES_A_LETTER = 6
HOP, RATE_HZ = 256, 22050
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPEAKERS = ("alice", "bob", "carol")


def tiny_vits(folder: Path, speakers: tuple[str, ...] = SPEAKERS) -> Path:
    """Each letter takes ``FRAMES_A_LETTER`` frames, and the noise is as loud as speech. Returns the checkpoint."""
    import torch
    from TTS.config.shared_configs import BaseAudioConfig
    from TTS.tts.configs.shared_configs import CharactersConfig
    from TTS.tts.configs.vits_config import VitsArgs, VitsConfig
    from TTS.tts.models.vits import Vits
    from TTS.tts.utils.speakers import SpeakerManager

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    multiple = len(speakers) > 1
    args = VitsArgs(
        hidden_channels=32,
        hidden_channels_ffn_text_encoder=64,
        num_heads_text_encoder=2,
        num_layers_text_encoder=1,
        num_layers_flow=1,
        num_layers_posterior_encoder=1,
        upsample_initial_channel_decoder=32,
        resblock_kernel_sizes_decoder=[3],
        resblock_dilation_sizes_decoder=[[1, 3, 5]],
        use_sdp=False,
        use_speaker_embedding=multiple,
        speaker_embedding_channels=16 if multiple else 0,
    )
    config = VitsConfig(
        model_args=args,
        audio=BaseAudioConfig(sample_rate=RATE_HZ, hop_length=HOP, win_length=1024, fft_size=1024, num_mels=80),
        use_phonemes=False,
        text_cleaner="basic_cleaners",
        add_blank=False,
        enable_eos_bos_chars=False,
        use_speaker_embedding=multiple,
        characters=CharactersConfig(
            characters_class="TTS.tts.utils.text.characters.Graphemes",
            pad="_",
            eos="~",
            bos="^",
            blank="",
            characters=LETTERS,
            punctuations="!'(),-.:;? ",
        ),
    )
    if multiple:
        manager = SpeakerManager()
        manager.name_to_id = {name: number for number, name in enumerate(speakers)}
        manager.save_ids_to_file(str(folder / "speakers.json"))
        config.speakers_file = config.model_args.speakers_file = str(folder / "speakers.json")
    model = Vits(config)
    with torch.no_grad():
        predictor = model.duration_predictor.proj
        predictor.weight.zero_()
        predictor.bias.fill_(math.log(FRAMES_A_LETTER - 0.5))
        _louder(model.waveform_decoder, 5.0)
    torch.save({"model": model.state_dict(), "config": config.to_dict()}, folder / "model.pth")
    config.save_json(str(folder / "config.json"))
    return folder / "model.pth"


def tiny_xtts(folder: Path, voices: tuple[str, ...] = ("ada", "ben")) -> Path:
    """Random weights, as many tokens a clause as the model allows. Returns the folder."""
    import torch
    from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
    from TTS.tts.models.xtts import Xtts

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["[STOP]", "[UNK]", "[SPACE]", "[START]", "[en]", *LETTERS, *"'!,.?-0123456789"]
    vocabulary = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "special": True,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for number, token in enumerate(tokens[:5])
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [],
        },
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    args = XttsArgs(
        tokenizer_file=str(folder / "vocab.json"),
        gpt_layers=2,
        gpt_n_model_channels=64,
        gpt_n_heads=2,
        gpt_number_text_tokens=len(tokens),
        gpt_start_text_token=tokens.index("[START]"),
        gpt_stop_text_token=tokens.index("[STOP]"),
        gpt_max_audio_tokens=45,
        decoder_input_dim=64,
        gpt_use_perceiver_resampler=True,
    )
    config = XttsConfig(model_args=args, languages=["en"])
    model = Xtts(config)
    model.init_models()
    with torch.no_grad():
        model.gpt.mel_head.bias[args.gpt_stop_audio_token] = -1e4
        _louder(model.hifigan_decoder.waveform_decoder, 5.0)
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    config.save_json(str(folder / "config.json"))
    latents = {
        name: {
            "gpt_cond_latent": torch.randn(1, 32, 64) * 0.1,
            "speaker_embedding": torch.randn(1, args.d_vector_dim, 1) * 0.1,
        }
        for name in voices
    }
    torch.save(latents, folder / "speakers_xtts.pth")
    return folder


def _louder(decoder: Any, factor: float) -> None:
    """Scale the last layer, so that the noise is about as loud as speech."""
    last = decoder.conv_post
    (last.parametrizations.weight.original0 if hasattr(last, "parametrizations") else last.weight).mul_(factor)
