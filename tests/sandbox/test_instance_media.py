"""Uploads, their processing, and the served files."""

from __future__ import annotations

import dataclasses
import io

import pytest
import requests
from mastodon.errors import MastodonAPIError, MastodonNotFoundError
from PIL import Image

from sandbox.instance import Account, Instance
from tests.sandbox.conftest import Client, bearer, picture


def animation() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "green", "blue")]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def fetch(url: str) -> requests.Response:
    return requests.get(url, timeout=10)


def test_an_image_is_processed_during_the_request(client: Client, bot: Account, photo: bytes) -> None:
    media = client(bot).media_post(photo, "image/jpeg", description="a red field")
    assert (media.type, media.description) == ("image", "a red field")
    assert (media.meta.original.width, media.meta.original.height) == (120, 80)
    assert fetch(media.url).content == photo
    small = fetch(media.preview_url)
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (120, 80)


def test_a_large_image_is_scaled_down_and_loses_its_exif(client: Client, bot: Account) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    media = client(bot).media_post(picture(4000, 3000, exif=exif), "image/jpeg")
    kept = Image.open(io.BytesIO(fetch(media.url).content))
    assert kept.height > kept.width
    assert kept.width * kept.height <= 3840 * 2160
    assert not kept.getexif()


@pytest.mark.parametrize(
    ("format_", "content_type"),
    [("PNG", "image/png"), ("WEBP", "image/webp"), ("AVIF", "image/jpeg"), ("HEIF", "image/jpeg")],
)
def test_each_image_format_is_served_as_by_the_real_server(
    client: Client, bot: Account, format_: str, content_type: str
) -> None:
    media = client(bot).media_post(picture(64, 48, format_), "application/octet-stream")
    assert fetch(media.url).headers["content-type"] == content_type


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"no picture", "File type of uploaded media could not be verified"),
        (picture(800, 600)[:900], "Error processing thumbnail for uploaded media"),
        (picture(40, 40, "BMP"), "Validation failed: File content type is invalid, File is invalid"),
        (picture(9000, 4000, "PNG"), "9000x4000 images are not supported"),
    ],
)
def test_a_file_that_is_not_an_image_or_too_large_is_refused(
    client: Client, bot: Account, data: bytes, problem: str
) -> None:
    with pytest.raises(MastodonAPIError) as caught:
        client(bot).media_post(data, "image/jpeg")
    assert caught.value.args[1] == 422
    assert caught.value.args[3] == problem


def test_an_upload_without_a_file_is_refused(instance_url: str, bot: Account) -> None:
    answer = requests.post(f"{instance_url}/api/v2/media", headers=bearer(bot.token), timeout=10)
    assert answer.status_code == 422


def test_too_long_a_description_is_refused(client: Client, bot: Account, photo: bytes) -> None:
    with pytest.raises(MastodonAPIError) as caught:
        client(bot).media_post(photo, "image/jpeg", description="x" * 10_001)
    assert caught.value.args[1] == 422


def test_an_animated_gif_becomes_a_video_with_a_preview(client: Client, instance_url: str, bot: Account) -> None:
    answer = requests.post(
        f"{instance_url}/api/v2/media", files={"file": animation()}, headers=bearer(bot.token), timeout=10
    )
    assert (answer.status_code, answer.json()["url"]) == (202, None)
    media = client(bot).media(answer.json()["id"])
    assert media.type == "gifv"
    assert media.url.endswith(".mp4")
    assert fetch(media.url).headers["content-type"] == "video/mp4"
    assert Image.open(io.BytesIO(fetch(media.preview_url).content)).format == "JPEG"


def test_a_slow_server_responds_202_then_206_then_200(
    instance_url: str, instance: Instance, bot: Account, photo: bytes
) -> None:
    now = [1_780_000_000.0]
    instance.host.clock = lambda: now[0]
    instance.settings = dataclasses.replace(instance.settings, media_processing_s=3)
    headers, one = bearer(bot.token), {"file": photo}
    posted = requests.post(f"{instance_url}/api/v2/media", files=one, headers=headers, timeout=10)
    address = f"{instance_url}/api/v1/media/{posted.json()['id']}"
    early = requests.get(address, headers=headers, timeout=10)
    attach = {"status": "x", "media_ids[]": posted.json()["id"]}
    refused = requests.post(f"{instance_url}/api/v1/statuses", data=attach, headers=headers, timeout=10)
    now[0] += 3
    late = requests.get(address, headers=headers, timeout=10)
    assert [each.status_code for each in (posted, early, refused, late)] == [202, 206, 422, 200]
    assert [each.json()["url"] is None for each in (posted, early, late)] == [True, True, False]
    assert "not finished processing" in refused.json()["error"]


