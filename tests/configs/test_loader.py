from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from configs.loader import Resolved, changed, differences, profiles, resolve
from engines import registry
from voice_agent.errors import ConfigError


def load(tmp_path: Path, text: str = "", *overrides: str, **env: str) -> Resolved:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    return resolve(config_file=file, overrides=overrides, env=env)


def fails(tmp_path: Path, text: str = "", *overrides: str, **env: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides, **env)
    return str(caught.value)


@pytest.mark.parametrize("name", profiles())
def test_every_profile_loads(name: str) -> None:
    assert resolve(name, env={}).settings.profile == name


def test_the_embedded_profile_is_the_default_and_only_names_the_company_of_the_sample() -> None:
    settings = resolve(env={}).settings
    plain = type(settings)()
    assert settings == plain.model_copy(update={"agent": settings.agent})
    assert settings.agent == plain.agent.model_copy(update={"company": "Harbor Street Bicycles"})
    assert settings.kb.sources == plain.kb.sources


def test_the_simulated_profile_fits_the_simulated_engines() -> None:
    settings = resolve("simulated", env={}).settings
    for port, stage in (("stt", settings.stt), ("llm", settings.llm), ("tts", settings.tts)):
        engine = registry.load(port, stage.engine, dict(stage.options))
        assert engine.capabilities.simulated
        assert set(stage.options) <= set(inspect.signature(type(engine)).parameters)
    assert settings.calls.calls_per_actor == 10
    assert not settings.telemetry.event_log


