"""Logs of ours and of others."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskyard.errors import ReportError
from taskyard.report import Samples, make_report, read_samples, succeeded

T = 1_700_000_000.0
RUN = {"run": {"function": "shop.buy", "kind": "threads", "workers": 4, "plan": "10/s"}}
OURS = [
    {"id": 2, "status": "completed", "planned": T, "started": T + 0.1, "ended": T + 0.3},
    {
        "id": 1,
        "status": "failed",
        "started": T,
        "ended": T + 0.5,
        "error": {"kind": "ValueError", "message": "no"},
        "metadata": {"shop": 7},
    },
    {"id": 3, "status": "lost"},
    {"id": 4, "status": "undispatched"},
    {"id": 5, "status": "cancelled"},
]


def lines(*rows: object) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def read(folder: Path, text: str | bytes, **columns: str) -> Samples:
    path = folder / "run.log"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_samples(path, columns=columns)


def shown(samples: Samples) -> list[tuple[float, float, bool]]:
    """When calls began after T, how long they took, and whether they succeeded."""
    rows = zip(samples.started, samples.ended, samples.success, strict=True)
    return [
        (pytest.approx(start - T, abs=1e-5), pytest.approx(end - start, abs=1e-5), bool(good))
        for start, end, good in rows
    ]


# Ours


def test_our_log(tmp_path: Path) -> None:
    found = read(tmp_path, lines(RUN, *OURS))
    assert shown(found) == [(0.1, 0.2, True), (0.0, 0.5, False)]
    assert list(found.planned) == [T, T]
    assert list(found.ids) == [2, 1]
    assert (found.kinds, found.messages) == ({1: "ValueError"}, {1: "no"})
    assert found.metadata == {1: {"shop": 7}}
    assert (found.lost, found.undispatched, found.cancelled, found.unknown) == (1, 1, 1, 0)
    conditions = found.conditions
    assert (conditions.function, conditions.workers, conditions.open_loop) == ("shop.buy", 4, True)


def test_what_was_resumed_is_counted_once(tmp_path: Path) -> None:
    again = {"id": 4, "status": "completed", "started": T + 9, "ended": T + 10}
    found = read(tmp_path, lines(RUN, *OURS, RUN, again))
    assert (len(found), found.undispatched, found.lost) == (3, 0, 1)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, lines(RUN, *OURS) + '{"id": 6, "status": "comp')
    assert (len(found), found.invalid) == (2, 0)


@pytest.mark.parametrize(
    "broken",
    [
        "{nonsense",
        "[1, 2]",
        '{"id": 9, "status": "completed", "started": 1}',
        '{"id": 9, "status": "completed", "started": "soon", "ended": "later"}',
        '{"id": 9, "status": "completed", "started": 1, "ended": null}',
        '{"id": 9, "status": "eaten"}',
        '{"id": 1e99, "status": "completed", "started": 1, "ended": 2}',
        '{"id": 9, "status": "completed", "started": 1, "ended": 1e999}',
        '{"id": 9, "status": "completed", "started": 1, "ended": 1e12}',
        '{"something": "else"}',
        b"\xff\xfe",
    ],
)
def test_broken_lines_are_counted_and_the_rest_is_read(tmp_path: Path, broken: str | bytes) -> None:
    broken = broken.encode() if isinstance(broken, str) else broken
    whole = lines(RUN, OURS[0]).encode() + broken + b"\n" + lines(OURS[1]).encode()
    found = read(tmp_path, whole)
    assert (len(found), found.invalid) == (2, 1)
    assert len(found.planned) == len(found.ended) == len(found.success) == len(found.ids) == 2


@pytest.mark.parametrize("text", ["", "\n\n", lines(RUN)])
def test_an_empty_log_is_no_error(tmp_path: Path, text: str) -> None:
    assert len(read(tmp_path, text)) == 0


def test_packed(tmp_path: Path) -> None:
    assert len(read(tmp_path, gzip.compress(lines(RUN, *OURS).encode()))) == 2


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"nowhere\.jsonl cannot be read: No such file"):
        read_samples(tmp_path / "nowhere.jsonl")
    with pytest.raises(ReportError, match="cannot be unpacked"):
        read(tmp_path, gzip.compress(lines(RUN, *OURS).encode())[:40])


def test_several_logs_are_one_run(tmp_path: Path) -> None:
    one = read(tmp_path, lines(RUN, *OURS))
    whole = Samples.merged([one, read(tmp_path, lines(RUN, *OURS))])
    assert len(whole) == len(whole.ids) == 4
    assert (whole.kinds, whole.lost) == ({1: "ValueError", 3: "ValueError"}, 2)
    assert whole.conditions.workers == 8
    assert one.conditions.workers == 4  # what was merged is left as it was


# The documents of worker-dispatcher


class Response:
    """As that of requests: false from 400 on."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code

    def __bool__(self) -> bool:
        return self.status_code < 400


