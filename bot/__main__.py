"""The bot's command line: login, check, run, predict, inbox, health, jobs, stats, bundle."""

from __future__ import annotations

import logging
import os
import signal
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bot.config import Settings, home_url, load_settings, without_token
from bot.errors import Unauthorized
from trainer.errors import ConfigError, ModelError, ProjectError
from trainer.quoting import escaped_lines

if TYPE_CHECKING:
    from bot.app import Bot
    from bot.entities import Prediction

logger = logging.getLogger(__name__)

EXIT_FAULT = 1
WIDE = 400  # characters
# 2 means wrong usage; Typer sets it.
EXIT_NEEDS_A_PERSON = 3

app = typer.Typer(
    help="Answers mentions with a cosplay photo: which gallery does it look like?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Config = Annotated[Path | None, typer.Option("--config", help="Another file than ./config.yaml.", show_default=False)]


@app.callback()
def before_all(context: typer.Context, config: Config = None) -> None:
    """Accepts --config before the command as well as after it."""
    os.umask(0o077)  # what is written, logs of children included, is for this user alone
    context.default_map = {command: {"config": config} for command in COMMANDS}


@app.command()
def login(
    instance: Annotated[str, typer.Argument(help="The bot's instance, e.g. https://friends.nico.")],
    config: Config = None,
    browser: Annotated[bool, typer.Option(help="Open the login page in a browser on this machine.")] = True,
    code: Annotated[str | None, typer.Option(help="The code from the login page; asked for if missing.")] = None,
) -> None:
    """Get an access token from an instance and store it in data_dir, readable only by this user."""
    with _explained():
        from bot.instance.login import CoarseScopesError, Login
        from trainer.web.fetch import user_agent

        settings = load_settings(config)
        base_url = _home(instance)
        if base_url.startswith("http://") and not settings.mastodon.allow_http:
            raise ConfigError(
                f"{base_url}: a token must not be sent unencrypted; use https://, or set mastodon.allow_http"
            )
        step = Login(
            base_url=base_url,
            data_dir=settings.data_dir,
            user_agent=user_agent(settings.web),
            timeout_s=settings.mastodon.request_timeout_s,
        )
        try:
            path, tried = step.finish(code or _ask_for_code(step.url(), instance, browser=browser))
        except CoarseScopesError as error:
            _say(f"{error}\n")
            path, tried = step.finish(_ask_for_code(step.url(coarse=True), instance, browser=browser))
        typer.echo(f"Token stored in {path}, readable only by you.")
        for each in tried:
            if each.outcome == "missing":
                _say(f"NOTE  {each.scope} is missing, so {each.without}")
            elif each.outcome == "unknown":
                _say(f"NOTE  {each.scope} could not be tried: {each.why}; `python -m bot check` tries it again")
        if base_url != settings.mastodon.base_url:
            typer.echo(f"Now set mastodon.base_url to {base_url} in config.yaml (it is {settings.mastodon.base_url}).")


@app.command()
def check(
    config: Config = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not use the network.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Fix what can be fixed automatically, without asking.")] = False,
) -> None:
    """Check what is missing or wrong; exit status 0 if the bot can run, else 1."""
    from bot import check as checks

    try:
        settings = load_settings(config)
    except ConfigError as error:
        _say(f"FAULT {error}")
        raise typer.Exit(EXIT_FAULT) from None
    results = [checks.offline(settings), *([] if offline else [checks.online(settings)])]
    n_faults = 0
    for result in (each for part in results for each in part):
        _say(f"{ {'ok': 'ok   ', 'note': 'NOTE ', 'fault': 'FAULT'}[result.level] } {result.text}")
        n_faults += result.level == "fault"
        if result.fix and (fix or (_is_terminal() and typer.confirm("      Fix this?"))):
            try:
                result.fix()
                typer.echo("      fixed")
            except ProjectError as error:
                _say(f"      could not be fixed: {error}")
    typer.echo("The bot can run." if not n_faults else f"{n_faults} to fix before the bot can run.")
    raise typer.Exit(EXIT_FAULT if n_faults else 0)


@app.command()
def run(config: Config = None) -> None:
    """Answer mentions until SIGTERM or Ctrl-C.

    Exit status: 0 stopped on request, 1 error, 2 wrong usage, 3 a person must help (settings, token, no model).
    """
    status = 0
    try:
        with _explained():
            _serve(config)
    except typer.Exit as end:
        status = end.exit_code
    except Exception:
        logger.exception("a bug in dokocos; please report it with these lines")
        status = EXIT_FAULT
    # Everything is closed. TensorFlow's shutdown, or a stuck call, can take longer than a service manager waits.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Photos on this machine.")],
    config: Config = None,
    picture: Annotated[
        Path | None, typer.Option(help="Save the picture of the answer as this new JPEG file.", show_default=False)
    ] = None,
    language: Annotated[str, typer.Option(help="Language of the picture and its texts: en, ja.")] = "en",
) -> None:
    """Classify photos on disk; exit status 1 if one of them could not be classified."""
    with _explained():
        from bot.photos.files import CardWriter, classified

        settings = load_settings(config)
        if picture is not None and len(files) > 1:
            raise typer.BadParameter("--picture takes one photo")
        try:
            card = CardWriter(settings, picture, language=language) if picture is not None else None
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        n_failed = 0
        for path, found in classified(files, settings):
            n_failed += not _predict_file(path, found)
            if card is not None and not isinstance(found, ProjectError):
                sentence, description = card.save(found)
                typer.echo(f"picture: {picture}\ntext: {sentence}\nalt text: {description}")
        raise typer.Exit(EXIT_FAULT if n_failed else 0)


