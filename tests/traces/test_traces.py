"""Recording and reading spans and log lines; trace ids in both notations."""

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from foreshore.cli.trace import waterfall
from foreshore.seams import LogLine, Span, amzn_trace_id, from_amzn_trace_id, split_traceparent, traceparent
from foreshore.traces.recorder import MAX_PENDING, Recorder, new_span_id, new_trace_id
from foreshore.traces.store import TraceReader

HEX = st.sampled_from("0123456789abcdef")
TRACE = st.text(HEX, min_size=32, max_size=32).filter(lambda t: set(t) != {"0"})
SPAN = st.text(HEX, min_size=16, max_size=16)


@given(TRACE, SPAN)
def test_both_notations_hold_the_same_ids(trace, span):
    text = traceparent(trace, span)
    assert split_traceparent(text) == (trace, span)
    assert from_amzn_trace_id(amzn_trace_id(text)) == text


@given(st.text())
def test_nonsense_is_no_traceparent(text):
    assert split_traceparent(text) is None or len(text) == 55
    from_amzn_trace_id(text)


def test_new_ids_have_their_lengths():
    assert len(new_trace_id()) == 32
    assert len(new_span_id()) == 16


def span(trace, identifier, parent="", name="x", start=1, ok=True):
    return Span(trace, identifier, parent, "iot", name, start, 5, ok, {"topic": name})


def test_what_was_recorded_can_be_read(tmp_path):
    recorder = Recorder(tmp_path / "traces.db")
    trace = new_trace_id()
    recorder.span(span(trace, "a" * 16, name="publish"))
    recorder.span(span(trace, "b" * 16, parent="a" * 16, name="rule", start=2, ok=False))
    recorder.log(LogLine(7, "lambda", "ingest", "INFO", trace, "stored"))
    recorder.say("iot", "up")
    recorder.flush()
    reader = TraceReader(tmp_path / "traces.db")
    assert [s.name for s in reader.trace(trace[:10])] == ["publish", "rule"]
    assert reader.trace(trace)[0].attributes == {"topic": "publish"}
    ((found, start, wall, count, ok, names),) = reader.latest()
    assert (found, start, wall, count, ok) == (trace, 1, 6, 2, False)
    assert sorted(names.split(" > ")) == ["publish", "rule"]
    assert [line.text for _, line in reader.logs()] == ["stored", "up"]
    assert [line.text for _, line in reader.logs(source="ing*")] == ["stored"]
    assert [line.text for _, line in reader.logs(after_row=reader.last_log_row())] == []
    lines = waterfall(reader.trace(trace), [line for _, line in reader.logs(trace_id=trace)])
    assert lines[1].startswith("  iot publish")
    assert "    iot rule" in lines[3]
    assert "FAILED" in lines[3]
    assert lines[-1].endswith("stored")
    reader.close()
    recorder.close()


def test_a_flood_is_bounded_and_reported(tmp_path):
    recorder = Recorder(tmp_path / "traces.db")
    recorder._spans = [span("1" * 32, "a" * 16)] * MAX_PENDING
    recorder.span(span("2" * 32, "b" * 16))
    recorder.close()
    with sqlite3.connect(tmp_path / "traces.db") as database:
        (text,) = database.execute("SELECT text FROM logs").fetchone()
    database.close()
    assert text.startswith("1 spans or log lines came faster")


def test_listeners_see_everything_at_once(tmp_path):
    recorder = Recorder(tmp_path / "traces.db")
    seen = []
    recorder.listeners.append(seen.append)
    recorder.span(span("1" * 32, "a" * 16))
    recorder.say("iot", "hello")
    assert [type(item).__name__ for item in seen] == ["Span", "LogLine"]
    recorder.close()


def test_the_newest_are_kept(tmp_path):
    recorder = Recorder(tmp_path / "t.db", max_kept=100)
    for number in range(450):
        recorder.span(Span(f"{number:032x}", f"{number:016x}", "", "iot", "publish", number, 1, True, None))
        recorder.say("iot", str(number))
        if number % 50 == 49:
            recorder.flush()
    recorder.close()
    reader = TraceReader(tmp_path / "t.db")
    kept = [int(identifier, 16) for identifier, *_ in reader.latest(1000)]
    assert kept[0] == 449 and kept == list(range(449, 449 - len(kept), -1)) and 100 <= len(kept) <= 110
    assert [line.text for _, line in reader.logs()][-1] == "449"
    assert not reader.trace(f"{0:032x}") and len(reader.trace(f"{400:032x}")) == 1
    reader.close()