class Special(Response):
    pass


class Ambiguous:
    def __bool__(self) -> bool:
        raise ValueError("an array is neither true nor false")


@pytest.mark.parametrize(
    ("result", "good"),
    [
        (True, True),
        (1, True),
        ("text", True),
        ([0], True),
        (object(), True),
        (False, False),
        (None, False),
        (0, False),
        ("", False),
        ([], False),
        (Response(200), True),
        (Response(204), False),
        (Response(302), False),
        (Response(503), False),
        (Special(500), False),
        ("<Response [200]>", True),
        ("<Response [503]>", False),
        (Ambiguous(), True),
    ],
)
def test_success_by_result(result: Any, good: bool) -> None:
    assert succeeded(result) is good


def log(number: int, result: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "task_id": number,
        "started_at": T + number,
        "ended_at": T + number + 0.25,
        "duration": 0.25,
        "result": result,
        "metadata": metadata,
    }


def test_a_list_of_logs() -> None:
    found = Samples.from_logs(
        [
            log(1, True),
            log(2, Response(503)),
            log(3, False, error="KeyError: 'id'"),
            log(4, False, error=OSError("gone")),
            log(5, None),
            {"task_id": 6, "started_at": T, "ended_at": T},
        ]
    )
    assert shown(found)[:2] == [(1.0, 0.25, True), (2.0, 0.25, False)]
    assert [*found.kinds.values()] == ["HTTP 503", "KeyError", "OSError", "returned None"]
    assert found.messages[2] == "KeyError: 'id'"
    assert (found.invalid, [*found.ids]) == (1, [1, 2, 3, 4, 5])


def test_a_list_with_other_things_in_it() -> None:
    others: list[Any] = [None, 7, {}, {"a": 1}, [], {"status": []}]
    found = Samples.from_logs([*others, log(1, True), *others, log(2, True)])
    assert (len(found), found.invalid) == (2, 12)
    with pytest.raises(ReportError, match=r"of its columns \(a\) none is known"):
        Samples.from_logs([{"a": 1}] * 30)
    assert len(Samples.from_logs([None] * 30)) == 0  # type: ignore[list-item]


def test_a_list_of_logs_as_a_json_array(tmp_path: Path) -> None:
    found = read(tmp_path, json.dumps([log(1, True), log(2, "<Response [404]>")], indent=1))
    assert ([*found.success], found.kinds) == ([1, 0], {1: "HTTP 404"})
    with pytest.raises(ReportError, match="begins like a JSON array of objects, but is none"):
        read(tmp_path, "[1, 2")


# Other tools

JMETER = """\
timeStamp,elapsed,label,responseCode,responseMessage,threadName,success,bytes,Latency,Connect
1700000000250,120,Home,200,OK,users 1-1,true,512,100,3
1700000001000,80,Home,503,Unavailable,users 1-1,false,0,75,3
"""
K6_CSV = """\
metric_name,timestamp,metric_value,check,error,error_code,group,method,name,status
http_reqs,1700000001,1.000000,,,,,GET,http://test,200
http_req_duration,1700000001,250.5,,,,,GET,http://test,200
http_req_duration,1700000002,40,,,,,GET,http://test,503
http_req_duration,1700000003,30,,dial: refused,1212,,GET,http://test,0
"""
VEGETA_CSV = """\
1700000000250000000,200,120000000,0,512,,T0s=,home,0,GET,http://test,
1700000001000000000,503,80000000,0,0,503 Service Unavailable,,home,1,GET,http://test,
"""
VEGETA_JSON = lines(
    {
        "attack": "home",
        "seq": 0,
        "code": 200,
        "timestamp": "2023-11-14T23:13:20.250000123+01:00",
        "latency": 120_000_000,
        "error": "",
    }
)
K6_JSON = lines(
    {"type": "Metric", "data": {"name": "http_req_duration"}, "metric": "http_req_duration"},
    {
        "type": "Point",
        "metric": "http_req_duration",
        "data": {"time": "2023-11-14T22:13:20.5Z", "value": 250.0, "tags": {"status": "200"}},
    },
    {"type": "Point", "metric": "vus", "data": {"time": "2023-11-14T22:13:20.5Z", "value": 1}},
)
HEY = """\
response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset
0.1200,0.0010,0.0000,0.0000,0.1190,0.0001,200,1700000000.2500
0.0800,0.0010,0.0000,0.0000,0.0790,0.0001,500,1700000001.0000
"""
SEMICOLONS = "Start Time;End Time;OK\n2023-11-14 22:13:20.25;2023-11-14 22:13:20.37;yes\n"