@app.command()
def inbox(
    config: Config = None,
    everything: Annotated[bool, typer.Option("--all", help="Show finished mentions too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Number of rows.")] = 50,
    retry: Annotated[
        str | None, typer.Option(help="Try a failed mention again: its notification id, or “all”.", show_default=False)
    ] = None,
) -> None:
    """Show mentions that wait or have failed, with the reason; or try failed ones again."""
    with _explained():
        from bot.monitor.tables import inbox_table
        from bot.storage.store import Store

        store = Store(_database(load_settings(config)), heal=False)
        try:
            if retry is not None:
                n_again = store.inbox.retry(None if retry == "all" else retry)
                typer.echo(f"{n_again} will be tried again; a running bot notices within 15 seconds.")
                raise typer.Exit(0 if n_again or retry == "all" else EXIT_FAULT)
            counts = store.inbox.counts()
            _show(inbox_table(store.inbox.entries(open_only=not everything, limit=limit)))
            typer.echo(", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "empty")
        finally:
            store.close()


@app.command()
def health(config: Config = None) -> None:
    """Say whether the bot that uses data_dir is alive; exit status 0 if it is, else 1."""
    import time

    from bot.monitor.health import problem

    with _explained():
        found = problem(load_settings(config).data_dir, now=time.time())
    typer.echo(found or "alive")
    raise typer.Exit(EXIT_FAULT if found else 0)


@app.command()
def jobs(config: Config = None, limit: Annotated[int, typer.Option(min=1, help="Number of runs.")] = 20) -> None:
    """Show each job's next run, and the last runs: when, how long, with which outcome."""
    with _explained():
        from bot.monitor.tables import jobs_table

        settings = load_settings(config)
        _show(jobs_table(settings, _database(settings), limit=limit))


@app.command()
def stats(config: Config = None, days: Annotated[int, typer.Option(min=1, help="Number of days.")] = 14) -> None:
    """Show how many mentions were answered, refused or failed, by day, and the champion's figures."""
    with _explained():
        from bot.monitor.tables import stats_table

        settings = load_settings(config)
        _show(stats_table(settings, _database(settings), days=days))


@app.command()
def bundle(
    config: Config = None,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("dokocos-bundle.txt"),
    yes: Annotated[bool, typer.Option("--yes", help="Write the file without asking.")] = False,
) -> None:
    """Write a file for a bug report, without ids, names, texts and addresses; it is shown before it is written."""
    import time

    from bot import check as checks
    from bot.monitor.bundle import write_bundle

    with _explained():
        settings = load_settings(config)
        said = ((result.level, result.text) for result in checks.offline(settings))
        text = write_bundle(settings, said, now=time.time())
        typer.echo(text)
        if not yes:
            if not _is_terminal():
                raise ConfigError(f"there is no terminal to say yes on; `--yes` writes this to {output}")
            if not typer.confirm(f"Write this to {output}?"):
                raise typer.Exit(EXIT_FAULT)
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{output}: cannot be written: {error.strerror}") from error
        typer.echo(f"Written to {output}.")


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _ask_for_code(url: str, instance: str, *, browser: bool) -> str:
    """Shows a login page's address and asks for the code. Raises ConfigError without a terminal."""
    typer.echo(f"Log in as the bot's account and allow access here:\n\n  {url}\n")
    if browser:
        webbrowser.open(url)
    try:
        code: str = typer.prompt("The code shown there")
    except typer.Abort:
        if _is_terminal():
            raise
        raise ConfigError(
            f"there is no terminal to type the code on; run `python -m bot login {instance} --code CODE`"
        ) from None
    return code


def _home(instance: str) -> str:
    """The instance's base URL from user input; https by default. Raises ConfigError."""
    try:
        return home_url(instance if "://" in instance else f"https://{instance}")
    except ValueError as error:
        raise ConfigError(f"{instance}: give {error}") from error


def _database(settings: Settings) -> Path:
    """The path of the bot's database. Raises ConfigError if there is none yet."""
    from bot.storage.store import DATABASE

    path = settings.data_dir / DATABASE
    if not path.exists():
        raise ConfigError(f"{path}: no inbox yet; the first `python -m bot run` creates it")
    return path


def _show(table: object) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # piped on, where a line that is cut loses an id
        console.width = WIDE
    console.print(table)


def _serve(config: Path | None) -> None:
    """Builds and runs the bot; returns if it was asked to stop, else raises the error that ended it."""
    from bot import log
    from bot.admin.subprocesses import Subprocesses
    from bot.app import Bot
    from bot.instance.credentials import find_token
    from bot.photos.predict import ServingLoader
    from trainer.confinement import hide_memory
    from trainer.photos.decode import Decoder

    settings = load_settings(config)
    token = find_token(settings).token
    # Neither the children nor a crash report of theirs can tell what they do not inherit; what the kernel keeps of it
    # is closed to them as well.
    hide_memory()
    for variable in os.environ.keys() - without_token(os.environ):
        del os.environ[variable]
    last_lines = log.set_up(settings.log, secrets=[token])
    with Decoder(settings.images) as decoder:
        subprocesses = Subprocesses(settings.schedule, settings.data_dir / "log", config=config)
        bot = Bot(
            settings, token, ServingLoader(settings), decoder, subprocesses=subprocesses, log_lines=last_lines.lines
        )
        signal.signal(signal.SIGHUP, lambda *_: bot.ask_to_reload())
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: bot.ask_to_stop())
        try:
            bot.start()
            while bot.wait():
                _reload(bot, config, token)
        finally:
            bot.stop()
    if bot.failure is not None:
        raise bot.failure


