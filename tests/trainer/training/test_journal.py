"""The next run explains a crash of the last one from the journal."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trainer.errors import ModelError
from trainer.training import journal as journal_module
from trainer.training.crash_report import explain_crash
from trainer.training.host_metrics import Reading, boot_id, read_machine
from trainer.training.journal import FILE_NAME, Journal, Run

START = datetime(2026, 11, 23, 21, 0, tzinfo=UTC)
CALM = Reading(load=1.9, cpus=2, memory_free=4_000_000_000, memory_total=8_000_000_000)
GPU_BUSY = Reading(load=1.0, cpus=8, gpu_busy=0.98, gpu_power_w=210, gpu_limit_w=220, gpu_temperature_c=81)


def clock(*, step: timedelta = timedelta(seconds=1)) -> Callable[[], datetime]:
    times = iter(START + n * step for n in range(10_000))
    return lambda: next(times)


def sudden(reading: Reading = CALM, *, boot: str = "first", minutes: float = 3, number: int = 0) -> Run:
    started = START + timedelta(days=number)
    return Run(
        run_id=str(number),
        command="train",
        started=started,
        boot_id=boot,
        gentle=False,
        last_seen=started + timedelta(minutes=minutes),
        step="features",
        reading=reading,
        gpu_under_load=reading.gpu_under_load,
    )


def explained(*runs: Run, boot: str) -> str:
    text = explain_crash(runs, current_boot_id=boot)
    assert text is not None
    return text


def test_a_run_that_ended_normally_is_not_explained(tmp_path: Path) -> None:
    journal = Journal(tmp_path, read=lambda: CALM)
    with journal.run("train"):
        journal.step("features")
    assert [(run.command, run.step, run.ended) for run in journal.runs()] == [("train", "features", "done")]
    assert explain_crash(journal.runs()) is None
    assert explain_crash([]) is None


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (ModelError("no weights"), "error: no weights"),
        (ZeroDivisionError("oops"), "crash: ZeroDivisionError: oops"),
    ],
)
def test_an_exception_is_recorded_and_raised_again(tmp_path: Path, error: BaseException, ended: str) -> None:
    journal = Journal(tmp_path, read=lambda: CALM)
    with pytest.raises(type(error)), journal.run("train"):
        raise error
    assert [run.ended for run in journal.runs()] == [ended]


def test_a_killed_process_leaves_its_step_and_its_last_reading(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from trainer.training.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "with journal.run('train', gentle=True):\n"
        "    journal.step('features'); print('working', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"working\n"
        while not any(run.reading.memory_total for run in Journal(tmp_path).runs()):
            pass
        os.kill(process.pid, signal.SIGKILL)
    (run,) = Journal(tmp_path).runs()
    assert (run.ended, run.step, run.gentle, run.boot_id) == (None, "features", True, boot_id())
    text = explain_crash([run])
    assert text is not None
    assert "The last run, `train` of" in text
    assert 'in the step "features"' in text
    assert "GB memory free" in text
    assert "The machine kept running: something killed the process" in text


def test_an_incomplete_line_does_not_affect_other_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path, read=lambda: CALM)
    with journal.run("train"):
        pass
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"run": "x", "at": "2026-')
    with journal.run("features"):
        pass
    assert [(run.command, run.ended) for run in journal.runs()] == [("train", "done"), ("features", "done")]


def test_invalid_lines_are_skipped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, read=lambda: CALM)
    with journal.run("train"):
        pass
    noise = [
        b"\xff\xfe\x00",
        b"[]",
        b"1",
        b'{"event": "end"}',
        b'{"run": "?", "at": "2026-01-01", "event": "end"}',
        b"",
    ]
    content = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(b"\n".join([*noise, content]))
    assert [run.ended for run in journal.runs()] == ["done"]


def test_a_journal_does_not_grow_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_BYTES", 2000)
    journal = Journal(tmp_path, now=clock(), read=lambda: CALM)
    for _ in range(3 * journal_module.KEEP_RUNS):
        with journal.run("train"):
            pass
    assert len(journal.runs()) == journal_module.KEEP_RUNS + 1
    assert {run.ended for run in journal.runs()} == {"done"}


def test_the_text_has_time_step_duration_and_last_readings() -> None:
    text = explained(sudden(GPU_BUSY), boot="second")
    assert "`train` of 2026-11-23 21:00 UTC" in text
    assert 'last seen at 21:03:00 UTC, after 3 min 0 s, in the step "features".' in text
    assert "load 1.0 on 8 CPUs, GPU 98% busy at 210 of 220 W and 81 °C" in text


def test_the_third_crash_within_minutes_under_gpu_load_points_to_the_power_supply() -> None:
    runs = [sudden(GPU_BUSY, boot=str(number), number=number) for number in range(3)]
    second, third = explained(*runs[:2], boot="2"), explained(*runs, boot="3")
    assert "nvidia-smi" not in second
    assert "third crash within minutes under GPU load, so the power supply is the likely cause" in third
    assert "`nvidia-smi -pl 176`" in third
    assert "--gentle" in third


def test_a_normal_end_in_between_resets_the_count() -> None:
    runs = [sudden(GPU_BUSY, boot=str(number), number=number) for number in range(4)]
    runs[1].ended = "done"
    assert "nvidia-smi" not in explained(*runs, boot="4")


def test_crashes_after_hours_do_not_point_to_the_power_supply() -> None:
    runs = [sudden(GPU_BUSY, boot=str(number), number=number, minutes=200) for number in range(3)]
    assert "third" not in explained(*runs, boot="3")


def test_a_machine_that_kept_running_had_no_power_failure() -> None:
    runs = [sudden(GPU_BUSY, number=number) for number in range(3)]
    assert "power" not in explained(*runs, boot="first")


def test_little_memory_at_the_end_points_to_the_out_of_memory_killer() -> None:
    reading = Reading(memory_free=100_000_000, memory_total=8_000_000_000)
    assert "Lower features.batch_size" in explained(sudden(reading), boot="first")


def test_a_crash_of_a_hot_machine_points_to_its_fans() -> None:
    assert "97 °C: check fans" in explained(sudden(Reading(temperature_c=97.0)), boot="second")


def test_a_crash_of_a_machine_without_gpu_may_be_a_power_failure() -> None:
    assert "a power failure" in explained(sudden(CALM), boot="second")


def test_a_reading_is_restored_from_json_and_ignores_unknown_fields() -> None:
    stored = json.loads(json.dumps({"gpu_busy": 0.5, "fan_rpm": 900}))
    assert Reading.from_json(stored) == Reading(gpu_busy=0.5)


def test_values_that_are_not_numbers_are_ignored_in_a_reading() -> None:
    found = Reading.from_json({"load": "high", "cpus": 2, "memory_free": None, "gpu_busy": [1]})
    assert found == Reading(cpus=2)
    assert found.describe() == "none"


def test_this_machine_can_be_read() -> None:
    reading = read_machine()
    assert reading.memory_total is not None
    assert reading.load is not None
    assert "GB memory free" in reading.describe()