@pytest.mark.parametrize(
    ("text", "expected", "kinds"),
    [
        pytest.param(
            JMETER, [(0.25, 0.12, True), (1.0, 0.08, False)], {1: "HTTP 503"}, id="JMeter"
        ),
        pytest.param(
            K6_CSV,
            [(0.7495, 0.2505, True), (1.96, 0.04, False), (2.97, 0.03, False)],
            {1: "HTTP 503", 2: "dial: refused"},
            id="k6",
        ),
        pytest.param(
            VEGETA_CSV, [(0.25, 0.12, True), (1.0, 0.08, False)], {1: "HTTP 503"}, id="vegeta"
        ),
        pytest.param(VEGETA_JSON, [(0.25, 0.12, True)], {}, id="vegeta as JSON"),
        pytest.param(K6_JSON, [(0.25, 0.25, True)], {}, id="k6 as JSON"),
        pytest.param(HEY, [(0.25, 0.12, True), (1.0, 0.08, False)], {1: "HTTP 500"}, id="hey"),
        pytest.param(SEMICOLONS, [(0.25, 0.12, True)], {}, id="semicolons, ISO 8601"),
        pytest.param(
            "\ufeffstart_time,response_time,exception\n1700000000.25,120,\n1700000001,80,Refused\n",
            [(0.25, 0.12, True), (1.0, 0.08, False)],
            {1: "Refused"},
            id="as Locust names them: milliseconds",
        ),
        pytest.param(
            lines({"time": T + 0.25, "latency_us": 120_000, "status": "200 OK"}),
            [(0.25, 0.12, True)],
            {},
            id="a unit in the name",
        ),
        pytest.param(
            lines({"finished_at": T + 0.37, "took": "120ms", "ok": False}),
            [(0.25, 0.12, False)],
            {0: "failed"},
            id="a unit in the value; the end is known",
        ),
        pytest.param(
            lines({"scheduled": T, "begin": T + 0.25, "stop": T + 0.37}),
            [(0.25, 0.12, True)],
            {},
            id="planned",
        ),
    ],
)
def test_logs_of_other_tools(
    tmp_path: Path, text: str, expected: list[tuple[float, float, bool]], kinds: dict[int, str]
) -> None:
    found = read(tmp_path, text)
    assert shown(found) == expected
    assert found.kinds == kinds
    assert found.invalid == 0


def test_what_was_guessed_is_said(tmp_path: Path) -> None:
    (note,) = read(tmp_path, JMETER).notes
    assert "timeStamp is started" in note
    assert "elapsed is duration (ms)" in note
    (note,) = read(tmp_path, K6_CSV).notes
    assert "whole seconds" in note


