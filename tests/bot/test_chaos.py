"""Cut streams, kills, posts stored and failed, limits, lost media, all at once: none lost, none answered twice."""

from __future__ import annotations

import random
from functools import partial

from sandbox.faults import Fault
from sandbox.instance import InstanceSettings, Status
from sandbox.instance.settings import NO_RATE_LIMITS
from tests.bot.conftest import World, until

N_MENTIONS = 60
N_KILLS = 3
FAULTS = (
    {"kind": "store_then_cut", "path": "/api/v1/statuses", "methods": ("POST",), "share": 0.1},
    {"kind": "store_then_answer", "path": "/api/v1/statuses", "methods": ("POST",), "share": 0.1},
    {"kind": "answer", "path": "/api/v1/statuses", "methods": ("POST",), "share": 0.05, "status": 500},
    {"kind": "answer", "path": r"/api/v1/(notifications|statuses/.*)", "share": 0.05, "status": 503, "html": True},
    {"kind": "rate_limit", "path": "/api/v1/statuses", "methods": ("POST",), "share": 0.02, "seconds": 0.5},
    {"kind": "answer", "path": r"/system/.*", "share": 0.1, "status": 503},
    {"kind": "cut", "path": r"/system/.*", "share": 0.05},
)
SETTINGS = {
    "DOKOCOS_MASTODON__REQUEST_TIMEOUT_S": "1.5",
    "DOKOCOS_MASTODON__RECONNECT_PAUSE_S": "0.1",
    "DOKOCOS_MASTODON__MAX_RECONNECT_PAUSE_S": "0.5",
    "DOKOCOS_MASTODON__CATCH_UP_EVERY_S": "1",
    "DOKOCOS_MASTODON__POLL_EVERY_S": "0.5",
    "DOKOCOS_WEB__BACKOFF_S": "0.05",
    "DOKOCOS_BOT__RETRY_PAUSE_S": "0.1",
    "DOKOCOS_BOT__MAX_RETRY_PAUSE_S": "0.5",
    "DOKOCOS_BOT__MAX_ATTEMPTS": "50",
    "DOKOCOS_BOT__MAX_ANSWERS_PER_HOUR": "10000",
    "DOKOCOS_BOT__PICTURES": "false",
}


def has_more_than(world: World, n_answers: int) -> bool:
    return len(world.instance.statuses_of(world.me)) > n_answers


def test_in_a_storm_no_mention_is_lost_and_none_answered_twice(world: World) -> None:
    rng = random.Random(7)
    kills = set(rng.sample(range(5, N_MENTIONS - 5), N_KILLS))
    cuts = set(rng.sample(range(N_MENTIONS), 8))
    world.instance.settings = InstanceSettings(rate_limits=NO_RATE_LIMITS)  # but those that strike as faults
    world.instance.faults.reseed(7)
    asked: list[Status] = []
    process = world.spawn(**SETTINGS)
    try:
        until(lambda: world.instance.hub.listeners(world.me))
        world.instance.faults.add(*(Fault.model_validate(fault) for fault in FAULTS))
        for number in range(N_MENTIONS):
            asked.append(world.ask(label=rng.choice(["japan", "china", "brazil"])))
            if number in cuts:
                world.instance.faults.close_streams(rng.choice(["end", "cut"]))
            if number in kills:
                n_answers = len(world.instance.statuses_of(world.me))
                until(partial(has_more_than, world, n_answers))  # it is in the midst of it
                process.kill()
                process.wait()
                process = world.spawn(**SETTINGS)
        until(lambda: all(world.answers(each) for each in asked))
        process.terminate()
        process.wait(10)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    twice = {each.id: world.answers(each) for each in asked if len(world.answers(each)) != 1}
    assert not twice, world.log.read_text(encoding="utf-8")
    assert world.instance.faults.fired["store_then_cut"] + world.instance.faults.fired["store_then_answer"] > 0
