"""The rules engine: finds rules by topic, evaluates them and queues their actions. Shell.

A message is decoded once, whatever number of rules read it. Evaluation happens in the caller's turn of the loop and
only queues the actions, which `running.py` serves; rules with external functions are evaluated in a thread there.

The statements and their compilation know nothing of this module.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import orjson

from foreshore.errors import AwsError, PeerError
from foreshore.http import Client, Request, Response
from foreshore.iot.mqtt.topics import TopicTrie, strip_basic_ingest
from foreshore.iot.rules.actions.aws import Aws
from foreshore.iot.rules.actions.batches import Batches
from foreshore.iot.rules.actions.call import World
from foreshore.iot.rules.actions.signing import Credentials
from foreshore.iot.rules.definition import Definition
from foreshore.iot.rules.destinations import Destination, Destinations
from foreshore.iot.rules.executions import entry
from foreshore.iot.rules.explain import explain_recorded
from foreshore.iot.rules.lookups import Lookups, Things
from foreshore.iot.rules.message import Message, Result
from foreshore.iot.rules.running import LiveRule, Record, Runner
from foreshore.seams import EmitLog, EmitSpan, Invoke, LogLine, Publication, Publish
from foreshore.traces.recorder import new_trace_id

STOP_GRACE_S = 3.0
MAX_TOPICS = 4096
"""Topics whose rules are remembered; a device's topics come again and again."""

BASIC_INGEST_FILTER = "$aws/rules/#"

_FORMAT = {0: "UNSPECIFIED_BYTES", 1: "UTF8_DATA"}


class Listeners(Protocol):
    """The part of a broker that the engine hangs on."""

    def add_listener(self, filter: str, callback: Callable[[Publication], None]) -> Any: ...
    def remove_listener(self, handle: Any) -> None: ...


def environment_credentials() -> Credentials:
    """The environment's access key, or the `test` key that local backends take."""
    key = os.environ.get("AWS_ACCESS_KEY_ID", "")
    if not key:
        return Credentials("test", "test")
    return Credentials(key, os.environ.get("AWS_SECRET_ACCESS_KEY", ""), os.environ.get("AWS_SESSION_TOKEN", ""))


def _stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


