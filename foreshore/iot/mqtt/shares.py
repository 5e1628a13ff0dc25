"""Messages of share groups that wait for a member, and who takes them over (MQTT 5, section 4.8.2). Pure.

A QoS 1 message that finds no member of its group connected waits in the queue of a persistent member. It is the
group's, not the member's: the first member to come takes it, and when the member's session ends before, another gets
it (section 4.8.2: "the Server SHOULD send the Application Message to another Client").
"""

from __future__ import annotations

from collections import deque

from foreshore.iot.mqtt.session import Delivery, Session


class Waiting:
    """Which deliveries wait for which `$share/` filter, and in whose queue."""

    def __init__(self) -> None:
        self._shares: dict[str, dict[Session, dict[int, Delivery]]] = {}

    def note(self, filter: str, session: Session, delivery: Delivery) -> None:
        """A delivery was put into an absent member's queue."""
        self._shares.setdefault(filter, {}).setdefault(session, {})[id(delivery)] = delivery

    def take(self, filter: str, taker: Session, most: int) -> list[Delivery]:
        """So many of what waits for a filter in the queues of others that are absent; they leave those queues."""
        taken: list[Delivery] = []
        holders = self._shares.get(filter, {})
        for holder, marks in list(holders.items()):
            if holder is taker or holder.connection is not None:
                marks.clear()
            elif len(taken) < most:
                taken += self._pull(holder, marks, most - len(taken))
            if not marks:
                del holders[holder]
        if not holders:
            self._shares.pop(filter, None)
        return taken

    def abandon(self, session: Session) -> list[tuple[str, Delivery]]:
        """A session ends: what waited in its queue for its groups, with the filter of each."""
        left: list[tuple[str, Delivery]] = []
        for filter, holders in list(self._shares.items()):
            marks = holders.pop(session, None)
            if not holders:
                del self._shares[filter]
            if marks:
                left += [(filter, delivery) for delivery in self._pull(session, marks, len(marks))]
        return left

    def settle(self, session: Session) -> None:
        """A member is connected again: what waits in its queue is its own from now on."""
        for filter, holders in list(self._shares.items()):
            holders.pop(session, None)
            if not holders:
                del self._shares[filter]

    @staticmethod
    def _pull(holder: Session, marks: dict[int, Delivery], most: int) -> list[Delivery]:
        """The oldest of them. Deliveries are known by identity: one that left the queue since then is not in it."""
        pulled = [delivery for delivery in holder.queue if id(delivery) in marks][:most]
        gone = {id(delivery) for delivery in pulled}
        kept = [delivery for delivery in holder.queue if id(delivery) not in gone]
        holder.queue = deque(kept) if kept else ()
        for each in gone if len(pulled) == most else list(marks):
            del marks[each]
        holder.queued_bytes -= sum(delivery.message.size() for delivery in pulled)
        return pulled