def test_later_sources_win_and_each_value_knows_its_place(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("# my account\nTWILIO_AUTH_TOKEN=from-dotenv\nPUBLIC_URL=https://dotenv.example\n")
    file = tmp_path / "my.yaml"
    file.write_text(
        "extends: simulated\nturn:\n  endpoint_ms: 500\n  reprompts: 3\n"
        "server:\n  public_url: https://file.example\n  webhook_port: 1\nagent: {company: Acme}\n"
    )
    resolved = resolve(
        None,
        file,
        ["agent.company=Set", "turn.reprompts=4", "turn.reprompts=5"],
        {
            "PUBLIC_URL": "https://env.example",
            "VOICE_AGENT__AGENT__COMPANY": "Env",
            "VOICE_AGENT__CALLS__MAX_CALLS": "7",
        },
        env_file=dotenv,
    )
    settings, origin = resolved.settings, resolved.origin
    seen = {
        "profile": settings.profile,
        "llm.engine": settings.llm.engine,
        "turn.endpoint_ms": settings.turn.endpoint_ms,
        "turn.reprompts": settings.turn.reprompts,
        "twilio.auth_token": settings.twilio.auth_token,
        "server.public_url": settings.server.public_url,
        "agent.company": settings.agent.company,
        "calls.max_calls": settings.calls.max_calls,
        "media.lead_ms": settings.media.lead_ms,
    }
    assert seen == {
        "profile": "simulated",
        "llm.engine": "simulated",
        "turn.endpoint_ms": 500,
        "turn.reprompts": 5,
        "twilio.auth_token": "from-dotenv",
        "server.public_url": "https://env.example",
        "agent.company": "Set",
        "calls.max_calls": 7,
        "media.lead_ms": 400,
    }
    assert origin["llm.engine"].endswith("profiles/simulated.yaml:10")
    assert origin["turn.endpoint_ms"] == f"{file}:3"
    assert origin["twilio.auth_token"] == f"{dotenv}:2"
    assert origin["server.public_url"] == "environment PUBLIC_URL"
    assert origin["calls.max_calls"] == "environment VOICE_AGENT__CALLS__MAX_CALLS"
    assert origin["agent.company"] == "--set"
    assert origin["media.lead_ms"] == "default"


def test_the_environment_is_only_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICE_AGENT__TURN__ENDPOINT_MS", "999")
    assert resolve(env={}).settings.turn.endpoint_ms == 450
    assert resolve().settings.turn.endpoint_ms == 999


def test_an_empty_alias_counts_as_not_set_and_the_long_name_wins(tmp_path: Path) -> None:
    text = "server: {public_url: https://file.example}"
    assert load(tmp_path, text, PUBLIC_URL="").settings.server.public_url == "https://file.example"
    both = {"VOICE_AGENT_API_KEY": "alias", "VOICE_AGENT__SERVER__API_KEY": "long"}
    assert load(tmp_path, text, **both).settings.server.api_key == "long"


def test_text_settings_stay_text_others_are_read_as_yaml(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "",
        "server.api_key=12345",
        "turn.speculate=no",
        "kb.sources=[a, b]",
        "llm.options.stop=[x, 1]",
        "llm.options.model=m",
        "agent.greeting=Hi: there",
    ).settings
    assert settings.server.api_key == "12345"
    assert settings.turn.speculate is False
    assert settings.kb.sources == [Path("a"), Path("b")]
    assert settings.llm.options == {"stop": ["x", 1], "model": "m"}
    assert settings.agent.greeting == "Hi: there"


def test_options_of_one_engine_never_reach_another(tmp_path: Path) -> None:
    text = "extends: simulated\ntts: {options: {speed: 9}}"
    assert load(tmp_path, text).settings.tts.options == {"first_audio_ms": 80, "speed": 9, "chunk_ms": 400}
    assert load(tmp_path, text, "tts.engine=espeak").settings.tts.options == {}
    assert load(tmp_path, text, "tts.engine=espeak", "tts.options.rate=150").settings.tts.options == {"rate": 150}
    assert load(tmp_path, text, "tts.engine=simulated").settings.tts.options == {
        "first_audio_ms": 80,
        "speed": 9,
        "chunk_ms": 400,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("turn:\n  endpoint_ms: soon", [":2:", "turn.endpoint_ms", "'soon'", "whole number, at least 100"]),
        ("turn:\n  endpoint_ms: 50", [":2:", "turn.endpoint_ms", "50", "at least 100"]),
        ("ray: {auth: none}", [":1:", "ray.auth", "'none'", "one of token, disabled"]),
        ("turn:\n\n  endpiont_ms: 5", [":3:", "turn.endpiont_ms", "did you mean turn.endpoint_ms"]),
        ("trun: {endpoint_ms: 500}", [":1:", "did you mean turn?"]),
        ("endpoint_ms: 500", [":1:", "did you mean turn.endpoint_ms?"]),
        ("zzz: 1", [":1:", "zzz", "the top level has", "telemetry"]),
        ("turn: 5", [":1:", "turn = 5", "section with", "endpoint_ms"]),
        ("server: {host: 127}", [":1:", "server.host", "127", "text", "quotes"]),
        ("turn:\n  endpoint_ms: 1\n  endpoint_ms: 2", [":3:", "turn.endpoint_ms", "twice", "line 2"]),
        ("turn: [", [":1", "not valid YAML"]),
        ("a: b: c", [":1:", "not valid YAML"]),
        ("turn:\n\tx: 1", [":2:", "not valid YAML"]),
        ("- a", [":1:", "mapping of sections"]),
        ("1: x", [":1:", "quotes"]),
        ("a: &a\n  b: *a", ["nested too deep"]),
        ("stt: {options: 5}", [":1:", "stt.options", "5", "mapping"]),
        ("kb: {sources: [1]}", [":1:", "kb.sources", "path"]),
        ("server: {public_url: voice.example.com}", [":1:", "server.public_url", "https://"]),
        ("server: {public_url: 'https://h/x?y=1'}", [":1:", "no query"]),
        ("turn: {endpoint_long_ms: 200}", [":1:", "turn.endpoint_long_ms", "at least turn.endpoint_ms (450)"]),
        ("stt: {replicas: 3, max_replicas: 2}", [":1:", "stt.max_replicas", "stt.replicas (3)"]),
        ("profile: gpu", [":1:", "--profile"]),
        ("extends: gpuu", [":1:", "'gpuu' is no profile", "embedded, gpu, simulated"]),
        ("extends: 5", [":1:", "extends"]),
        ("stt: !!python/object:os.system {}", [":1:", "not valid YAML"]),
    ],
)
def test_a_broken_file_names_place_key_value_and_what_is_allowed(tmp_path: Path, text: str, words: list[str]) -> None:
    message = fails(tmp_path, text)
    assert "my.yaml" in message
    for word in words:
        assert word in message


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    message = fails(tmp_path, "turn: {endpoint_ms: x, reprompts: -1}\ncalls: {max_calls: 0}")
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("overrides", "env", "words"),
    [
        (["turn.endpoint_ms"], {}, ["--set turn.endpoint_ms", "section.key=value"]),
        (["turn.endpoint_ms=x"], {}, ["--set", "turn.endpoint_ms", "'x'"]),
        (["turn.endpoint_mss=5"], {}, ["--set", "did you mean turn.endpoint_ms"]),
        (["turn.endpoint_ms.x=5"], {}, ["--set", "turn.endpoint_ms.x"]),
        (["kb.sources=["], {}, ["--set", "kb.sources", "not valid YAML"]),
        (["turn=5"], {}, ["--set", "turn = '5'", "section"]),
        ([], {"VOICE_AGENT__TURN__REPROMPTS": "-1"}, ["environment VOICE_AGENT__TURN__REPROMPTS", "at least 0"]),
        ([], {"VOICE_AGENT__TWILIO__AUTHTOKEN": "s3cret"}, ["did you mean twilio.auth_token"]),
        ([], {"PUBLIC_URL": "nonsense"}, ["environment PUBLIC_URL", "server.public_url"]),
    ],
)
def test_wrong_overrides_and_variables(
    tmp_path: Path, overrides: list[str], env: dict[str, str], words: list[str]
) -> None:
    message = fails(tmp_path, "", *overrides, **env)
    assert "s3cret" not in message
    for word in words:
        assert word in message