def test_columns_may_be_named(tmp_path: Path) -> None:
    text = "when,took,id,bad\n1700000000.25,0.12,7,\nnever,1,8,\n"
    found = read(tmp_path, text, started="when", duration="took:s", error="bad")
    assert (shown(found), found.invalid, [*found.ids]) == ([(0.25, 0.12, True)], 1, [7])
    found = read(tmp_path, text, started="when", duration="took:ms")
    assert shown(found) == [(0.25, 0.00012, True)]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("a,b\n1,2\n", {}, r"of its columns \(a, b\) none is known"),
        ("took,b\n1,2\n", {}, "only duration is known"),
        ("a,b\n1,2\n", {"started": "c"}, "there is no column 'c'; there are: a, b"),
        ("a,b\n1,2\n", {"begun": "a"}, "a column can mean planned, started"),
        (
            "Type,Name,Request Count,Average Response Time,Timestamp\nGET,/,5,20,1\n",
            {},
            "holds sums over many calls",
        ),
        ("nothing of the kind\n", {}, None),
    ],
)
def test_logs_that_say_nothing(
    tmp_path: Path, text: str, columns: dict[str, str], message: str | None
) -> None:
    if message is None:
        assert len(read(tmp_path, text)) == 0
        return
    with pytest.raises(ReportError, match=message):
        read(tmp_path, text, **columns)


def test_lines_of_csv_that_are_none_are_counted(tmp_path: Path) -> None:
    whole = JMETER.splitlines(keepends=True)
    found = read(tmp_path, f"{whole[0]}a\rb,{200_000 * 'x'}\n{whole[1]}a\rb\n{whole[2]}")
    assert (len(found), found.invalid) == (2, 2)


PIECES = (
    *'{}[]":,;|\n\r\t\0 ',
    *("started", "ended", "status", "completed", "run", "id", "metric_name", "timestamp", "data"),
    *("1e999", "-1e15", "NaN", "null", "true", "0.5", "2023-11-14T22:13:20Z", "\ufeff", "9" * 400),
)


@settings(max_examples=300, deadline=None)
@given(
    whole=st.sampled_from([lines(RUN, *OURS), JMETER, K6_CSV, K6_JSON, VEGETA_CSV, VEGETA_JSON]),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 9), st.sampled_from(PIECES)), max_size=6
    ),
)
def test_no_log_is_too_broken_to_say_so(
    tmp_path_factory: pytest.TempPathFactory, whole: str, edits: list[tuple[float, int, str]]
) -> None:
    for place, length, piece in edits:
        at = int(place * len(whole))
        whole = whole[:at] + piece + whole[at + length :]
    try:
        found = read(tmp_path_factory.getbasetemp(), whole)
    except ReportError:
        return
    columns = (found.planned, found.started, found.ended, found.success, found.ids)
    assert {len(column) for column in columns} == {len(found)}
    made = make_report(found)
    assert made.text()
    assert made.json()


def test_a_line_of_csv_that_was_cut_off_is_counted(tmp_path: Path) -> None:
    found = read(tmp_path, JMETER + "17000000020")
    assert (len(found), found.invalid) == (2, 1)


# What experts in load testing tripped over


def test_runs_one_after_the_other_are_no_idle_generator(tmp_path: Path) -> None:
    """A run that was taken up again an hour later; or the logs of two days as one."""

    def calls(first: int, at: float) -> list[dict[str, Any]]:
        rows = [{"run": {"function": "f", "kind": "threads", "workers": 2}}]
        return rows + [
            {
                "id": first + number,
                "status": "completed",
                "started": T + at + number // 2,
                "ended": T + at + number // 2 + 1,
            }
            for number in range(40)
        ]

    parts = [calls(1, 0.0), calls(101, 3600.0)]
    together = read(tmp_path, lines(*parts[0], *parts[1]))
    merged = Samples.merged(read(tmp_path, lines(*part)) for part in parts)
    for found in (together, merged):
        assert (found.breaks, found.conditions.workers) == (1, 2)
        report = make_report(found)
        assert not report.generator_bound
        assert "of 2 runs, one after the other" in report.warnings[0]
        assert "59 min 40 s" in report.warnings[0]


def test_runs_at_the_same_time_are_one(tmp_path: Path) -> None:
    part = read(tmp_path, lines(RUN, *OURS))
    merged = Samples.merged([part, part])
    assert (merged.breaks, merged.conditions.workers) == (0, 8)