def test_processing_can_fail(instance_url: str, instance: Instance, bot: Account, photo: bytes) -> None:
    now = [1_780_000_000.0]
    instance.host.clock = lambda: now[0]
    settings = dataclasses.replace(instance.settings, media_processing_s=1, media_processing_fails=True)
    instance.settings = settings
    headers = bearer(bot.token)
    posted = requests.post(f"{instance_url}/api/v2/media", files={"file": photo}, headers=headers, timeout=10)
    now[0] += 1
    answer = requests.get(f"{instance_url}/api/v1/media/{posted.json()['id']}", headers=headers, timeout=10)
    assert (posted.status_code, answer.status_code) == (202, 422)


def test_v1_waits_until_processing_is_done(instance_url: str, instance: Instance, bot: Account, photo: bytes) -> None:
    instance.settings = dataclasses.replace(instance.settings, media_processing_s=60)
    answer = requests.post(f"{instance_url}/api/v1/media", files={"file": photo}, headers=bearer(bot.token), timeout=10)
    assert answer.status_code == 200
    assert answer.json()["url"]


def test_an_attachment_can_be_used_once(client: Client, bot: Account, photo: bytes) -> None:
    api = client(bot)
    media = api.media_post(photo, "image/jpeg")
    assert api.media_update(media.id, description="later").description == "later"
    assert api.status_post("one", media_ids=[media]).media_attachments[0].description == "later"
    with pytest.raises(MastodonAPIError) as caught:
        api.status_post("two", media_ids=[media])
    assert caught.value.args[1] == 422
    with pytest.raises(MastodonNotFoundError):
        api.media(media.id)


def test_uploads_of_another_account_cannot_be_attached(
    client: Client, bot: Account, alice: Account, photo: bytes
) -> None:
    media = client(alice).media_post(photo, "image/jpeg")
    with pytest.raises(MastodonAPIError):
        client(bot).status_post("x", media_ids=[media])


def test_an_unused_upload_expires_after_a_day(client: Client, instance: Instance, bot: Account, photo: bytes) -> None:
    now = [1_780_000_000.0]
    instance.host.clock = lambda: now[0]
    media = client(bot).media_post(photo, "image/jpeg")
    now[0] += 86_400
    with pytest.raises(MastodonNotFoundError):
        client(bot).media(media.id)


def test_at_most_four_files_can_be_attached(client: Client, bot: Account, photo: bytes) -> None:
    api = client(bot)
    media = [api.media_post(photo, "image/jpeg") for _ in range(5)]
    with pytest.raises(MastodonAPIError) as caught:
        api.status_post("x", media_ids=media)
    assert caught.value.args[3] == "Cannot attach more than 4 files"


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"<svg xmlns='http://www.w3.org/2000/svg'/>", picture(60, 40)[:300]]
)
def test_any_bytes_can_be_attached_in_process(client: Client, instance: Instance, alice: Account, data: bytes) -> None:
    media = instance.attach(alice, data, "image/png", "broken")
    status = instance.post(alice, "@dokocos look", attachments=[media])
    shown = client(alice).status(status.id).media_attachments[0]
    answer = fetch(shown.url)
    assert (answer.content, answer.headers["content-type"]) == (data, "image/png")
    assert fetch(shown.preview_url).status_code == 200


def test_type_url_and_preview_can_be_chosen(client: Client, instance: Instance, alice: Account, photo: bytes) -> None:
    film = instance.attach(alice, b"film", "video/mp4", preview=photo)
    elsewhere = instance.attach(alice, b"", url="http://127.0.0.1:9/internal.jpg")
    unknown = instance.attach(alice, photo, type="unknown", remote_url="https://remote.example/a.jpg")
    status = instance.post(alice, "three", attachments=[film, elsewhere, unknown])
    shown = client(alice).status(status.id).media_attachments
    assert [each.type for each in shown] == ["video", "image", "unknown"]
    assert fetch(shown[0].preview_url).content == photo
    assert shown[1].url == "http://127.0.0.1:9/internal.jpg"
    assert "/media_proxy/" in shown[2].url
    assert fetch(shown[2].url).content == photo
