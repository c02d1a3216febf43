from __future__ import annotations

from pathlib import Path

from configs import fields
from configs.catalogue import render

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_configuration_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m configs.catalogue docs/configuration.md"


def test_every_setting_says_what_it_means() -> None:
    page = render()
    for name, key in fields.all_keys().items():
        assert f"| `{name}` |" in page
        assert len(key.description) > 5, name


def test_allowed_values_are_words() -> None:
    keys = fields.all_keys()
    assert keys["media.vad_threshold"].allowed == "number, more than 0 and less than 1"
    assert keys["kb.sources"].allowed == "list of paths"
    assert keys["telemetry.log_level"].allowed == "one of DEBUG, INFO, WARNING, ERROR"


def test_what_sounds_secret_is_marked_secret() -> None:
    suspects = {
        name for name, key in fields.all_keys().items() if key.kind == "text" and name.endswith(("token", "key", "dsn"))
    }
    assert suspects == {name for name, key in fields.all_keys().items() if key.secret}
