"""Routes for information about the instance.

Source: https://docs.joinmastodon.org/entities/Instance/ and V1_Instance
"""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from sandbox.instance.api import Call, route
from sandbox.instance.instance import Instance

MIME_TYPES = [
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/heic",
    "image/heif",
    "image/webp",
    "image/avif",
    "video/webm",
    "video/mp4",
    "video/quicktime",
    "audio/wave",
    "audio/wav",
    "audio/mpeg",
    "audio/mp3",
    "audio/ogg",
]


def routes(instance: Instance) -> list[Route]:
    return [
        route(instance, "/api/v1/instance", _v1),
        route(instance, "/api/v2/instance", _v2),
        route(instance, "/api/v1/custom_emojis", _nothing),
        route(instance, "/api/v1/instance/rules", _nothing),
    ]


async def _nothing(call: Call) -> Any:  # noqa: ARG001 - a handler's signature
    return []


async def _v1(call: Call) -> Any:
    instance = call.instance
    call.headers["Deprecation"] = "@1668384000"  # as the real server since 4.3; Mastodon.py logs a warning
    configuration = _configuration(instance)
    return {
        "uri": instance.settings.domain,
        "title": instance.settings.title,
        "short_description": instance.settings.description,
        "description": "",
        "email": "",
        "version": instance.settings.profile.version or instance.settings.version,
        "urls": {"streaming_api": _streaming_url(instance)},
        "stats": {
            "user_count": len(instance.accounts.local()),
            "status_count": len(instance.statuses.all()),
            "domain_count": 0,
        },
        "thumbnail": None,
        "languages": ["en"],
        "registrations": False,
        "approval_required": False,
        "invites_enabled": False,
        "configuration": {name: configuration[name] for name in ("accounts", "statuses", "media_attachments", "polls")},
        "contact_account": None,
        "rules": [],
    }


async def _v2(call: Call) -> Any:
    instance = call.instance
    return {
        "domain": instance.settings.domain,
        "title": instance.settings.title,
        "version": instance.settings.profile.version or instance.settings.version,
        "source_url": "https://github.com/mastodon/mastodon",
        "description": instance.settings.description,
        "usage": {"users": {"active_month": len(instance.accounts.local())}},
        "thumbnail": {"url": f"{instance.base_url}/avatars/original/missing.png"},
        "icon": [],
        "languages": ["en"],
        "configuration": _configuration(instance),
        "registrations": {"enabled": False, "approval_required": False, "reason_required": None, "message": None},
        "api_versions": {"mastodon": 7},
        "contact": {"email": "", "account": None},
        "rules": [],
    }


def _streaming_url(instance: Instance) -> str:
    address = instance.base_url.replace("http", "ws", 1)
    return address.replace("ws:", "wss:") if instance.settings.profile.says_wss else address


def _configuration(instance: Instance) -> dict[str, Any]:
    settings = instance.settings
    return {
        "urls": {"streaming": _streaming_url(instance), "status": None, "about": f"{instance.base_url}/"},
        "vapid": {"public_key": ""},
        "accounts": {"max_featured_tags": 10, "max_pinned_statuses": 5},
        "statuses": {
            "max_characters": settings.max_characters,
            "max_media_attachments": settings.max_media_attachments,
            "characters_reserved_per_url": 23,
        },
        "media_attachments": {
            "description_limit": settings.max_description_characters,
            "image_matrix_limit": settings.image_max_pixels,
            "image_size_limit": settings.image_max_bytes,
            "supported_mime_types": MIME_TYPES,
            "video_frame_rate_limit": 120,
            "video_matrix_limit": 8294400,
            "video_size_limit": settings.video_max_bytes,
        },
        "polls": {"max_options": 4, "max_characters_per_option": 50, "min_expiration": 300, "max_expiration": 2629746},
        "translation": {"enabled": False},
    }
