"""How often one host is dialled and asked, whatever others say of it."""

from __future__ import annotations

import pytest

from overlaysync.node.host_budget import ANSWERED, FIRST_ASKS, TOLD_PORTS, AskBudget, DialBudget

HOST = "192.0.2.7"


def taken(budget: DialBudget, ports: range, now: float, host: str = HOST) -> list[int]:
    return [port for port in ports if budget.take(host, port, now)]


def test_few_ports_of_a_host_are_dialled_until_one_answers() -> None:
    budget = DialBudget()
    dialled = taken(budget, range(2000, 3000), 0)
    assert dialled == list(range(2000, 2000 + TOLD_PORTS))
    assert taken(budget, range(2000, 3000), 1) == dialled, "known ones stay"
    for port in dialled:
        budget.answered(HOST, port)
    assert len(taken(budget, range(2000, 3000), 2)) == 2 * TOLD_PORTS, "many nodes may share a host"
    assert len(taken(budget, range(2000, 3000), 2, "192.0.2.8")) == TOLD_PORTS


def test_the_addresses_of_one_ipv6_network_are_one_host() -> None:
    budget = DialBudget()
    count = sum(budget.take(f"2001:db8::{number:x}", 40001 + number, 0) for number in range(100))
    assert count == TOLD_PORTS
    assert budget.take("2001:db8:0:1::1", 40001, 0)
    budget.answered("2001:db8::1", 40002)
    one_port = sum(budget.take(f"2001:db8::{number:x}", 40002, 0) for number in range(100))
    assert one_port <= TOLD_PORTS + 1, "an answer of one address says nothing of the others"
    budget.take("::ffff:192.0.2.9", 40001, 0)
    assert len(taken(budget, range(2000, 3000), 0, "192.0.2.9")) == TOLD_PORTS - 1


def test_after_failures_new_ports_wait_twice_as_long_each_time() -> None:
    budget, now, waits = DialBudget(), 0.0, []
    for port in range(2000, 2000 + TOLD_PORTS):
        began = now
        while not budget.take(HOST, port, now):
            now += 0.5
        waits.append(now - began)
        budget.failed(HOST, port, now)
    assert waits[:4] == [0, 0, 0, 0]
    assert waits[4:8] == [1, 2, 4, 8] and max(waits) == 64
    assert budget.take("192.0.2.8", 2000, 0)


def test_an_answer_ends_the_waiting() -> None:
    budget = DialBudget()
    for port in range(2000, 2008):
        budget.take(HOST, port, 0)
    for port in range(2000, 2007):
        budget.failed(HOST, port, 0)
    assert not budget.take(HOST, 3000, 0)
    budget.answered(HOST, 2007)
    assert budget.take(HOST, 3000, 0)


def test_what_was_not_told_has_no_part_in_it() -> None:
    budget = DialBudget()
    for port in range(2000, 2020):
        budget.failed(HOST, port, 0)
        budget.answered(HOST, port)
    assert budget.take(HOST, 3000, 0)


def test_ports_that_never_answered_are_forgotten_after_a_while() -> None:
    budget = DialBudget()
    taken(budget, range(2000, 3000), 0)
    assert not budget.take(HOST, 4000, 500)
    assert budget.take(HOST, 4000, 700)


@pytest.mark.parametrize("make", [DialBudget, AskBudget])
def test_hosts_are_bounded(make: type[DialBudget] | type[AskBudget]) -> None:
    budget = make()
    for number in range(5000):
        host = f"198.51.{number // 250}.{number % 250}"
        budget.take(host, 2000, 0) if isinstance(budget, DialBudget) else budget.take(host, 0)
    assert 0 < len(budget) <= 1024


def test_a_host_that_always_has_news_is_asked_ever_more_seldom() -> None:
    budget = AskBudget()
    times = [second / 10 for second in range(36_000) if budget.take(HOST, second / 10)]
    assert sum(at == times[0] for at in times) == 1
    first_minute, last_minute = (sum(begin <= at < begin + 60 for at in times) for begin in (0, 3540))
    assert FIRST_ASKS <= first_minute <= FIRST_ASKS + 24
    assert last_minute <= 1


def test_a_host_with_news_now_and_then_never_waits() -> None:
    budget = AskBudget()
    assert all(budget.take(HOST, at) for at in range(0, 3600, 10))
    assert all(budget.take("192.0.2.8", 0) for _ in range(FIRST_ASKS))


def test_a_host_that_keeps_still_for_long_may_have_news_again() -> None:
    budget = AskBudget()
    while budget.take(HOST, 0):
        pass
    assert not budget.take(HOST, 1)
    assert all(budget.take(HOST, 20_000) for _ in range(FIRST_ASKS))


@pytest.mark.slow
def test_what_has_answered_is_bounded() -> None:
    budget = DialBudget()
    for number in range(2 * ANSWERED):
        host = f"2001:db8::{number:x}"
        assert budget.take(host, 40001, 0)
        budget.answered(host, 40001)
    assert len(budget) == 1
    known = sum(budget.take(f"2001:db8::{number:x}", 40001, 0) for number in range(2 * ANSWERED))
    assert known <= ANSWERED + TOLD_PORTS


def test_a_host_that_answers_with_what_is_of_no_use_has_to_wait() -> None:
    budget = AskBudget()
    assert budget.take(HOST, 0.0)
    budget.spend(HOST, 0.0)
    assert not budget.take(HOST, 4.0) and budget.take(HOST, 5.0), "half as many in that time as usual"
    assert budget.take("192.0.2.77", 0.0)
