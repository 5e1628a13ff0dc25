"""Random recipes, documents and IPC requests get errors, never a crash or a hang; what the fuzzer kept is replayed."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import UserError
from foreshore.greengrass.configuration import Configuration, from_record, to_record
from foreshore.greengrass.eventstream import INT32, STRING, Header, encode
from foreshore.greengrass.nucleus_settings import read_nucleus

FUZZ = Path(__file__).parents[1] / "fuzz"
sys.path.insert(0, str(FUZZ))

from greengrass_targets import ACCESS, TARGETS  # noqa: E402

MUTATIONS = {"recipe": 60, "deployment": 150, "ipc": 40}
WORDS = [
    b"null",
    b"{}",
    b"[]",
    b"-1",
    b"1e400",
    b'""',
    b"\xff",
    b"{a:b:c}",
    b"'",
    b"*",
    b"&x",
    b"\0",
    b"9" * 40,
    b"/",
    b": ",
]


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_and_its_neighbourhood(target: str) -> None:
    chance = random.Random(target)
    inputs = [path.read_bytes() for path in sorted((FUZZ / "corpus" / target).iterdir())]
    assert inputs
    for data in inputs:
        TARGETS[target](data)
        for _ in range(MUTATIONS[target]):
            TARGETS[target](mutate(data, chance, inputs))


def mutate(data: bytes, chance: random.Random, inputs: list[bytes]) -> bytes:
    """Flip, cut, repeat, replace a word or join."""
    made = bytearray(data or b"\0")
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(made))
        match chance.randrange(5):
            case 0:
                made[place] = chance.choice((0, 1, 0x22, 0x7B, 0x80, 0xFF, chance.randrange(256)))
            case 1:
                del made[place : place + chance.randrange(1, 9)]
            case 2:
                made[place:place] = made[place : place + chance.randrange(1, 20)]
            case 3:
                made[place : place + chance.randrange(4)] = chance.choice(WORDS)
            case _:
                made += chance.choice(inputs)[1:200]
    return bytes(made)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.text(max_size=4), JSON, max_size=4)
NUCLEUS_KEYS = st.sampled_from(["logging", "level", "fileSizeKB", "networkProxy", "proxy", "url", "username", "mqtt"])
POINTERS = st.lists(st.text(max_size=3), max_size=3).map(lambda keys: "".join("/" + key for key in keys))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(DOCUMENTS, DOCUMENTS, st.lists(POINTERS, max_size=2), st.integers(0, 9)), max_size=4))
def test_any_configuration_document_is_taken_or_refused_whole(
    steps: list[tuple[dict[str, object], dict[str, object], list[str], int]],
) -> None:
    for case_sensitive in (False, True):
        configuration = Configuration(case_sensitive=case_sensitive)
        for defaults, merge, reset, timestamp in steps:
            before = configuration.snapshot()
            try:
                configuration.apply("c", defaults=defaults, reset=reset, merge=merge, timestamp=timestamp)
            except UserError:
                assert configuration.snapshot() == before
                continue
            tree = configuration.find("c")
            assert tree is not None
            assert from_record(json.loads(json.dumps(to_record(tree))), case_sensitive=case_sensitive) == tree
            configuration.restore(before)
            assert configuration.snapshot() == before


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.dictionaries(NUCLEUS_KEYS, st.dictionaries(NUCLEUS_KEYS, JSON, max_size=3) | JSON, max_size=4))
def test_any_nucleus_configuration_is_read(document: dict[str, object]) -> None:
    assert all(read_nucleus(document).notes)


HEADERS = st.lists(
    st.tuples(
        st.sampled_from([":message-type", ":message-flags", ":stream-id", "operation", ":content-type", "x", "\u00e9"]),
        st.integers(-3, 9) | st.sampled_from(["", "aws.greengrass#PublishToTopic", "aws.greengrass#ListComponents"]),
    ),
    max_size=6,
)
FRAMES = st.tuples(HEADERS, st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))


def frame(headers: list[tuple[str, int | str]], payload: bytes) -> bytes:
    kinds = [Header(name, INT32 if isinstance(value, int) else STRING, value) for name, value in headers]
    return encode(kinds, payload)


@pytest.mark.parametrize("profile", ["classic", "lite"])
def test_frames_of_any_headers_over_the_socket_harm_no_other_client(rig, run, profile: str) -> None:
    collected: list[list[bytes]] = []

    @settings(max_examples=60, derandomize=True, deadline=None)
    @given(st.lists(FRAMES, min_size=1, max_size=4))
    def collect(frames: list[tuple[list[tuple[str, int | str]], bytes]]) -> None:
        collected.append([frame(headers, payload) for headers, payload in frames])

    collect()

    async def scenario() -> None:
        async with rig(profile=profile) as running:
            running.component("aws.c", ACCESS, k=1)
            good, listener = await running.raw("aws.c"), await running.raw("aws.c")
            await listener.ask(1, "SubscribeToTopic", {"topic": "t"})
            for number, frames in enumerate(collected, 1):
                bad = await (running.open() if number % 3 == 0 else running.raw("aws.c"))
                for one in frames:
                    bad.writer.write(one)
                body = {"topic": "t", "publishMessage": {"jsonMessage": {"message": {"n": number}}}}
                assert (await good.ask(number, "PublishToTopic", body))[0] == "PublishToTopicResponse"
                assert (await listener.answer())[1]["jsonMessage"]["message"] == {"n": number}
                bad.writer.transport.abort()
            while len(running.core._server.sessions) > 2:
                await asyncio.sleep(0)
            assert not [line.text for line in running.logs if "Traceback" in line.text]

    run(scenario())
