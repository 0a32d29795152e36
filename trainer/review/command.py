"""`python -m trainer review`: lists suspects, serves a page to settle them, takes out what is beyond doubt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.command_line import Config, console, read_settings
from trainer.config import Settings
from trainer.review_state import LastReview, page_served, save_review

if TYPE_CHECKING:
    from trainer.review.suspects import Review
    from trainer.training.training_data import Watcher

SHOWN = 40


def review(
    config: Config = None,
    drop_sure: Annotated[
        bool, typer.Option("--drop-sure", help="Take out of training what is beyond doubt; nothing is deleted.")
    ] = False,
    undo_ids: Annotated[
        list[str] | None,
        typer.Option("--undo", metavar="ID", help="Take back the newest decision about a photo; all: the program's."),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Open a page on this machine, to settle suspects one by one.")
    ] = False,
    show: Annotated[int, typer.Option(min=0, help="How many suspects to list.")] = SHOWN,
    count: Annotated[
        bool, typer.Option("--count", help="Only count suspects, as the bot does for its admins.")
    ] = False,
) -> None:
    """List stored photos that are worth a second look, and what would help most; changes nothing by itself."""
    from trainer.review.contributed import waiting
    from trainer.review.giveaways import find_giveaways
    from trainer.review.oddities import find_oddities
    from trainer.review.suspects import find_suspects
    from trainer.review.tables import curve_table, lines, suspects_table, total
    from trainer.review.take_out import can_go, take_out_sure, undo
    from trainer.training.advice import advise, draw_curve
    from trainer.training.contributed import tidy
    from trainer.training.progress import watch
    from trainer.training.session import session

    settings = read_settings(config)
    if undo_ids:
        print("\n".join(undo(settings, undo_ids, now=datetime.now(UTC))))
        return
    tidy(settings, now=datetime.now(UTC))
    with session(settings.data_dir, "review") as run, watch(console(stderr=True)) as shown:
        watcher = run.watcher(shown)
        found = find_suspects(settings, watcher)
        save_review(settings.data_dir, numbers_of(found, now=datetime.now(UTC)))
        if count:
            print(total(found))
            return
        if not serve:
            watcher.step("curve")
            curve = draw_curve(found.examined.dataset, found.examined.features, settings, watcher.update)
        taken = take_out_sure(found, settings, now=datetime.now(UTC)) if drop_sure else []
    out = console()
    offered = waiting(settings, now=datetime.now(UTC))
    if serve:
        serve_page(replace(found, suspects=(*offered, *found.suspects)), settings)
        return
    out.print(suspects_table(found, show=show))
    if offered:
        out.print(f"{len(offered)} contributed photos wait for a decision (`python -m trainer review --serve`)")
    out.print(lines("Odd as a whole", find_oddities(found.examined, found.suspects)))
    out.print(lines("What gives a label away, without a look at the costume", find_giveaways(found.examined)))
    out.print(curve_table(curve))
    n_doubtful = sum(each.kind in ("label", "two labels") for each in found.suspects)
    advice = advise(found.examined.dataset, n_doubtful, len(found.examined.photos), curve)
    out.print(lines("What would help most", advice))
    n_sure = sum(can_go(each) for each in found.suspects)
    if drop_sure:
        out.print(f"taken out of training: {len(taken)} photos; `python -m trainer review --undo all` takes it back")
    elif n_sure:
        out.print(f"{n_sure} are beyond doubt; `python -m trainer review --drop-sure` takes them out of training")


def numbers_of(review: Review, *, now: datetime) -> LastReview:
    """What the bot may know of a review."""
    from collections import Counter

    from trainer.review.suspects import count_by_kind

    by_label = Counter(each.photo.label for each in review.suspects)
    return LastReview(
        now,
        len(review.examined.photos),
        dict(count_by_kind(review.suspects).most_common()),
        dict(by_label.most_common()),
    )


def serve_page(review: Review, settings: Settings, *, wait: Callable[[], object] | None = None) -> None:
    """Serve the page to settle suspects until Ctrl-C or SIGTERM; its address is printed, and works once.

    Args:
        wait: returns, or raises, when the page is to end; None: it never does by itself.
    """
    from contextlib import closing

    from trainer.photos.decode import Decoder
    from trainer.review.giveaways import find_giveaways
    from trainer.review.oddities import find_oddities
    from trainer.review.page import ReviewPage
    from trainer.review.pictures import Pictures
    from trainer.review.settling import Settling
    from trainer.web.local_server import LocalServer

    with closing(Decoder.in_bulk(settings.images)) as decoder:
        settling = Settling(review, settings.source.kind, settings.data_dir)
        page = ReviewPage(
            settling,
            Pictures(settings, decoder),
            oddities=find_oddities(review.examined, review.suspects),
            giveaways=find_giveaways(review.examined),
        )
        server = LocalServer("127.0.0.1", 0, page.answer, posts=True)
        server.start()
        print(f"{len(settling.suspects):,} photos to settle. Open this address, which works once; Ctrl-C ends it:")
        print(page.address(server.url), flush=True)
        try:
            with page_served(settings.data_dir, server.url.removeprefix("http://")):
                (wait or threading.Event().wait)()
        finally:
            server.stop()
            print(f"{settling.n_settled:,} of {len(settling.suspects):,} photos settled; all is kept")


def take_out_before_training(settings: Settings, watcher: Watcher) -> Review | None:
    """What `review.drop_sure` asks for; None without it."""
    if not settings.review.drop_sure:
        return None
    from trainer.review.suspects import find_suspects
    from trainer.review.take_out import take_out_sure

    found = find_suspects(settings, watcher)
    take_out_sure(found, settings, now=datetime.now(UTC))
    return found
