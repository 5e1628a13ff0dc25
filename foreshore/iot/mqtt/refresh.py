"""Asking a custom authorizer again while its connection lives, so that policies may change. Pure.

Source: AWS IoT developer guide, "Creating and managing custom authorizers": when `refreshAfterInSeconds` has passed the
function is invoked again; a failure ends the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreshore.iot.mqtt import reason
from foreshore.iot.mqtt.access import ConnectDecision

if TYPE_CHECKING:
    from foreshore.iot.mqtt.broker import Core
    from foreshore.iot.mqtt.connection import Connection


def refresh_later(broker: Core, connection: Connection, decision: ConnectDecision) -> None:
    """Ask access again `decision.refresh_s` seconds from now, for as long as the connection is the session's."""
    if decision.refresh_s is not None:
        broker.wheel.add(broker.now + decision.refresh_s, lambda: _ask(broker, connection))


def _ask(broker: Core, connection: Connection) -> None:
    session = connection.session
    if session is None or session.connection is not connection:
        return
    answer = broker.access.connect(connection.peer)
    if isinstance(answer, ConnectDecision):
        _take(broker, connection, answer)
    else:
        broker.defer(answer, lambda decided: _take(broker, connection, decided))


def _take(broker: Core, connection: Connection, decision: ConnectDecision) -> None:
    session = connection.session
    if session is None or session.connection is not connection:
        return
    if not decision.allowed:
        connection.close(reason.NOT_AUTHORIZED, "AUTH_ERROR")
        broker.wake()
        return
    session.identity = decision.identity
    connection.routes.clear()
    broker.reassess(session)
    refresh_later(broker, connection, decision)
