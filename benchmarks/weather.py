"""Defines the faults of the instance in the chaos benchmark, applied one after another."""

from __future__ import annotations

from sandbox.faults import Fault

API = "/api/.*"
POSTS = "/api/v1/statuses"
THREADS = "/api/v1/statuses/.*"
UPLOADS = "/api/v./media"
FILES = "/system/.*"
REQUEST_TIMEOUT_S = 3.0  # the bot's timeout for one call; later responses are lost


def _post(kind: str, *, share: float, **options: object) -> Fault:
    return Fault.model_validate({"kind": kind, "path": POSTS, "methods": ("POST",), "share": share, **options})


SPELLS: dict[str, tuple[Fault, ...]] = {
    "fair": (),
    "some calls fail with 500": (Fault(kind="answer", path=API, status=500, share=0.25),),
    "some calls fail with a proxy's 502 or 503": (
        Fault(kind="answer", path=API, status=502, html=True, share=0.1),
        Fault(kind="answer", path=API, status=503, share=0.1),
    ),
    "nothing answers": (Fault(kind="cut"),),
    "everything answers 503": (Fault(kind="answer", status=503, html=True),),
    "a proxy knows no such page": (Fault(kind="answer", path=API, status=404, html=True, share=0.5),),
    "posts are stored and answered with 500": (_post("store_then_answer", share=0.6, status=500),),
    "posts are stored and answered with a proxy's 504": (_post("store_then_answer", share=0.6, status=504, html=True),),
    "posts are stored and the connection is cut": (_post("store_then_cut", share=0.6),),
    "posts are stored and answered too late": (_post("store_then_delay", share=0.3, seconds=REQUEST_TIMEOUT_S + 1),),
    "posts are stored, and neither they nor their threads answer": (
        _post("store_then_cut", share=0.6),
        Fault(kind="answer", path=THREADS, status=500, share=0.6),
    ),
    "posts are cut before they are stored": (_post("cut", share=0.6),),
    "429 with headers": (Fault(kind="rate_limit", path=API, seconds=1.5, share=0.05),),
    "a proxy's 429 without headers": (Fault(kind="answer", path=API, status=429, html=True, share=0.02),),
    "answers are cut short or are no JSON": (
        Fault(kind="truncate", path=API, methods=("GET",), share=0.1),
        Fault(kind="cut_body", path=API, share=0.1),
        Fault(kind="html", path=API, share=0.1),
    ),
    "everything is slow": (Fault(kind="delay", path=API, seconds=0.7),),
    "media drip": (Fault(kind="drip", path=FILES, bytes_per_s=4000.0),),
    "media fail": (
        Fault(kind="answer", path=FILES, status=503, share=0.5),
        Fault(kind="cut_body", path=FILES, share=0.2),
    ),
    "uploads fail": (
        Fault(kind="answer", path=UPLOADS, status=500, share=0.5),
        Fault(kind="delay", path=UPLOADS, seconds=REQUEST_TIMEOUT_S + 1, share=0.2),
    ),
}
