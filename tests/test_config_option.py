"""--config selects another file, before or after the command."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import bot.__main__
import trainer.__main__
from trainer.errors import ConfigError


@pytest.mark.parametrize("before", [True, False])
def test_the_trainer_reads_the_file_that_is_named(tmp_path: Path, before: bool) -> None:
    missing = ["--config", str(tmp_path / "other.yaml")]
    arguments = [*missing, "models"] if before else ["models", *missing]
    result = CliRunner().invoke(trainer.__main__.app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "other.yaml: no such file" in str(result.exception)


@pytest.mark.parametrize("before", [True, False])
def test_the_bot_reads_the_file_that_is_named(tmp_path: Path, before: bool) -> None:
    missing = ["--config", str(tmp_path / "other.yaml")]
    arguments = [*missing, "inbox"] if before else ["inbox", *missing]
    result = CliRunner().invoke(bot.__main__.app, arguments)
    assert result.exit_code == bot.__main__.EXIT_NEEDS_A_PERSON
    assert "other.yaml: no such file" in result.output


@pytest.mark.parametrize("app", [trainer.__main__.app, bot.__main__.app])
def test_every_command_takes_the_option(app: typer.Typer) -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert "config" in command.callback.__annotations__, command.callback.__name__
