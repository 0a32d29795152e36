"""`python -m benchmarks` lists and runs benchmarks, prints a table, and ends with a line of JSON."""

import importlib
import inspect
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks import __main__ as harness
from benchmarks.features import gflop_per_image, images_per_s_of_product
from benchmarks.result import Figure, Goal, Result

ROOT = Path(__file__).parent.parent.parent


def use(monkeypatch: pytest.MonkeyPatch, result: Result) -> list[dict[str, Any]]:
    """Make the benchmark "made_up" give this result; returns the calls that reach it."""
    calls: list[dict[str, Any]] = []

    def run(**options: Any) -> Result:
        calls.append(options)
        return result

    module = types.ModuleType("made_up")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up", module)
    monkeypatch.setitem(harness.BENCHMARKS, "made_up", ("made_up", "nothing at all"))
    return calls


def test_without_a_name_every_benchmark_is_listed_with_a_line() -> None:
    outcome = CliRunner().invoke(harness.app, [], env={"COLUMNS": "200"})
    assert outcome.exit_code == 0
    for name, (_, text) in harness.BENCHMARKS.items():
        assert re.search(rf"{name}.*{re.escape(text)}", outcome.stdout)


def test_every_listed_benchmark_is_a_module_that_can_be_run() -> None:
    for module, _ in harness.BENCHMARKS.values():
        source = ROOT / f"{module.replace('.', '/')}.py"
        assert re.search(r"^def run\(", source.read_text(encoding="utf-8"), re.MULTILINE)


def test_an_unknown_name_lists_the_known_names() -> None:
    outcome = CliRunner().invoke(harness.app, ["speed"], env={"COLUMNS": "200"})
    assert outcome.exit_code == 2
    assert "speed: no such benchmark" in outcome.stderr
    assert "features" in outcome.stderr


@pytest.mark.parametrize(
    "option", [("latency", "--weights", "random"), ("promotion", "--pictures", "."), ("repeat", "--pictures", ".")]
)
def test_an_option_that_a_benchmark_does_not_take_is_an_error(option: list[str]) -> None:
    outcome = CliRunner().invoke(harness.app, option, env={"COLUMNS": "200"})
    assert outcome.exit_code == 2
    assert f"{option[0]} takes no {option[1]}" in outcome.stderr


def test_benchmarks_of_learning_take_weights() -> None:
    for name in ("real", "foreign", "imbalance", "calibration", "repeat", "retrain", "training"):
        assert "weights" in inspect.signature(importlib.import_module(harness.BENCHMARKS[name][0]).run).parameters


@pytest.mark.parametrize(("rate", "met"), [(0.95, True), (0.5, False)])
def test_the_last_line_is_json_and_a_missed_goal_gives_exit_status_1(
    rate: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = use(monkeypatch, Result({"rate": rate, "kind": "x"}, (Goal("rate", at_least=0.9),)))
    outcome = CliRunner().invoke(harness.app, ["made_up", "--quick"], env={"COLUMNS": "200"})
    line = json.loads(outcome.stdout.splitlines()[-1])
    assert outcome.exit_code == (0 if met else 1)
    assert (line["name"], line["met"], line["figures"]["rate"]) == ("made_up", met, rate)
    assert line["goals"] == {"rate": {"wanted": "at least 0.9", "got": rate, "met": met}}
    assert line["figures"]["machine"]["cores"] > 0
    assert re.search(r"rate.*at least 0\.9.*" + ("met" if met else "missed"), outcome.stdout)
    assert calls[0]["quick"] is True


def test_the_work_folder_is_deleted_after_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = use(monkeypatch, Result({}))
    assert CliRunner().invoke(harness.app, ["made_up"]).exit_code == 0
    assert not calls[0]["work_dir"].exists()


@given(value=st.floats(allow_nan=False), low=st.floats(-9, 9), high=st.floats(-9, 9))
def test_a_goal_is_met_between_its_bounds_and_nowhere_else(value: float, low: float, high: float) -> None:
    assert Goal("x", at_least=low, at_most=high).is_met(value) == (low <= value <= high)


@pytest.mark.parametrize("value", [None, float("nan"), "fast"])
def test_a_missing_figure_meets_no_goal(value: Figure) -> None:
    assert not Result({"x": value}, (Goal("x", at_most=1e9),)).met
    assert not Result({}, (Goal("x", at_most=1e9),)).met


def test_the_operations_per_image_are_the_known_number_of_vgg16() -> None:
    assert gflop_per_image() == pytest.approx(30.69, abs=0.01)


def test_the_ceiling_is_at_least_that_of_one_matrix_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.features.MATRIX_SIDE", 64)
    assert images_per_s_of_product("float32") > 0
