"""The command line of `python -m trainer`: output, exit status, and errors in one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.trainer.collection import paint_photos, settings_for
from tests.trainer.registry.test_registry import FACTS_OF_ALL, fill
from tests.web import Exchange, serving
from trainer.errors import StorageError
from trainer.evaluation.evaluate import evaluate
from trainer.lock import only_one
from trainer.registry.registry import Registry
from trainer.training.journal import Journal
from trainer.training.session import session

ROOT = Path(__file__).parents[2]


def trainer(*arguments: str, config: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOKOCOS_")}
    return subprocess.run(
        [sys.executable, "-m", "trainer", *(["--config", str(config)] if config else []), *arguments],
        cwd=ROOT,
        env={**inherited, "COLUMNS": "120", **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def config_file(folder: Path, data_dir: Path) -> Path:
    settings = settings_for(folder, data_dir)
    file = data_dir.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A config file, and the result of the first `train` with it."""
    folder = tmp_path_factory.mktemp("cli")
    paint_photos(folder / "photos")
    config = config_file(folder / "photos", folder / "data")
    return config, trainer("train", "--repeat", "2", config=config)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Three versions; the first two have been champions."""
    found = Registry(tmp_path)
    truth = np.arange(30) % 3
    report = evaluate(
        np.eye(3, dtype=np.float32)[truth],
        truth,
        [str(n) for n in range(30)],
        labels=FACTS_OF_ALL.labels,
        threshold=0.5,
        settings=settings_for(tmp_path, tmp_path).evaluate,
    )
    names = [found.add(FACTS_OF_ALL, {"report": report.as_json()}, fill).name for _ in range(3)]
    found.promote(names[0], reason="first")
    found.promote(names[1], reason="better")
    return found


def test_help_names_every_command_and_loads_no_tensorflow() -> None:
    code = (
        "import sys, runpy; sys.argv = ['trainer', '--help']\ntry: runpy.run_module('trainer', run_name='__main__')\n"
    )
    code += "except SystemExit: print('keras' in sys.modules, 'tensorflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in ("scrape", "features", "train", "evaluate", "models", "promote", "rollback", "doctor"):
        assert f" {command} " in found.stdout
    assert found.stdout.splitlines()[-1] == "False False"


def test_a_wrong_option_is_a_usage_error() -> None:
    assert trainer("train", "--nonsense").returncode == 2
    assert trainer("train", "--repeat", "0").returncode == 2
    assert trainer("promote").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "environ", "line"),
    [
        (("models",), {"DOKOCOS_HEAD__SEED": "-1"}, "error: environment variable DOKOCOS_HEAD__SEED: head.seed"),
        (("--config", "/nowhere.yaml", "models"), {}, "error: /nowhere.yaml: no such file"),
        (("promote", "2020-01-01-1"), {}, "error: 2020-01-01-1: no such version; there are: none yet"),
        (("rollback",), {}, "error: there is no previous champion"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...], environ: dict[str, str], line: str
) -> None:
    found = trainer(*arguments, config=None, **{"DOKOCOS_DATA_DIR": str(tmp_path), **environ})
    assert found.returncode == 1
    assert found.stderr.startswith(line)
    assert len(found.stderr.splitlines()) == 1


def test_train_runs_all_missing_steps_and_prints_the_result(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    config, found = trained
    assert found.returncode == 0, found.stderr
    for words in (
        "Photos for training",
        "on held-out members",
        "balanced accuracy 0.",
        "baseline majority class: 0.33",
        "baseline colour histogram: 0.",
        "on the training photos: ",
        "The same training with other seeds",
        "is the champion now: it is the first version",
        "report.html",
        "VGG16 has random weights: good for demos and tests, not for real answers",
    ):
        assert words in found.stdout
    assert "random weights" in found.stderr
    assert "features total=72" in found.stderr
    (run,) = Journal(config.with_suffix("")).runs()
    assert (run.command, run.gentle, run.ended) == ("train", False, "done")


def test_a_trained_version_is_listed_and_can_be_evaluated_again(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    config, _ = trained
    listed = trainer("models", config=config)
    assert "brazil, china, japan" in listed.stdout
    assert "* the champion" in listed.stdout
    judged = trainer("evaluate", config=config)
    assert judged.returncode == 0, judged.stderr
    assert "on held-out members" in judged.stdout


def test_versions_are_promoted_and_rolled_back_by_hand(registry: Registry, tmp_path: Path) -> None:
    first, second, third = registry.names()
    promoted = trainer("promote", third, DOKOCOS_DATA_DIR=str(tmp_path))
    assert promoted.stdout == f"{third} is the champion now\n"
    rolled_back = trainer("rollback", DOKOCOS_DATA_DIR=str(tmp_path))
    assert rolled_back.stdout == f"{second} is the champion again\n"
    assert [reign.version for reign in registry.history()] == [first, second, third, second]


def test_models_shows_times_as_champion_and_damaged_versions(registry: Registry, tmp_path: Path) -> None:
    first, second, third = registry.names()
    (registry.folder / third / "head.npz").unlink()
    found = trainer("models", DOKOCOS_DATA_DIR=str(tmp_path), COLUMNS="200")  # wide enough for the path in a message
    assert f"{second} *" in found.stdout
    assert f"{first}  " in found.stdout
    assert " to now" in found.stdout
    assert "1.00 (1.00 to 1.00)" in found.stdout
    assert "head.npz: is missing" in found.stdout


def test_models_fits_into_a_terminal_with_any_number_of_labels(registry: Registry, tmp_path: Path) -> None:
    labels = tuple(f"label {number}" for number in range(300))
    metrics = registry.load(registry.names()[0]).metrics
    registry.add(replace(FACTS_OF_ALL, labels=labels), metrics, fill)
    found = trainer("models", DOKOCOS_DATA_DIR=str(tmp_path), COLUMNS="80")
    assert "296 more" in " ".join(found.stdout.replace("│", " ").split())
    assert len(found.stdout.splitlines()) < 50
    assert "…" not in found.stdout
    assert all(len(line) <= 80 and line[-1] in "┓┃┩│┘" for line in found.stdout.splitlines()[1:-1])


def test_models_without_a_version_says_what_to_do(tmp_path: Path) -> None:
    assert "python -m trainer train" in trainer("models", DOKOCOS_DATA_DIR=str(tmp_path)).stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_exits_cleanly_with_one_line(tmp_path: Path, number: signal.Signals, code: int) -> None:
    def stop(exchange: Exchange) -> None:
        process.send_signal(number)
        exchange.server.over.wait(60)

    with serving({"/robots.txt": stop}) as server:
        environ = {
            "DOKOCOS_DATA_DIR": str(tmp_path),
            "DOKOCOS_SOURCE__WORLDCOSPLAY__BASE_URL": server.url,
            "DOKOCOS_WEB__ALLOW_PRIVATE_ADDRESSES": "true",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "train"],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert out == ""
    assert err == "stopped; finished work is kept, and the same command continues from there\n"
    (run,) = Journal(tmp_path).runs()
    assert (run.step, run.ended) == ("scrape", "interrupted")


def test_labels_are_shown_unchanged_if_the_terminal_can_encode_them(tmp_path: Path) -> None:
    paint_photos(tmp_path / "photos", per_label=1, labels=("[dogs]", ":smile:", "日本"))
    config = config_file(tmp_path / "photos", tmp_path / "data")
    found = trainer("scrape", config=config, PYTHONIOENCODING="utf-8")
    assert found.returncode == 0, found.stderr
    for label in ("[dogs]", ":smile:", "日本"):
        assert f" {label} " in found.stdout
    poor = trainer("scrape", config=config, PYTHONIOENCODING="ascii")
    assert poor.returncode == 0, poor.stderr
    assert " ?? " in poor.stdout


def test_an_unreadable_registry_is_an_error_before_the_training(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    shutil.copytree(trained[0].with_suffix(""), tmp_path / "data")
    content = (tmp_path / "data/registry.json").read_bytes()
    (tmp_path / "data/registry.json").write_bytes(content[:50])
    found = trainer("train", config=trained[0], DOKOCOS_DATA_DIR=str(tmp_path / "data"))
    assert found.returncode == 1
    assert "registry.json: cannot be read" in found.stderr.splitlines()[-1]
    assert "VGG16" not in found.stderr
    assert len(Registry(tmp_path / "data").names()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--address", "10.0.0.1:6379"), "--engine ray"), (("--engine", "ray", "--gentle"), "--engine local")],
)
def test_options_of_one_engine_are_refused_with_the_other(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    found = trainer("features", *options, DOKOCOS_DATA_DIR=str(tmp_path))
    assert found.returncode == 2
    assert said in " ".join(found.stderr.split())
    assert not list(tmp_path.iterdir())


def test_a_second_training_at_the_same_time_is_refused(tmp_path: Path) -> None:
    with session(tmp_path, "train"):
        found = trainer("features", DOKOCOS_DATA_DIR=str(tmp_path))
        at_work = trainer("doctor", DOKOCOS_DATA_DIR=str(tmp_path)).stdout
    assert found.returncode == 1
    assert found.stderr.startswith("error: another training is running")
    assert "`train` is running" in at_work


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from trainer.lock import only_one\n"
    code += "with only_one(Path(sys.argv[1]), 'training'): os.kill(os.getpid(), 9)"
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], cwd=ROOT)
    assert died.returncode == -9
    with only_one(tmp_path / "lock", "training"), pytest.raises(StorageError, match="another training"):  # noqa: SIM117
        with only_one(tmp_path / "lock", "training"):
            pass


def test_a_run_after_a_crash_explains_the_crash_first(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from trainer.training.session import session\n"
    code += (
        "with session(Path(sys.argv[1]), 'train') as run:\n    run.journal.step('features'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    next_run = trainer("features", "--gentle", DOKOCOS_DATA_DIR=str(tmp_path))
    assert "ended without a clean stop" in next_run.stderr.splitlines()[0]
    assert 'in the step "features"' in next_run.stderr
    assert next_run.stderr.splitlines()[-1].startswith("error: there are no photos yet")
    doctor = trainer("doctor", DOKOCOS_DATA_DIR=str(tmp_path)).stdout
    assert "crashed" in doctor
    assert "features --gentle" in " ".join(doctor.split())
    assert "not checked: power supply" in doctor


def test_the_journal_is_json_lines(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    lines = (trained[0].with_suffix("") / "journal.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events[0] == "start"
    assert {"step", "reading", "end"} <= set(events)
