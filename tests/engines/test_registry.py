"""Engines by name."""

import contextlib
import importlib.metadata
import logging

import pytest

from engines import registry
from engines.simulated import SimulatedSpeechToText
from voice_agent.errors import ConfigError, EngineUnavailableError


class Fake:
    def __init__(self, *, colour: str = "red") -> None:
        self.colour = colour


class Broken:
    def __init__(self) -> None:
        raise EngineUnavailableError("no library")


def test_load_passes_options() -> None:
    engine = registry.load("stt", "simulated", {"texts": ["one"]})
    assert isinstance(engine, SimulatedSpeechToText)
    assert engine.texts == ("one",)


def test_unknown_engine_lists_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"no stt engine 'whisperer'; allowed: .*pocketsphinx.*simulated"):
        registry.load("stt", "whisperer")


def test_unknown_port_lists_ports() -> None:
    with pytest.raises(ConfigError, match="stt, llm, tts, vad, turn, embed"):
        registry.names("video")


def test_unknown_option_lists_options() -> None:
    with pytest.raises(ConfigError, match=r"no option colour; allowed: .*final_ms"):
        registry.load("stt", "simulated", {"colour": "red"})


def test_auto_is_a_name_of_tts_only() -> None:
    assert "auto" in registry.names("tts")
    assert "auto" not in registry.names("stt")


def test_third_party_engine_comes_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("stt.fake", f"{__name__}:Fake", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point])
    assert "fake" in registry.names("stt")
    assert "fake" not in registry.names("tts")
    assert registry.load("stt", "fake", {"colour": "blue"}).colour == "blue"


@pytest.mark.parametrize("port", registry.ports())
def test_every_builtin_engine_resolves(port: str) -> None:
    for name in sorted(set(registry.names(port)) - {"auto"}):
        with contextlib.suppress(EngineUnavailableError):  # its library is not installed here
            assert callable(registry._factory(port, name))


def test_auto_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(registry._TABLE["tts"], "flite", f"{__name__}:Broken")  # type: ignore[index]
    monkeypatch.setitem(registry._TABLE["tts"], "espeak", f"{__name__}:Fake")  # type: ignore[index]
    with caplog.at_level(logging.WARNING):
        assert registry.load("tts", "auto", {"colour": "green", "library_dir": "/x"}).colour == "green"
    assert [record.message for record in caplog.records] == ["engine fell back"]
    assert caplog.records[0].reasons == ["flite: no library"]


def test_auto_with_nothing_there_gives_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._TABLE["tts"], "flite", f"{__name__}:Broken")  # type: ignore[index]
    monkeypatch.setitem(registry._TABLE["tts"], "espeak", "missing_module:Engine")  # type: ignore[index]
    with pytest.raises(EngineUnavailableError, match=r"flite: no library.*espeak.*missing_module"):
        registry.load("tts", "auto")
