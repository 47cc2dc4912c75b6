"""Questions and answers of the swarm: what survives the wire, and that nothing else gets in."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlaysync.errors import DecodeError
from overlaysync.model.pieces import MAX_PIECES, PieceLog
from overlaysync.net.bounds import (
    MAX_CROWD,
    MAX_CURSOR,
    MAX_LABEL,
    MAX_NEWS,
    MAX_QUESTION,
    MAX_SWARM_SIZE,
    MAX_TOLD,
)
from overlaysync.net.swarm_messages import (
    Claim,
    OfSeed,
    SwarmAnswer,
    SwarmQuestion,
    decode_data_query,
    decode_question,
    decode_swarm,
    decode_taken,
    encode_data_query,
    encode_question,
    encode_swarm,
    encode_taken,
)
from overlaysync.swarm.handed import News
from overlaysync.swarm.members import Member

pytestmark = pytest.mark.red_without("F3", "the field names of a swarm answer are changed")

ME = "0123456789abcdef"
ANOTHER = "fedcba9876543210"

member_ids = st.binary(min_size=8, max_size=8).map(bytes.hex)
hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.just("2001:db8:1111:2222:3333:4444:5555:6666"),
)
members = st.builds(Member, member_ids, hosts, st.integers(1, 65535), st.integers(0, MAX_PIECES))


def log_of(count: int, *held: int) -> PieceLog:
    log = PieceLog(count)
    for piece in held:
        log.add(piece)
    return log


def swarm(log: PieceLog | None, *, cursor: int = 0, count: int = 100) -> Any:
    """The JSON of an answer."""
    return json.loads(encode_swarm("pl@bob", count, log, cursor=cursor, members=()))


# -- questions ---------------------------------------------------------------------------------------


@given(
    st.builds(
        SwarmQuestion,
        member_ids,
        st.integers(1, 65535),
        st.integers(0, MAX_PIECES),
        st.integers(0, MAX_CURSOR),
        st.text("abcXYZ019_.@-", max_size=MAX_LABEL),
    )
    | st.builds(
        SwarmQuestion,
        member_ids,
        st.integers(1, 65535),
        label=st.text("abcXYZ019_.@-", max_size=MAX_LABEL),
        known=st.integers(0, 999_999),
        taken=st.integers(0, MAX_CURSOR),
    )
    | st.builds(SwarmQuestion, held=st.integers(0, MAX_PIECES), cursor=st.integers(0, MAX_CURSOR))
)
def test_a_question_survives_the_wire(question: SwarmQuestion) -> None:
    text = encode_question(question)
    assert len(text) <= MAX_QUESTION
    assert decode_question(text) == question


@given(st.text(max_size=300))
def test_any_label_makes_a_question(label: str) -> None:
    text = encode_question(SwarmQuestion(ME, 80, label=label))
    assert text.isascii()
    assert decode_question(text).label == "".join(
        letter for letter in label if letter.isascii() and (letter.isalnum() or letter in "_.@-")
    )[:MAX_LABEL]  # fmt: skip


def test_what_a_question_looks_like() -> None:
    question = SwarmQuestion(ME, 40001, 7, 3, "pl@bob-j2rueu")
    assert encode_question(question) == f"member={ME}&port=40001&by=pl@bob-j2rueu&held=7&since=3"
    assert encode_question(SwarmQuestion(held=7)) == "held=7&since=0"
    assert encode_question(SwarmQuestion(held=7, known=5, taken=9)) == "held=7&since=0&known=5&taken=9"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "held=7",
        "since=3",
        "since=3&held=7",
        "held=7&since=3&",
        "held=7&since=3&x=1",
        "held=7&since=3&known=5",
        "held=7&since=3&taken=5",
        "held=7&since=3&taken=5&known=5",
        "held=7&since=3&known=&taken=",
        "held=7&since=3&known=1234567&taken=5",
        f"held=7&since=3&known=5&taken={MAX_CURSOR + 1}",
        "held=7&since=3\n",
        " held=7&since=3",
        "held=-7&since=3",
        "held=+7&since=3",
        "held=7.0&since=3",
        "held=0x7&since=3",
        "held=٧&since=3",
        "held=7&since=³",
        "held=&since=3",
        "held=7&since=",
        f"held={MAX_PIECES + 1}&since=3",
        f"held=7&since={MAX_CURSOR + 1}",
        "held=7&since=" + "9" * 14,
        "held=" + "0" * 7 + "&since=3",
        f"member={ME}&held=7&since=3",
        f"member={ME}&port=80&held=7&since=3",
        f"member={ME}&port=0&by=&held=7&since=3",
        f"member={ME}&port=65536&by=&held=7&since=3",
        f"member={ME}&port=-1&by=&held=7&since=3",
        f"member={ME}&by=&port=80&held=7&since=3",
        f"member={ME[1:]}&port=80&by=&held=7&since=3",
        f"member={ME}0&port=80&by=&held=7&since=3",
        f"member={ME.upper()}&port=80&by=&held=7&since=3",
        "member=&port=80&by=&held=7&since=3",
        f"member={ME}&port=80&by=p%6c&held=7&since=3",
        f"member={ME}&port=80&by=a b&held=7&since=3",
        f"member={ME}&port=80&by=bób&held=7&since=3",
        f"member={ME}&port=80&by=\x1b[31m&held=7&since=3",
        f"member={ME}&port=80&by={'x' * (MAX_LABEL + 1)}&held=7&since=3",
        "held=7&since=" + "0" * MAX_QUESTION,
    ],
)
def test_anything_else_is_no_question(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_question(text)


def test_the_bounds_of_a_question_are_allowed() -> None:
    largest = SwarmQuestion(ME, 65535, MAX_PIECES, MAX_CURSOR, "x" * MAX_LABEL, 999_999, MAX_CURSOR)
    assert decode_question(encode_question(largest)) == largest


@given(st.text("member=port&byheldsince0123456789abcdef@-_ %\n", max_size=MAX_QUESTION + 10))
def test_any_text_is_a_question_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        decode_question(text)


# -- requests for data that are passed on ------------------------------------------------------------


@given(member_ids, st.integers(0, MAX_CURSOR))
def test_a_claim_survives_the_wire(member: str, cursor: int) -> None:
    runs, claim = ((0, 64), (80, 16)), Claim(member, cursor)
    assert decode_data_query(encode_data_query(runs, claim)) == (runs, claim)
    assert decode_data_query(encode_data_query(runs)) == (runs, None)


def test_what_a_request_for_data_looks_like() -> None:
    assert encode_data_query(((0, 64), (80, 16))) == "slots=0-63,80-95"
    assert encode_data_query(((0, 64),), Claim(ME, 17)) == f"slots=0-63&member={ME}&taken=17"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "slots",
        "slot=0-63",
        "slots=0-63&",
        "slots=0-63&taken=17",
        f"slots=0-63&member={ME}",
        f"slots=0-63&taken=17&member={ME}",
        f"slots=0-63&member={ME}&taken=",
        f"slots=0-63&member={ME}&taken=-1",
        f"slots=0-63&member={ME}&taken={MAX_CURSOR + 1}",
        f"slots=0-63&member={ME}&taken=17&x=1",
        f"slots=0-63&member={ME.upper()}&taken=17",
        f"member={ME}&taken=17&slots=0-63",
        f"slots=0-63,5-6&member={ME}&taken=17",
    ],
)
def test_anything_else_asks_for_no_data(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_data_query(text)


@given(st.lists(st.integers(0, 99), max_size=20), st.integers(0, MAX_CURSOR))
def test_what_is_taken_survives_the_wire(pieces: list[int], cursor: int) -> None:
    news = News(tuple(pieces), cursor)
    assert decode_taken(encode_taken(news), 100) == news


@pytest.mark.parametrize(
    "text",
    ["", "17 ", "17 100", "17 1,", "17 ,1", "17 1;2", "17 -1", "x 1", "17  1", "17 123456", "1" + "0" * 13],
)
def test_a_refusal_that_says_anything_else_is_none(text: str) -> None:
    with pytest.raises(DecodeError):
        decode_taken(text, 100)


def test_who_has_everything_says_what_it_handed_out_and_how_many_there_are() -> None:
    news = News((7, 3), 19)
    body = encode_swarm("pl@bob", 10, None, cursor=0, members=(), beside=OfSeed(341, news))
    assert decode_swarm(body, 10) == SwarmAnswer("pl@bob", 10, None, crowd=341, taken=news)


# -- answers -----------------------------------------------------------------------------------------


@given(
    st.integers(0, 300).flatmap(
        lambda count: st.tuples(
            st.just(count), st.lists(st.integers(0, max(0, count - 1)), max_size=count, unique=True)
        )
    ),
    st.lists(members, max_size=20),
    st.integers(0, 300),
)
@pytest.mark.slow
def test_an_answer_survives_the_wire(held: tuple[int, list[int]], others: list[Member], cursor: int) -> None:
    count, pieces = held
    log = log_of(count, *pieces)
    answer = decode_swarm(encode_swarm("pl@bob", count, log, cursor=cursor, members=others), count)
    news = pieces[cursor:] if 0 < cursor <= len(pieces) else pieces
    assert answer.held is not None
    assert sorted(answer.held) == sorted(news)
    assert (answer.label, answer.pieces, answer.cursor) == ("pl@bob", count, len(pieces))
    assert answer.members == tuple(others)


@given(st.integers(0, 300), st.lists(members, max_size=20))
@pytest.mark.slow
def test_the_answer_of_who_has_everything(count: int, others: list[Member]) -> None:
    answer = decode_swarm(encode_swarm("pl@bob", count, None, cursor=7, members=others), count)
    assert (answer.held, answer.members) == (None, tuple(others))


def test_the_first_time_everything_is_told_and_then_what_is_new() -> None:
    log = log_of(100, 50, 3)
    first = swarm(log, cursor=0)
    assert (first["cursor"], "news" in first) == (2, False)
    assert base64.b64decode(first["map"]) == log.held.to_bytes()
    log.add(99)
    log.add(1)
    log.add(50)
    then = swarm(log, cursor=first["cursor"])
    assert (then["news"], then["cursor"], "map" in then) == ([99, 1], 4, False)
    assert swarm(log, cursor=4) == {"label": "pl@bob", "pieces": 100, "cursor": 4}
    assert decode_swarm(json.dumps(swarm(log, cursor=4)).encode(), 100).held == ()


@pytest.mark.parametrize("cursor", [3, 1000, MAX_CURSOR])
def test_who_has_read_more_than_there_is_has_read_another_log(cursor: int) -> None:
    log = log_of(100, 50, 3)
    answer = swarm(log, cursor=cursor)
    assert base64.b64decode(answer["map"]) == log.held.to_bytes()
    assert answer["cursor"] == 2


def test_much_news_is_a_map() -> None:
    log = log_of(MAX_PIECES, *range(MAX_NEWS + 2))
    assert swarm(log, cursor=2, count=MAX_PIECES)["news"] == list(range(2, MAX_NEWS + 2))
    answer = swarm(log, cursor=1, count=MAX_PIECES)
    assert "news" not in answer
    decoded = decode_swarm(json.dumps(answer).encode(), MAX_PIECES)
    assert decoded.held == tuple(range(MAX_NEWS + 2))


@pytest.mark.parametrize("cursor", [0, 1])
def test_the_largest_answer_is_within_the_bounds(cursor: int) -> None:
    many = [
        Member(ME, f"2001:db8:1111:2222:3333:4444:5555:{n:x}", 65535, MAX_PIECES)
        for n in range(0xF000, 0xF000 + 2 * MAX_TOLD)
    ]
    first = MAX_PIECES - MAX_NEWS
    log = log_of(MAX_PIECES, 0, *(range(first, MAX_PIECES) if cursor else range(1, MAX_PIECES)))
    body = encode_swarm('"' * 1000, MAX_PIECES, log, cursor=cursor, members=many)
    assert len(body) <= MAX_SWARM_SIZE
    answer = decode_swarm(body, MAX_PIECES)
    assert len(answer.members) == MAX_TOLD
    assert answer.held is not None
    assert len(answer.held) == (MAX_NEWS if cursor else MAX_PIECES)


def test_a_content_without_data_has_no_pieces() -> None:
    body = encode_swarm("pl@bob", 0, log_of(0), cursor=0, members=())
    assert decode_swarm(body, 0).held == ()


def test_a_label_is_made_safe_to_print() -> None:
    body = encode_swarm("pl\x1b[31m\u202e@bob" + "x" * 1000, 1, None, cursor=0, members=())
    label = decode_swarm(body, 1).label
    assert label.startswith("pl?[31m?@bob")
    assert len(label) <= MAX_LABEL


ANSWER: dict[str, Any] = {"label": "x", "pieces": 10}
MEMBER = [ME, "192.0.2.7:80", 5]


def map_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "changes",
    [
        {"label": 7},
        {"label": None},
        {"pieces": 11},
        {"pieces": "10"},
        {"pieces": -10},
        {"pieces": 10.5},
        {"whole": 1},
        {"map": "#"},
        {"map": "AA"},
        {"map": "/8\nA="},
        {"map": "ÿ=="},
        {"map": map_of(b"x")},
        {"map": map_of(b"xxx")},
        {"map": map_of(b"\xff\xff")},
        {"map": map_of(b"\xff\x20")},
        {"map": 7},
        {"news": [10]},
        {"news": [-1]},
        {"news": [1 << 70]},
        {"news": ["1"]},
        {"news": [0.5]},
        {"news": [1] * (MAX_NEWS + 1)},
        {"news": 1},
        {"cursor": -1},
        {"cursor": MAX_CURSOR + 1},
        {"cursor": 1 << 70},
        {"members": [MEMBER] * (MAX_TOLD + 1)},
        {"crowd": -1},
        {"crowd": MAX_CROWD + 1},
        {"whole": True, "taken": [10], "taken_cursor": 1},
        {"whole": True, "taken": [-1], "taken_cursor": 1},
        {"whole": True, "taken": [1], "taken_cursor": MAX_CURSOR + 1},
        {"whole": True, "taken": [1], "taken_cursor": -1},
        {"taken": 1},
        {"members": {ME: "192.0.2.7:80"}},
    ],
)
def test_a_wrong_answer_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_swarm(json.dumps(ANSWER | changes).encode(), 10)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        [],
        MEMBER[:2],
        ["", *MEMBER[1:]],
        [ME.upper(), *MEMBER[1:]],
        [ME + "\n", *MEMBER[1:]],
        [ME, "bob.lab:80", 5],
        [ME, "localhost:80", 5],
        [ME, "192.0.2.7", 5],
        [ME, "192.0.2.7:0", 5],
        [ME, "192.0.2.7:65536", 5],
        [ME, "1.2:80", 5],
        [ME, "[fe80::1%eth0]:80", 5],
        [ME, "\x1b[31m:80", 5],
        [ME, "x" * 10_000, 5],
        [ME, 7, 5],
        [ME, "192.0.2.7:80", -1],
        [ME, "192.0.2.7:80", MAX_PIECES + 1],
        [ME, "192.0.2.7:80", "5"],
        [ME, "192.0.2.7:80", True],
        [ME, "192.0.2.7:80", 5.0],
        [ME, "192.0.2.7:80", 1 << 70],
        None,
        7,
        "0123",
        {ME: 5},
    ],
)
def test_a_wrong_member_is_left_out_and_the_others_stay(bad: Any) -> None:
    others = [[ME, "192.0.2.7:80", 5], [ANOTHER, "[2001:db8::7]:80", 0]]
    body = json.dumps(ANSWER | {"members": [others[0], bad, others[1]]}).encode()
    assert decode_swarm(body, 10).members == (
        Member(ME, "192.0.2.7", 80, 5),
        Member(ANOTHER, "2001:db8::7", 80, 0),
    )


def test_what_a_later_version_says_of_a_member_is_ignored() -> None:
    body = json.dumps(ANSWER | {"members": [[*MEMBER, 1, {"more": []}]]}).encode()
    assert decode_swarm(body, 10).members == (Member(ME, "192.0.2.7", 80, 5),)


@pytest.mark.parametrize("left_out", list(ANSWER))
def test_an_answer_says_what_it_is_about(left_out: str) -> None:
    message = {name: value for name, value in ANSWER.items() if name != left_out}
    with pytest.raises(DecodeError):
        decode_swarm(json.dumps(message).encode(), 10)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"{", b"[]", b"null", b"[" * 60_000, b'{"label":NaN}', b'{"label":"\xff","pieces":10}'],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_swarm(body, 10)


def test_an_answer_that_is_too_long_is_not_even_read() -> None:
    body = json.dumps(ANSWER).encode()
    assert decode_swarm(body.ljust(MAX_SWARM_SIZE), 10).held == ()
    with pytest.raises(DecodeError, match="bytes"):
        decode_swarm(body.ljust(MAX_SWARM_SIZE + 1), 10)


def test_unknown_fields_are_left_to_later_versions() -> None:
    assert decode_swarm(json.dumps(ANSWER | {"more": [1]}).encode(), 10).label == "x"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
nearly_answers = st.fixed_dictionaries(
    {"label": st.text(max_size=5), "pieces": st.just(10)},
    optional={
        "whole": st.booleans() | json_values,
        "map": st.binary(max_size=3).map(map_of) | json_values,
        "news": st.lists(st.integers(-1, 11), max_size=4) | json_values,
        "cursor": st.integers() | json_values,
        "crowd": st.integers() | json_values,
        "taken": st.lists(st.integers(-1, 11), max_size=4) | json_values,
        "taken_cursor": st.integers() | json_values,
        "members": st.lists(
            st.tuples(member_ids | st.text(max_size=16), hosts | st.text(max_size=30), st.integers()),
            max_size=3,
        )
        | json_values,
    },
)


@given(st.binary(max_size=200) | nearly_answers.map(lambda message: json.dumps(message).encode()))
@pytest.mark.slow
def test_any_bytes_give_an_answer_within_bounds_or_a_decode_error(body: bytes) -> None:
    try:
        answer = decode_swarm(body, 10)
    except DecodeError as error:
        assert str(error).isprintable()
        return
    assert answer.held is None or all(0 <= piece < 10 for piece in answer.held)
    assert 0 <= answer.cursor <= MAX_CURSOR
    assert answer.taken is None or all(0 <= piece < 10 for piece in answer.taken.pieces)
    assert answer.label.isprintable()