def test_a_broken_dotenv_names_its_line_and_keeps_its_secret(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("A=1\nTWILIO_AUTH_TOKEN='s3cret\n")
    with pytest.raises(ConfigError, match=r"\.env:2: not of the form") as caught:
        resolve(env={}, env_file=dotenv)
    assert "s3cret" not in str(caught.value)


def test_a_missing_dotenv_is_fine_a_missing_file_is_not(tmp_path: Path) -> None:
    resolve(env={}, env_file=tmp_path / ".env")
    with pytest.raises(ConfigError, match="no such file"):
        resolve(config_file=tmp_path / "my.yaml", env={})
    with pytest.raises(ConfigError, match="no such file"):
        resolve(str(tmp_path / "profile.yaml"), env={})


def test_a_profile_of_ones_own_may_build_on_another_but_not_on_itself(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: simulated\nturn: {reprompts: 7}")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nagent: {company: Mine}")
    settings = resolve(str(tmp_path / "mine.yaml"), env={}).settings
    assert (settings.profile, settings.turn.reprompts, settings.llm.engine) == ("mine", 7, "simulated")
    (tmp_path / "base.yaml").write_text("extends: mine.yaml")
    with pytest.raises(ConfigError, match="extends itself"):
        resolve(str(tmp_path / "mine.yaml"), env={})


def test_profile_and_extends_must_agree(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("extends: gpu")
    with pytest.raises(ConfigError, match="drop one of them"):
        resolve("simulated", file, env={})
    assert resolve("gpu", file, env={}).settings.profile == "gpu"


def test_a_typed_secret_of_the_wrong_kind_is_not_quoted(tmp_path: Path) -> None:
    message = fails(tmp_path, "twilio:\n  auth_token: 987654321")
    assert "987654321" not in message
    assert ":2: twilio.auth_token = '***'" in message


def test_config_show_never_prints_a_secret(tmp_path: Path) -> None:
    secrets = {
        "TWILIO_AUTH_TOKEN": "s3cret",
        "VOICE_AGENT_API_KEY": "s3cret",
        "VOICE_AGENT__STORAGE__DSN": "postgresql://u:s3cret@h/d",
        "VOICE_AGENT__KB__QDRANT_API_KEY": "s3cret",
        "VOICE_AGENT__KB__QDRANT_URL": "http://u:s3cret@h:6333",
        "VOICE_AGENT__LLM__OPTIONS__API_KEY": "s3cret",
        "VOICE_AGENT__LLM__OPTIONS__BASE_URL": "http://u:s3cret@h",
    }
    resolved = load(tmp_path, "", **secrets)
    assert resolved.settings.llm.options["api_key"] == "s3cret"
    rows = resolved.rows()
    assert "s3cret" not in repr(rows)
    shown = {name: value for name, value, _ in rows}
    assert shown["twilio.auth_token"] == "***"
    assert shown["kb.qdrant_url"] == "http://u:***@h:6333"
    assert shown["server.public_url"] == ""
    assert shown["llm.options.api_key"] == "***"
    assert "llm.options" not in shown


def test_every_setting_has_an_origin_and_a_row() -> None:
    resolved = resolve("gpu", env={})
    assert all(origin for *_, origin in resolved.rows())
    assert {name.split(".")[0] for name, *_ in resolved.rows()} == set(type(resolved.settings).model_fields)


def test_a_running_stack_is_changed_by_what_is_set_and_nothing_else() -> None:
    base = resolve("simulated", None, ["llm.options.text=nine", "calls.max_calls=7"], env={}).settings
    new = changed(base, ["llm.options.text=ten"])
    assert new.llm.options == base.llm.options | {"text": "ten"}
    assert [name for name, *_ in differences(base, new)] == ["llm.options"]
    other = changed(base, ["llm.engine=extractive"])
    assert (other.llm.options, other.calls.max_calls) == ({}, 7)
