"""Headers and URLs as strangers send them, from absurd to hostile; a server that sends any bytes."""

from __future__ import annotations

import socket
import threading

from hypothesis import strategies as st

HEADERS = (
    "Retry-After",
    "X-RateLimit-Reset",
    "X-RateLimit-Remaining",
    "Date",
    "Location",
    "Content-Type",
    "Content-Length",
    "Content-Encoding",
    "Transfer-Encoding",
    "Set-Cookie",
    "Link",
    "Connection",
    "Keep-Alive",
    "Refresh",
    "WWW-Authenticate",
    "X-Robots-Tag",
)
ABSURD = (
    "",
    " ",
    "-1",
    "1e400",
    "9" * 5000,
    "٣",
    "nan",
    "Wed, 21 Oct 2015 07:28:00 +999999",
    "Wed, 21 Oct 99999 07:28:00 GMT",
    "Mon, 01 Jan 0001 00:00:00 +2359",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "Wed, 21 Oct 2015 07:28:00 " + "9" * 5000,
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2026-03-02T12:00:00+99:99",
    "identity, br, gzip",
    "gzip",
    "deflate, deflate, deflate, deflate, deflate, deflate",
    "chunked, chunked",
    "text/html; charset=undefined",
    "text/html; charset=" + "x" * 9000,
    "a=b; expires=Wed, 99 Foo 0000 99:99:99 GMT; domain=..; path=" + "/" * 3000,
    "a=b; max-age=" + "9" * 400,
    "=;=;=;;;,,,",
    '<x>; rel="next", <',
    "\x9b31m\x85\u00ff",
)
URLS = (
    "http://8080\\[.\\80@",
    "http://[",
    "http://]/",
    "http://[::1",
    "http://[::1%25lo]:1/",
    "http://[v1.x]/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:-1/",
    "http://127.0.0.1:٣/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:" + "9" * 5000 + "/",
    "http://a..b/",
    "http://.example/",
    "http://" + "a" * 64 + ".example/",
    "http://" + "a." * 200 + "example/",
    "http://xn--/",
    "http://xn--zzzzzzzzzzzz/",
    "http://\u0130\u0301.example/",
    "http://\u00df\u200d.example/",
    "http://\ud800/",
    "http://127.0.0.1:1/\ud800",
    "http://127.0.0.1:1/?\udfff",
    "http://127.0.0.1\x00/",
    "http://127.0.0.1:1/\x00\r\nX: y",
    "http://127.0.0.1:1\r\nHost: x/",
    "http://%00/",
    "http://127.0.0.1%0a/",
    "http:///x",
    "http://",
    "http:",
    "//",
    "http://\\\\127.0.0.1/",
    "http://user:pa ss@127.0.0.1:1/",
    "http://1/",
    "http://0x7f000001:1/",
    "http://127.1:1/",
    "http://*/",
    "http://\u2488.example/",
    "http://\u3002/",
    "HTTP://127.0.0.1:1/" + "%" * 50,
    "http://127.0.0.1:1/" + "a" * 70_000,
    "http://\u202e127.0.0.1/",
    "http://\ufdfa.example/",
)
_WORDS = "http: https: // / \\ [ ] @ : % %00 ::1 127.0.0.1 8080 :99999 .. . xn-- é ? # ;"
_LETTERS = ("a" * 64, "\u0130", "\u200d", "\ud800", "\x00", "\r\n", " ", "\u3002", "\uff0e", "\u202e")
_PIECES = st.sampled_from([*_WORDS.split(), *_LETTERS])
any_url = st.one_of(
    st.sampled_from(URLS),
    st.lists(_PIECES, max_size=8).map("".join),
    st.lists(_PIECES, max_size=8).map(lambda pieces: "http://" + "".join(pieces)),
    st.text(st.characters(), max_size=30),
)
any_value = st.one_of(
    st.sampled_from(ABSURD), any_url, st.text(st.characters(max_codepoint=0x24F), max_size=40), st.integers().map(str)
)


class RawServer:
    """Answers each connection with the same bytes, then closes it."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(self.answer)
                except OSError:
                    continue

    def close(self) -> None:
        self._listener.close()


def raw(text: str) -> bytes:
    """A header's value as it may go over the wire: without line breaks, which would end it."""
    return text.replace("\r", "").replace("\n", "").encode("utf-8", "surrogatepass")


def head(status: bytes, headers: list[tuple[str, str]]) -> bytes:
    """The first lines of an answer, up to the empty one."""
    lines = [b"HTTP/1.1 " + status, *(name.encode() + b": " + raw(value) for name, value in headers)]
    return b"".join(line + b"\r\n" for line in [*lines, b""])
