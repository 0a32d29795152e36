"""Stores statuses: posting, threads, visibility, deleting, editing, boosting."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sandbox.instance import text as texts
from sandbox.instance.accounts import Accounts
from sandbox.instance.entities import Entities
from sandbox.instance.errors import ApiError, ServerFaultError, invalid, not_found
from sandbox.instance.host import Host
from sandbox.instance.media import MediaStore
from sandbox.instance.notifications import Notifications
from sandbox.instance.records import VISIBILITIES, Account, App, Media, Status
from sandbox.instance.streaming import TIMELINE, Hub

REPLY_TO_NOTHING = "The post you are trying to reply to does not appear to exist."


@dataclass(frozen=True, slots=True)
class Draft:
    """The content of a status to post."""

    text: str
    visibility: str = "public"
    spoiler_text: str = ""
    sensitive: bool = False
    language: str | None = "en"
    in_reply_to_id: int | None = None
    media_ids: tuple[int, ...] = ()
    app: App | None = None
    quoted: Status | None = None
    quote_state: str = "accepted"


@dataclass(frozen=True, slots=True)
class _Remembered:
    status_id: int
    known_from: float
    known_until: float


class Statuses:
    """The statuses of an instance, with the rules for visibility and threads."""

    def __init__(self, host: Host, accounts: Accounts, media: MediaStore, entities: Entities, hub: Hub) -> None:
        self._host = host
        self._accounts = accounts
        self._media = media
        self._entities = entities
        self._hub = hub
        self.notifications = Notifications(host, entities, hub, self.parent_of)
        self._by_id: dict[int, Status] = {}
        self._replies: dict[int, list[int]] = {}
        self._keys: dict[tuple[int, str], _Remembered] = {}

    # Reading

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Status]:
        """All statuses, oldest first."""
        with self._host.lock:
            return list(self._by_id.values())

    def of(self, account: Account) -> list[Status]:
        """The statuses of an account, oldest first."""
        return [status for status in self.all() if status.account is account]

    def find(self, status_id: int) -> Status | None:
        return self._by_id.get(status_id)

    def get(self, status_id: int, viewer: Account | None) -> Status:
        """The status with an id. Raises ApiError 404 if it does not exist or is not visible to the viewer."""
        status = self._by_id.get(status_id)
        if status is None or not self.can_see(viewer, status):
            raise not_found()
        return status

    def get_own(self, status_id: int, account: Account) -> Status:
        """The account's own status with an id. Raises ApiError 404 for any other."""
        status = self.get(status_id, account)
        if status.account is not account:
            raise not_found()
        return status

    def can_see(self, viewer: Account | None, status: Status) -> bool:
        """Whether the viewer may see a status. Source: app/policies/status_policy.rb."""
        author = status.account
        if viewer is author:
            return True
        if author.suspended or (viewer is not None and viewer.id in author.blocking):
            return False
        if status.visibility in ("public", "unlisted"):
            return True
        if viewer is None:
            return False
        return viewer in status.mentions or (status.visibility == "private" and author.id in viewer.following)

    def parent_of(self, status: Status) -> Status | None:
        return None if status.in_reply_to_id is None else self._by_id.get(status.in_reply_to_id)

    def replies_to(self, status_id: int) -> list[Status]:
        """The direct replies to a status, oldest first."""
        with self._host.lock:
            return [self._by_id[each] for each in self._replies.get(status_id, [])]

    def ancestors(self, status: Status, viewer: Account | None) -> list[Status]:
        """The visible statuses above a status in its thread, from the start."""
        with self._host.lock:
            found: list[Status] = []
            parent = self.parent_of(status)
            while parent is not None:
                found.append(parent)
                parent = self.parent_of(parent)
            return [each for each in reversed(found) if self.can_see(viewer, each)]

    def descendants(self, status: Status, viewer: Account | None) -> list[Status]:
        """The visible statuses below a status, each reply followed by the replies to it."""
        with self._host.lock:
            found: list[Status] = []
            waiting = [status]
            while waiting:
                found.append(waiting.pop())
                waiting.extend(reversed(self.replies_to(found[-1].id)))
            return [each for each in found[1:] if self.can_see(viewer, each)]

    # Writing

    def post(self, account: Account, draft: Draft, *, key: str | None = None) -> Status:
        """Post as the API does.

        Args:
            key: the Idempotency-Key.

        Raises:
            ApiError: 404 for a deleted parent, 422 for invalid content, 503 while another post with the same key is in
                progress (4.6).
            ServerFaultError: the key was used before (4.6.0 to 4.6.5).
        """
        with self._host.lock:
            parent = self._parent(account, draft)
            if key and (first := self._remembered(account, key)) is not None:
                return first
            media = self._media.take(account, list(draft.media_ids))
            if not draft.text.strip():
                draft = replace(draft, text=draft.spoiler_text, spoiler_text="")
            self._check(draft, media)
            status = self.store(account, draft, media, parent)
            if key:
                now, settings = self._host.clock(), self._host.settings
                known_from = now + settings.idempotency_lag_s
                self._keys[account.id, key] = _Remembered(
                    status.id, known_from, known_from + settings.idempotency_ttl_s
                )
            return status

    def _parent(self, account: Account, draft: Draft) -> Status | None:
        if draft.in_reply_to_id is None:
            return None
        parent = self._by_id.get(draft.in_reply_to_id)
        if parent is None or not self.can_see(account, parent):
            raise ApiError(404, REPLY_TO_NOTHING)
        return parent

    def _remembered(self, account: Account, key: str) -> Status | None:
        """The status that was posted with a key, or None.

        Source: app/services/post_status_service.rb. Up to 4.5 a key is stored after the status, so a retry in between
        posts again; from 4.6 a lock is held during this time.
        """
        remembered = self._keys.get((account.id, key))
        now = self._host.clock()
        if remembered is None or now >= remembered.known_until:
            return None
        numbers = self._host.settings.version_numbers
        if now < remembered.known_from:
            if numbers >= (4, 6, 0):
                raise ApiError(503, "There was a temporary problem serving your request, please try again")
            return None
        if self._host.settings.repeats_answer_500:
            raise ServerFaultError
        return self.get(remembered.status_id, account)

    def _check(self, draft: Draft, media: list[Media]) -> None:
        if draft.visibility not in VISIBILITIES:
            raise ApiError(422, f"'{draft.visibility}' is not a valid visibility")
        if not draft.text.strip() and not media:
            raise invalid("Text can't be blank")
        self._check_length(draft.text, draft.spoiler_text)

    def _check_length(self, text: str, spoiler_text: str) -> None:
        settings = self._host.settings
        limit, whole = settings.max_characters, settings.profile.counts_code_points
        if (len(spoiler_text + text) if whole else texts.count(text, spoiler_text)) > limit:
            raise invalid(f"Text character limit of {limit} exceeded")

    def store(
        self,
        account: Account,
        draft: Draft,
        media: list[Media],
        parent: Status | None,
        *,
        reblog: Status | None = None,
    ) -> Status:
        """Post without checks."""
        with self._host.lock:
            parsed = self._parse(draft.text)
            status = Status(
                id=self._host.next_id(),
                account=account,
                text=draft.text,
                content=parsed.html,
                created_at=self._host.now(),
                visibility=draft.visibility,
                spoiler_text=draft.spoiler_text,
                sensitive=draft.sensitive or bool(draft.spoiler_text),
                language=draft.language,
                in_reply_to_id=parent.id if parent else None,
                in_reply_to_account_id=parent.account.id if parent else None,
                mentions=tuple(self._accounts.get(each) for each in parsed.mention_ids),
                tags=parsed.tags,
                media=media,
                app=draft.app,
                reblog=reblog,
                quoted=draft.quoted,
                quote_state=draft.quote_state,
            )
            for each in media:
                each.status_id = status.id
            self._by_id[status.id] = status
            if parent is not None:
                self._replies.setdefault(parent.id, []).append(status.id)
                parent.n_replies += 1
            self._deliver(status, "update")
            return status

    def _parse(self, text: str) -> texts.Parsed:
        def find(username: str, domain: str | None) -> texts.Mentioned | None:
            account = self._accounts.find(username, domain)
            if account is None:
                return None
            return texts.Mentioned(account.id, account.username, account.acct, self._entities.account_url(account))

        return texts.parse(text, find, tag_base=f"{self._host.base_url}/tags/")

    def _deliver(self, status: Status, event: str) -> None:
        """Deliver a status: first to home timelines, then to mentioned accounts."""
        hearers = {self._accounts.get(each.id) for each in self._accounts.followers_of(status.account)} | {
            status.account
        }
        if event == "status.update":
            hearers |= set(status.mentions)
        for hearer in hearers:
            if self.can_see(hearer, status):
                self._hub.publish(hearer, TIMELINE, event, self._entities.status(status, hearer))
        for mentioned in status.mentions:
            if self.can_see(mentioned, status):
                self.notifications.add(mentioned, "mention", status.account, status)

    def edit(self, status: Status, draft: Draft, media: list[Media] | None) -> Status:
        """Change text, content warning, language and, if given, attachments; visibility and parent are not changed.

        Raises:
            ApiError: 422 for invalid content.
        """
        with self._host.lock:
            kept = status.media if media is None else media
            if not draft.text.strip() and not kept:
                raise invalid("Text can't be blank")
            self._check_length(draft.text, draft.spoiler_text)
            parsed = self._parse(draft.text)
            status.text, status.content, status.tags = draft.text, parsed.html, parsed.tags
            status.mentions = tuple(self._accounts.get(each) for each in parsed.mention_ids)
            status.spoiler_text = draft.spoiler_text
            status.sensitive = draft.sensitive or bool(draft.spoiler_text)
            status.language = draft.language
            status.media = kept
            for each in kept:
                each.status_id = status.id
            status.edited_at = self._host.now()
            self._deliver(status, "status.update")
            return status

    def delete(self, status: Status, *, delete_media: bool = False) -> None:
        """Delete a status, its boosts and notifications; its attachments can be reused unless `delete_media` is set."""
        with self._host.lock:
            self._by_id.pop(status.id, None)
            for reply_id in self._replies.pop(status.id, []):
                self._by_id[reply_id].in_reply_to_id = None
            if status.in_reply_to_id is not None and (parent := self.parent_of(status)) is not None:
                self._replies[parent.id].remove(status.id)
                parent.n_replies -= 1
            for media in status.media:
                media.status_id = None
                if delete_media:
                    self._media.delete(media)
            self.notifications.forget(status)
            hearers = {*self._accounts.followers_of(status.account), status.account, *status.mentions}
            for hearer in hearers:
                self._hub.publish(hearer, TIMELINE, "delete", self._host.shown_id(status.id))
            for boost in [each for each in self._by_id.values() if each.reblog is status]:
                self.delete(boost)

    def favourite(self, account: Account, status: Status) -> None:
        with self._host.lock:
            status.favourited_by.add(account.id)
            self.notifications.add(status.account, "favourite", account, status)

    def reblog(self, account: Account, status: Status) -> Status:
        """Boost a status; a second boost returns the first. Raises ApiError 404 if it may not be boosted."""
        with self._host.lock:
            if status.visibility not in ("public", "unlisted"):
                raise not_found()
            if (boost := self.boost_of(account, status)) is not None:
                return boost
            status.reblogged_by.add(account.id)
            boost = self.store(account, Draft("", visibility=status.visibility), [], None, reblog=status)
            self.notifications.add(status.account, "reblog", account, status)
            return boost

    def boost_of(self, account: Account, status: Status) -> Status | None:
        return next((each for each in self.of(account) if each.reblog is status), None)
