"""Creates, filters and lists notifications."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta

from sandbox.instance.entities import Entities
from sandbox.instance.errors import not_found
from sandbox.instance.host import Host
from sandbox.instance.records import Account, Notification, Status
from sandbox.instance.streaming import NOTIFICATIONS, Hub

NEW_ACCOUNT = timedelta(days=30)
POLICIES = ("accept", "filter", "drop")


@dataclass(frozen=True, slots=True)
class Page:
    """Pagination parameters. Source: app/models/concerns/paginable.rb."""

    limit: int
    max_id: int | None = None
    since_id: int | None = None
    min_id: int | None = None

    def of(self, ids: list[int]) -> list[int]:
        """Select a page of ids, newest first: `min_id` the oldest above it, `since_id` the newest."""
        low = self.min_id if self.min_id is not None else self.since_id
        inside = sorted(
            each for each in ids if (self.max_id is None or each < self.max_id) and (low is None or each > low)
        )
        chosen = inside[: self.limit] if self.min_id is not None else inside[max(0, len(inside) - self.limit) :]
        return chosen[::-1]


class Notifications:
    """The notifications of all local accounts."""

    def __init__(self, host: Host, entities: Entities, hub: Hub, parent_of: Callable[[Status], Status | None]) -> None:
        self._host = host
        self._entities = entities
        self._hub = hub
        self._parent_of = parent_of
        self._by_account: dict[int, dict[int, Notification]] = {}
        self._notified: set[tuple[int, str, int, int | None]] = set()  # account, type, sender, status
        self._last_id = host.settings.first_notification_id - 1
        self._hold_next = 0

    def add(self, account: Account, type_: str, sender: Account, status: Status | None = None) -> Notification | None:
        """Notify `account`; None if it is not notified (own action, blocked, muted, by policy, notified before)."""
        with self._host.lock:
            if account is sender or account.domain is not None or self._is_unwanted(account, sender):
                return None
            told = (account.id, type_, sender.id, status.id if status else None)
            if told in self._notified:
                return None
            policy = self._policy_for(account, type_, sender, status)
            if policy == "drop":
                return None
            self._notified.add(told)
            numbered = self._host.settings.profile.name == "mastodon"  # elsewhere ids tell the time
            self._last_id = self._last_id + 1 if numbered else self._host.next_id()
            notification = Notification(self._last_id, type_, account, sender, self._host.now(), status)
            notification.filtered = policy == "filter"
            notification.held = self._hold_next > 0
            self._hold_next = max(0, self._hold_next - 1)
            self._by_account.setdefault(account.id, {})[notification.id] = notification
            if not notification.held:
                self._publish(notification)
            return notification

    def hold_next(self, n: int = 1) -> None:
        """Assign ids to the next `n` notifications, but show them only after `release`.

        So a lower id appears after a higher one, as when a database commits out of order.
        """
        with self._host.lock:
            self._hold_next += n

    def release(self) -> None:
        """Show all held notifications."""
        with self._host.lock:
            for notification in self._all():
                if notification.held:
                    notification.held = False
                    self._publish(notification)

    def _publish(self, notification: Notification) -> None:
        if not notification.filtered:
            payload = self._entities.notification(notification)
            self._hub.publish(notification.account, NOTIFICATIONS, "notification", payload)

    def _all(self) -> Iterator[Notification]:
        for notifications in self._by_account.values():
            yield from notifications.values()

    def _of(self, account: Account) -> list[Notification]:
        return list(self._by_account.get(account.id, {}).values())

    @staticmethod
    def _is_unwanted(account: Account, sender: Account) -> bool:
        return sender.id in account.blocking or sender.id in account.muting or account.id in sender.blocking

    def _policy_for(self, account: Account, type_: str, sender: Account, status: Status | None) -> str:
        """Source: app/services/notify_service.rb: FilterCondition, DropCondition."""
        if sender.id in account.accepted:
            return "accept"
        stranger = sender.id not in account.following
        private = type_ == "mention" and status is not None and status.visibility == "direct"
        if not self._host.settings.profile.filters_notifications:
            return "accept"
        applies = {
            "for_not_following": stranger,
            "for_not_followers": account.id not in sender.following,
            "for_new_accounts": self._host.now() - sender.created_at < NEW_ACCOUNT,
            "for_private_mentions": private and stranger and not self._answers(status, account, sender),
            "for_limited_accounts": False,  # no accounts are limited here
            "for_bots": sender.bot,
        }
        return max(
            (account.policy[name] for name, holds in applies.items() if holds), key=POLICIES.index, default="accept"
        )

    def _answers(self, status: Status | None, account: Account, sender: Account) -> bool:
        """Whether a private mention replies, in its thread, to a status that `account` sent to `sender`."""
        while status is not None and (status := self._parent_of(status)) is not None:
            if status.account is account and status.visibility == "direct" and sender in status.mentions:
                return True
        return False

    def forget(self, status: Status) -> None:
        """Delete the notifications of a deleted status."""
        with self._host.lock:
            for notifications in self._by_account.values():
                for notification in [each for each in notifications.values() if each.status is status]:
                    del notifications[notification.id]

    def page(
        self,
        account: Account,
        page: Page,
        *,
        types: Collection[str] = (),
        exclude_types: Collection[str] = (),
        include_filtered: bool = False,
        sender_id: int | None = None,
    ) -> list[Notification]:
        """A page of notifications, newest first; empty `types` means all."""
        with self._host.lock:
            mine = self._by_account.get(account.id, {})
            ids = [
                each.id
                for each in mine.values()
                if not each.held
                and (include_filtered or not each.filtered)
                and (not types or each.type in types)
                and each.type not in exclude_types
                and (sender_id is None or each.sender.id == sender_id)
            ]
            return [mine[each] for each in page.of(ids)]

    def get(self, account: Account, notification_id: int) -> Notification:
        """The notification with an id. Raises ApiError 404 if the account has none."""
        found = self._by_account.get(account.id, {}).get(notification_id)
        if found is None or found.held:
            raise not_found()
        return found

    def dismiss(self, account: Account, notification_id: int) -> None:
        with self._host.lock:
            self.get(account, notification_id)
            del self._by_account[account.id][notification_id]

    def clear(self, account: Account) -> None:
        with self._host.lock:
            self._by_account.pop(account.id, None)

    def requests(self, account: Account) -> dict[Account, list[Notification]]:
        """Filtered notifications by sender, latest sender first."""
        by_sender: dict[Account, list[Notification]] = {}
        with self._host.lock:
            for notification in sorted(self._of(account), key=lambda each: each.id, reverse=True):
                if notification.filtered and not notification.held:
                    by_sender.setdefault(notification.sender, []).append(notification)
        return by_sender

    def accept(self, account: Account, sender: Account) -> None:
        """Accept a sender's request: show filtered and future notifications."""
        with self._host.lock:
            account.accepted.add(sender.id)
            for notification in self._of(account):
                if notification.sender is sender:
                    notification.filtered = False
            self._hub.publish(account, NOTIFICATIONS, "notifications_merged", "1")

    def dismiss_request(self, account: Account, sender: Account) -> None:
        with self._host.lock:
            for notification in self._of(account):
                if notification.sender is sender and notification.filtered:
                    del self._by_account[account.id][notification.id]