class Engine:
    """All rules of one account and region. `publish` puts a message on the bus, `invoke` calls Lambda; `things` answers
    get_thing_shadow and get_registry_data; `endpoint_url` is where a destination's confirmation comes back.

    `check_roles` refuses an action whose role the backend's IAM does not know, does not let iot.amazonaws.com assume,
    or does not allow the call. `strict_live` is for `compile`.
    """

    def __init__(
        self,
        *,
        region: str,
        account: str,
        publish: Publish,
        invoke: Invoke | None,
        backend_url: Callable[[], str],
        span: EmitSpan,
        log: EmitLog,
        check_roles: bool = False,
        strict_live: bool = False,
        things: Things | None = None,
        endpoint_url: Callable[[], str] = lambda: "http://127.0.0.1:4566",
        credentials: Callable[[], Credentials] = environment_credentials,
    ) -> None:
        self.region = region
        self.account = account
        self.strict_live = strict_live
        self.endpoint_url = endpoint_url
        self.things = things
        self._publish = publish
        self._log = log
        self._client = Client()
        self.aws = Aws(
            self._client, region=region, backend_url=backend_url, credentials=credentials, stamp=_stamp,
            tls=ssl.create_default_context,
        )  # fmt: skip
        self.destinations = Destinations(region, account)
        self._batches = Batches()
        self._world = World(
            region, account, publish, invoke, self.aws, self._client, self._batches, self.destinations,
            lambda: str(uuid.uuid4()), endpoint_url,
        )  # fmt: skip
        self._runner = Runner(self._world, republish=self._republish, span=span, log=log, check_roles=check_roles)
        self._rules: dict[str, LiveRule] = {}
        self._trie: TopicTrie[LiveRule] = TopicTrie(hash_matches_parent=False)
        self._retired: set[LiveRule] = set()
        self._found: dict[str, list[LiveRule]] = {}
        self._broker: Listeners | None = None
        self._basic_handle: Any = None
        self._lookups: Lookups | None = None
        self._last_publication: Publication | None = None
        self._last_message: Message | None = None
        self._depth = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # the set of rules

    def set_rule(self, name: str, payload: dict[str, Any]) -> None:
        """Create or replace a rule. Raises AwsError (SqlParseException, InvalidRequestException) or NotEmulated.

        Messages that the old one has queued are still served by it.
        """
        live = LiveRule(Definition(name, payload, strict_live=self.strict_live))
        old = self._rules.get(name)
        if old is not None:
            if old.definition.rule.is_same(live.definition.rule):
                live.records.extend(old.records)
            self._retire(old)
        self._rules[name] = live
        self._hook(live)

    def remove_rule(self, name: str) -> None:
        """Forget a rule; one that is not there is fine."""
        live = self._rules.pop(name, None)
        if live is not None:
            self._retire(live)

    def _retire(self, live: LiveRule) -> None:
        """A rule that is gone still serves what it has queued."""
        self._unhook(live)
        self._retired = {other for other in self._retired if other.workers}
        if live.workers:
            self._retired.add(live)

    def enable(self, name: str) -> None:
        """Raises AwsError (ResourceNotFoundException)."""
        live = self._get(name)
        live.enabled = True
        self._unhook(live)
        self._hook(live)

    def disable(self, name: str) -> None:
        """Raises AwsError (ResourceNotFoundException)."""
        live = self._get(name)
        live.enabled = False
        self._unhook(live)

    def rules(self) -> dict[str, dict[str, Any]]:
        """Every rule's payload, `ruleDisabled` as it is now."""
        return {name: {**r.definition.payload, "ruleDisabled": not r.enabled} for name, r in self._rules.items()}

    def stats(self) -> dict[str, dict[str, Any]]:
        """Every rule's counters and settings."""
        return {name: live.describe() for name, live in self._rules.items()}

    def filters(self) -> list[str]:
        """The topic filters of the enabled rules."""
        found = (r.definition.rule.topic_filter for r in self._rules.values() if r.enabled)
        return sorted({filter for filter in found if filter is not None})

    def last(self, name: str) -> list[dict[str, Any]]:
        """The last messages that a rule saw, newest first. Raises AwsError (ResourceNotFoundException)."""
        live = self._get(name)
        return [_describe(live, record) for record in reversed(live.records)]

    def _get(self, name: str) -> LiveRule:
        live = self._rules.get(name)
        if live is None:
            raise AwsError("ResourceNotFoundException", f"Rule {name} was not found.", 404)
        return live

    # where messages come from

    def attach(self, broker: Listeners) -> None:
        """Listen on a broker: one listener for each enabled rule's filter, and one for Basic Ingest."""
        self._broker = broker
        self._basic_handle = broker.add_listener(BASIC_INGEST_FILTER, self.on_message)
        for live in self._rules.values():
            self._unhook(live)
            self._hook(live)

    def _hook(self, live: LiveRule) -> None:
        self._found.clear()
        filter = live.definition.rule.topic_filter
        if filter is None or not live.enabled:
            return
        self._trie.add(filter, live)
        if self._broker is not None:
            live.handle = self._broker.add_listener(filter, partial(self._from_listener, live))

    def _unhook(self, live: LiveRule) -> None:
        self._found.clear()
        filter = live.definition.rule.topic_filter
        if filter is not None:
            self._trie.remove(filter, live)
        if self._broker is not None and live.handle is not None:
            self._broker.remove_listener(live.handle)
            live.handle = None

    def on_message(self, publication: Publication) -> None:
        """A message for whatever rules its topic finds; `$aws/rules/<rule>/…` is Basic Ingest."""
        topic = publication.topic
        found = self._found.get(topic)
        if found is None:
            basic = strip_basic_ingest(topic)
            if basic is not None:
                self._basic_ingest(publication, *basic)
                return
            if len(self._found) >= MAX_TOPICS:
                self._found.clear()
            found = self._found[topic] = self._trie.match(topic)
        for live in found:
            self._from_listener(live, publication)

    def _basic_ingest(self, publication: Publication, name: str, topic: str) -> None:
        live = self._rules.get(name)
        if live is not None and live.enabled and topic:
            self._from_listener(live, publication)
            return
        message = self._message(publication)
        self._log(
            entry(
                "RuleNotFound", level="ERROR", now_ns=time.time_ns(), account=self.account, rule=name, message=message,
                trace_id=(publication.traceparent or "")[3:35],
                details=f"Rule not found: {name}. {'It is disabled.' if live else 'No such rule exists.'}",
            )
        )  # fmt: skip

    def _message(self, publication: Publication) -> Message:
        if publication is self._last_publication and self._last_message is not None:
            return self._last_message
        parent = publication.traceparent
        trace = parent[3:35] if parent is not None and len(parent) == 55 else new_trace_id()
        format_ = publication.payload_format
        message = Message(
            publication.topic,
            publication.payload,
            publication.client_id,
            publication.principal,
            publication.source_ip,
            publication.timestamp_ms or time.time_ns() // 1_000_000,
            trace,
            self.account,
            publication.content_type,
            _FORMAT.get(format_) if format_ is not None else None,
            publication.response_topic,
            publication.correlation_data,
            publication.user_properties,
            self._lookups,
        )
        self._last_publication = publication
        self._last_message = message
        return message

    # evaluation

    def _from_listener(self, live: LiveRule, publication: Publication) -> None:
        """Evaluate one rule and queue its actions. Never raises: a rule's failure is its own."""
        start = time.time_ns()
        message = self._message(publication)
        record = Record(message, message.trace_id or "", self._runner.new_span_id(), self._depth, start)
        live.matched += 1
        live.records.append(record)
        if live.definition.has_external:
            self._runner.enqueue(live, record)
            return
        try:
            result = live.definition.rule.apply(message)
        except Exception as error:
            # A bug of the evaluator's: the other rules and the publisher must not feel it.
            result = Result(False, error=f"{type(error).__name__}: {error}")
            asyncio.get_running_loop().call_exception_handler({"message": live.span_name, "exception": error})
        record.result = result
        self._runner.evaluated(live, record, result, (publication.traceparent or "")[36:52])
        if result.fired:
            self._runner.enqueue(live, record)

    def _republish(self, depth: int, publication: Publication) -> None:
        """Publish so that the rules which see it in the same turn know how often it was republished."""
        before, self._depth = self._depth, depth
        try:
            self._publish(publication)
        finally:
            self._depth = before

    # destinations

    def create_destination(self, configuration: dict[str, Any]) -> Destination:
        """CreateTopicRuleDestination; an HTTP one is asked for its confirmation at once. Raises AwsError."""
        made = self.destinations.create(configuration, uuid=str(uuid.uuid4()), token=_token(), now=time.time())
        self._confirm(made)
        return made

    def update_destination(self, arn: str, status: str) -> Destination:
        """UpdateTopicRuleDestination. Raises AwsError."""
        found = self.destinations.update(arn, status, token=_token(), now=time.time())
        if status == "IN_PROGRESS":
            self._confirm(found)
        return found

    def confirm_destination(self, token: str) -> Destination:
        """ConfirmTopicRuleDestination. Raises AwsError."""
        return self.destinations.confirm(token, time.time())

    def _confirm(self, destination: Destination) -> None:
        if destination.status == "IN_PROGRESS":
            task = asyncio.ensure_future(self._post_confirmation(destination))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _post_confirmation(self, destination: Destination) -> None:
        url = destination.properties["confirmationUrl"]
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        body = destination.confirmation(f"{self.endpoint_url()}/confirmdestination/{destination.token}")
        headers = [
            (b"Content-Type", b"application/json"),
            (b"x-amz-rules-engine-message-type", b"DestinationConfirmation"),
            (b"x-amz-rules-engine-destination-arn", destination.arn.encode()),
        ]
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            response = await self._client.fetch(
                "POST", parts.hostname or "", parts.port or (443 if tls else 80), target, headers, orjson.dumps(body),
                ssl=ssl.create_default_context() if tls else None, connect_timeout=3.0, timeout=10.0,
            )  # fmt: skip
        except (OSError, TimeoutError, PeerError) as error:
            self.destinations.failed(destination.arn, f"The confirmation could not be sent: {error}", time.time())
            return
        if response.status >= 300:
            self.destinations.failed(destination.arn, f"The confirmation got HTTP {response.status}.", time.time())

    # the console's and the command line's view

    def admin(self, request: Request) -> Response:
        """GET /_foreshore/rules lists the rules, GET /_foreshore/rules/<name> gives one with its last messages."""
        name = unquote(request.raw_path.removeprefix("/_foreshore/rules").strip("/"))
        try:
            if not name:
                found: Any = {"rules": [live.describe() for live in self._rules.values()]}
            else:
                found = {**self._get(name).describe(), "last": self.last(name)}
            status = 200
        except AwsError as error:
            status, found = error.status, {"code": error.code, "message": error.message}
        return Response(status, [(b"Content-Type", b"application/json")], orjson.dumps(found, default=str))

    # life

    async def start(self) -> None:
        """Ready the external functions; may be called twice."""
        self._runner.stopping = False
        if self._lookups is None:
            self._lookups = Lookups(asyncio.get_running_loop(), self.aws, self._world.invoke, self.things)

    async def stop(self) -> None:
        """Stop listening, give queued actions a few seconds, then let go; may be called twice."""
        self._runner.stopping = True
        if self._broker is not None:
            for live in self._rules.values():
                if live.handle is not None:
                    self._broker.remove_listener(live.handle)
                    live.handle = None
            if self._basic_handle is not None:
                self._broker.remove_listener(self._basic_handle)
            self._broker = self._basic_handle = None
        await self._batches.stop()
        running = self._workers() | self._tasks
        if running:
            _, late = await asyncio.wait(running, timeout=STOP_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for live in [*self._rules.values(), *self._retired]:
            left = len(live.pending) + len(live.overflow)
            if left:
                text = f"{left} queued messages were not served before the stop"
                self._log(LogLine(time.time_ns(), "rules", live.definition.name, "WARN", "", text))
                live.pending.clear()
                live.overflow.clear()
        self._lookups = None
        await self._client.close()

    async def idle(self) -> None:
        """Wait until no action is queued or running."""
        while running := self._workers():
            await asyncio.wait(running)

    def _workers(self) -> set[asyncio.Task[None]]:
        return {task for live in [*self._rules.values(), *self._retired] for task in live.workers}


def _token() -> str:
    return base64.urlsafe_b64encode(os.urandom(30)).decode()


def _describe(live: LiveRule, record: Record) -> dict[str, Any]:
    """A record as plain values, with its explanation."""
    message, result, rule = record.message, record.result, live.definition.rule
    outcomes = [outcome.describe() for outcome in record.outcomes]
    found: dict[str, Any] = {
        "time": message.timestamp_ms,
        "topic": message.topic,
        "traceId": record.trace_id,
        "clientId": message.client_id,
        "payload": message.payload[:4096].decode("utf-8", "replace"),
        "fired": result.fired if result else False,
        "error": result.error if result else "still being evaluated",
        "actions": outcomes,
    }
    if result is not None:
        found["output"] = result.payload[:4096].decode("utf-8", "replace") if result.fired else ""
        found["text"] = explain_recorded(rule, message, result, outcomes)
    return found