def _reload(bot: Bot, config: Path | None, token: str) -> None:
    """Reads the settings again and applies those that may change while the bot runs."""
    from bot import log

    try:
        settings = load_settings(config)
        log.set_up(settings.log, secrets=[token])
        waiting = bot.operations.reload(settings)
    except ProjectError as error:
        logger.error("settings not reloaded, keeping the old ones: %s", error)
        return
    logger.info("settings reloaded; a restart is needed for: %s", ", ".join(waiting) or "nothing")


def _predict_file(path: Path, found: Prediction | ProjectError) -> bool:
    """Prints one file's result; returns False if it could not be classified."""
    if isinstance(found, ProjectError):
        typer.echo(f"{path}: {found}", err=True)
        return False
    if not found.is_known:
        result = f"looks like nothing that was learned; nearest is {found.label}"
    else:
        result = f"looks like the {found.label} gallery" if found.sure else f"not sure; nearest is {found.label}"
    typer.echo(f"{path}: {result} (version {found.version})")
    for label, score in found.scores:
        typer.echo(f"  {label:<12} {'█' * round(score * 20):<20} {score:6.1%}")
    return True


@contextmanager
def _explained() -> Iterator[None]:
    """Turns errors that a person can act on into a message and an exit status, without a traceback."""
    try:
        yield
    except (ConfigError, ModelError, Unauthorized) as error:
        _end(error, EXIT_NEEDS_A_PERSON)
    except ProjectError as error:
        _end(error, EXIT_FAULT)


def _end(error: ProjectError, status: int) -> NoReturn:
    _say(f"{error}", err=True)
    raise typer.Exit(status) from None


def _say(text: str, *, err: bool = False) -> None:
    """Prints a text that may quote strangers."""
    typer.echo(escaped_lines(text.splitlines()), err=err)


COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]

if __name__ == "__main__":
    app(prog_name="python -m bot")
