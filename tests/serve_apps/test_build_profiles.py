"""Every profile that comes with the program makes applications; nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.loader import profiles, resolve
from configs.runtime import StackContext
from serve_apps.build import build_apps
from voice_agent.errors import EngineUnavailableError


def context_of(settings: Any, folder: Path) -> StackContext:
    return StackContext(
        settings=settings,
        run_id="run",
        run_dir=folder,
        data_dir=folder,
        dsn="",
        link_secret="",
        stream_token_secret="",
        api_key="",
        webhook_url="",
        media_url="",
    )


@pytest.mark.parametrize("profile", profiles())
def test_a_profile_makes_applications(profile: str, tmp_path: Path) -> None:
    settings = resolve(profile, env={}).settings
    assert {"stt", "llm", "tts", "retriever", "ingress"} <= set(build_apps(context_of(settings, tmp_path)))


def test_a_gpu_is_shared_by_speech_and_hearing(tmp_path: Path) -> None:
    """The fractions of the profile leave room for two replicas of each on one GPU."""
    settings = resolve("gpu", env={}).settings
    assert settings.stt.num_gpus * settings.stt.replicas + settings.tts.num_gpus * settings.tts.replicas <= 1
    assert settings.llm.num_gpus == settings.retriever.num_gpus == 0


def test_a_model_in_the_cluster_without_vllm_says_what_to_install(tmp_path: Path) -> None:
    try:
        import vllm  # noqa: F401
    except ImportError:
        settings = resolve("gpu", None, ["llm.engine=ray-serve-llm", "llm.options.model=m"], env={}).settings
        with pytest.raises(EngineUnavailableError, match="gpu-llm"):
            build_apps(context_of(settings, tmp_path))
    else:
        pytest.skip("vLLM is installed")