def test_an_idle_generator_is_found_also_in_two_runs(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for at in (0.0, 3600.0):
        rows.append({"run": {"function": "f", "kind": "threads", "workers": 2}})
        rows += [
            {"status": "completed", "started": T + at + number, "ended": T + at + number + 0.1}
            for number in range(20)
        ]
    assert make_report(read(tmp_path, lines(*rows))).generator_bound


def test_calls_with_numbers_and_without_merge() -> None:
    plain = Samples.from_columns([T, T], [T + 1, T + 1], [True, True])
    numbered = Samples.from_logs([{"id": 7, "status": "completed", "started": T, "ended": T + 1}])
    assert list(Samples.merged([plain, numbered]).ids) == [1, 2, 7]
    assert list(Samples.merged([numbered, plain]).ids) == [7, 1, 2]


@pytest.mark.parametrize("instant", ["2023-11-14 22:13:20.250", "2023/11/14 22:13:20.250"])
def test_jmeter_with_instants_as_text(tmp_path: Path, instant: str) -> None:
    text = f"timeStamp,elapsed,label,responseCode,success\n{instant},120,Home,200,true\n"
    assert shown(read(tmp_path, text)) == [(0.25, 0.12, True)]


def test_kinds_of_errors_of_jmeter_are_kept_apart(tmp_path: Path) -> None:
    text = (
        "timeStamp,elapsed,responseCode,success,failureMessage\n"
        "1700000000000,1,Non HTTP response code: java.net.ConnectException,false,\n"
        "1700000000000,1,Non HTTP response code: java.net.SocketTimeoutException,false,\n"
        "1700000000000,1,200,false,expected to contain /ok/\n"
        "1700000000000,1,503.0,false,expected /200/\n"
    )
    assert [*read(tmp_path, text).kinds.values()] == [
        "Non HTTP response code: java.net.ConnectException",
        "Non HTTP response code: java.net.SocketTimeoutException",
        "expected to contain /ok/",
        "HTTP 503",
    ]


def test_k6_says_what_was_expected(tmp_path: Path) -> None:
    text = (
        "metric_name,timestamp,metric_value,error_code,expected_response,status\n"
        "http_req_duration,1700000001.5,500,1404,true,404\n"
        "http_req_duration,1700000001.5,500,,false,200\n"
        "ws_session_duration,1700000001.5,500,,,101\n"
    )
    assert [*read(tmp_path, text).success] == [1, 0, 1]
    tags = {"status": "404", "error_code": "1404", "expected_response": "true"}
    data = {"time": "2023-11-14T22:13:21Z", "value": 500, "tags": tags}
    point = {"type": "Point", "metric": "http_req_duration", "data": data}
    assert [*read(tmp_path, lines(point)).success] == [1]


def test_sums_of_vegeta_are_no_call(tmp_path: Path) -> None:
    sums = {"latencies": {"mean": 2}, "end": "2024-01-01T00:00:02Z", "duration": 2000000000}
    with pytest.raises(ReportError, match="holds sums over many calls"):
        read(tmp_path, lines({**sums, "requests": 1200, "success": 1}))


def test_a_body_in_a_row_is_no_reason_to_lose_the_call(tmp_path: Path) -> None:
    cells = f"1700000000000000000,200,30000000,0,9,,{'x' * 200_000},,0,GET,http://x,\n"
    usual = csv.field_size_limit()
    found = read(tmp_path, cells + "1700000001000000000,200,30000000,0,9,,,,1,GET,http://x,\n")
    assert (len(found), found.invalid, csv.field_size_limit()) == (2, 0, usual)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps({"summary": {"total": 1}}, indent=2) + "\n", "5 other lines"),
        ("start,duration\nnoon,5\n", "no calls .* start is started"),
        ("start,duration\n1,5\n".encode("utf-16"), "is UTF-16 text: write it as UTF-8"),
        ('{"a":' * 100_000 + "\n", "no calls"),
        ("[" * 100_000 + "\n", "begins like a JSON array"),
        (bytes(range(1, 255)) * 40 + b"\n", "nothing in|no calls"),
    ],
)
def test_a_file_without_calls_is_an_error(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        read(tmp_path, text)


def test_a_packed_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskyard.report.reading._LONGEST_LINE", 1 << 20)
    with pytest.raises(ReportError, match="a line of more than 1 MiB: it is no log"):
        read(tmp_path, gzip.compress(bytes(1 << 21)))
    # An array of JSON may be one line, however long.
    rows = [{"started": T, "ended": T + 1, "error": "x" * 1000}] * 1500
    assert len(read(tmp_path, gzip.compress(json.dumps(rows).encode()))) == 1500
