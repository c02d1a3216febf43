from dataclasses import fields
from pathlib import Path

import yaml

from loadtest.scenario import Expect, parse_scenario

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()


def test_every_expectation_is_explained():
    table = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    explained = {name.strip(" `") for cell in table for name in cell.split(",")}
    assert explained == {field.name for field in fields(Expect)}


def test_the_scenario_on_the_page_is_valid():
    content = yaml.safe_load(PAGE.split("```yaml")[1].split("```")[0])
    one = parse_scenario({**content["defaults"], **content["scenarios"][0]}, content["theme"], "page")
    assert one.expect.whole
    assert len(one.script.steps) == 5
