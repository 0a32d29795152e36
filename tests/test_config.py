"""config.yaml: complete, typed, and clear about what is wrong with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, SecretStr

import bot.config
import trainer.config
from trainer.errors import ConfigError

ROOT = Path(__file__).parent.parent


def load(tmp_path: Path, text: str = "", **environ: str) -> bot.config.Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return bot.config.load_settings(path, environ)


def error(tmp_path: Path, text: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    return str(caught.value)


def test_config_yaml_holds_every_setting_with_its_default() -> None:
    written = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    defaults = bot.config.Settings().model_dump(mode="json")
    del defaults["mastodon"]["access_token"]  # must not be in the file
    assert written == defaults


def test_config_yaml_explains_every_setting() -> None:
    """A comment stands behind a key, or above it."""
    text = (ROOT / "config.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()

    def unexplained(node: yaml.Node, settings: object) -> Iterator[str]:
        assert isinstance(node, yaml.MappingNode)
        for key, value in node.value:
            setting, line = getattr(settings, key.value), key.start_mark.line
            if isinstance(setting, BaseModel):
                yield from unexplained(value, setting)
            elif " # " not in lines[line] and not lines[line - 1].lstrip().startswith("#"):
                yield f"line {line + 1}: {key.value}"

    root = yaml.compose(text)
    assert root is not None
    assert list(unexplained(root, bot.config.Settings())) == []


def test_the_trainer_reads_the_same_file_and_leaves_the_bots_sections_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("bot: {admins: [alice]}\nmastodon: {base_url: 'https://a.example'}\ndata_dir: here\n")
    assert trainer.config.load_settings(trainer.config.Settings, path, {}).data_dir == Path("here")


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    message = error(tmp_path, "web: {total_timeout: 3}")
    assert message.endswith("config.yaml: web.total_timeout: no such key; did you mean total_timeout_s?")


def test_a_key_in_the_wrong_section_is_an_error_that_names_the_right_one(tmp_path: Path) -> None:
    assert "did you mean web.total_timeout_s?" in error(tmp_path, "total_timeout_s: 3")


def test_a_wrong_value_names_the_key_the_value_and_what_is_allowed(tmp_path: Path) -> None:
    message = error(tmp_path, "features: {precision: float16}")
    assert "features.precision: 'float16' is not allowed; allowed: 'auto', 'float32', 'bfloat16' or 'int8'" in message


def test_off_without_quotes_means_off_though_yaml_takes_it_for_false(tmp_path: Path) -> None:
    assert load(tmp_path, "bot: {contributions: off}").bot.contributions == "off"
    assert load(tmp_path, "bot: {contributions: ask}").bot.contributions == "ask"
    assert "allowed: 'off' or 'ask'" in error(tmp_path, "bot: {contributions: on}")


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    assert len(error(tmp_path, "images: {max_bytes: 0, max_pixels: lots}\nnonsense: 1").splitlines()) == 3


def test_any_setting_can_come_from_the_environment(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "data_dir: a",
        DOKOCOS_DATA_DIR="b",
        DOKOCOS_MASTODON__BASE_URL="https://example.social",
        DOKOCOS_MASTODON__ACCESS_TOKEN="s3cret",
        DOKOCOS_SOURCE__WORLDCOSPLAY__IMAGE_HOSTS="[a.example, b.example]",
        DOKOCOS_BOT__ADMINS="[alice]",
        DOKOCOS_WEB__ALLOW_PRIVATE_ADDRESSES="true",
        DOKOCOS_FEATURES__LAYERS="[block5_conv3]",
    )
    assert settings.data_dir == Path("b")
    assert settings.mastodon.base_url == "https://example.social"
    assert settings.mastodon.access_token == SecretStr("s3cret")
    assert settings.source.worldcosplay.image_hosts == ("a.example", "b.example")
    assert settings.bot.admins == ("alice",)
    assert settings.web.allow_private_addresses
    assert settings.features.layers == ("block5_conv3",)


def test_a_misspelt_variable_is_an_error_that_names_it(tmp_path: Path) -> None:
    message = error(tmp_path, DOKOCOS_DATADIR="/srv")
    assert "environment variable DOKOCOS_DATADIR: datadir: no such key; did you mean data_dir?" in message


def test_a_token_in_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    message = error(tmp_path, "mastodon: {access_token: s3cret}")
    assert "DOKOCOS_MASTODON__ACCESS_TOKEN" in message
    assert "s3cret" not in message


def test_a_token_is_hidden_in_every_form_of_the_settings(tmp_path: Path) -> None:
    settings = load(tmp_path, DOKOCOS_MASTODON__ACCESS_TOKEN="s3cret")
    assert "s3cret" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize("text", ["- a list", "a: [", "\x00", "just words"])
def test_a_file_that_is_no_config_is_a_clear_error(tmp_path: Path, text: str) -> None:
    assert "config.yaml" in error(tmp_path, text)


def test_a_missing_file_given_by_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        bot.config.load_settings(tmp_path / "other.yaml", {})


def test_settings_cannot_be_changed_once_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).data_dir = Path("elsewhere")


def test_every_section_refuses_unknown_keys() -> None:
    def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
        fields: list[Any] = [field.annotation for field in model.model_fields.values()]
        inner = [kind for kind in fields if isinstance(kind, type) and issubclass(kind, BaseModel)]
        return [model, *(deeper for kind in inner for deeper in sections(kind))]

    assert all(model.model_config["extra"] == "forbid" for model in sections(bot.config.Settings))


@pytest.mark.parametrize(
    "written", ["https://bücher.example", "https://BÜCHER.example/", "https://xn--bcher-kva.example"]
)
def test_an_address_with_other_letters_has_one_spelling(tmp_path: Path, written: str) -> None:
    settings = load(tmp_path, f"mastodon: {{base_url: {written}}}")
    assert settings.mastodon.base_url == "https://xn--bcher-kva.example"


@pytest.mark.parametrize(
    "name",
    [
        "PORT",
        "PORT_3000_TCP",
        "PORT_3000_TCP_ADDR",
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "TEST_WEIGHTS",
    ],
)
def test_variables_that_are_no_settings_of_ours_are_passed_over(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, **{f"DOKOCOS_{name}": "tcp://10.0.0.1:3000"}) == bot.config.Settings()


def test_a_variable_that_is_nearly_a_setting_is_still_an_error(tmp_path: Path) -> None:
    assert "DOKOCOS_PORTS" in error(tmp_path, DOKOCOS_PORTS="1")


def test_a_secret_in_a_sections_place_is_not_shown(tmp_path: Path) -> None:
    said = error(tmp_path, DOKOCOS_MASTODON="s3cret")
    assert "DOKOCOS_MASTODON" in said
    assert "s3cret" not in said


def test_a_path_with_a_carriage_return_is_an_error(tmp_path: Path) -> None:
    assert "control character" in error(tmp_path, DOKOCOS_DATA_DIR="data\r")
