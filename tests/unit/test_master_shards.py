"""Which shard and number a new worker gets."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmta.master.assignment import Assignment
from fastmta.master.shards import choose, is_locked, order, smallest_free


def never(shard: int) -> bool:
    return False


def assignment(slot: int, slots: int, primary: int) -> Assignment:
    nothing = cast(Any, SimpleNamespace())
    return Assignment(
        config=nothing,
        generation=1,
        number=0,
        slot=slot,
        slots=slots,
        listeners=(),
        shared=nothing,
        primary_shard=primary,
        ready_fd=-1,
        control_fd=-1,
        identity=nothing,
        log=nothing,
    )


def test_the_first_workers_get_the_first_shards() -> None:
    assert [choose(slot, 4, 16, range(slot), never) for slot in range(4)] == [0, 1, 2, 3]


def test_a_replacement_gets_the_shard_of_the_dead() -> None:
    assert choose(1, 2, 16, [0], never, last=5) == 5


def test_a_new_generation_gets_shards_that_no_live_worker_has() -> None:
    assert choose(0, 2, 16, [0, 1], never) == 2
    assert choose(1, 2, 16, [0, 1, 2], never) == 3


def test_a_locked_shard_is_passed_over() -> None:
    assert choose(0, 2, 16, [], {0, 2}.__contains__) == 4


def test_when_its_own_are_taken_it_gets_another() -> None:
    assert choose(0, 2, 4, [0, 2], never) == 1


def test_none_is_left() -> None:
    assert choose(0, 2, 4, range(4), never) is None


@given(st.integers(1, 16))
def test_every_shard_is_adopted_by_exactly_one_worker_of_a_generation(slots: int) -> None:
    workers = [assignment(slot, slots, -1) for slot in range(slots)]
    for shard in range(16):
        assert sum(worker.may_adopt(shard) for worker in workers) == 1


@given(st.integers(1, 16), st.data())
def test_candidates_are_what_may_be_adopted_the_primary_one_first(slots: int, data: st.DataObject) -> None:
    slot = data.draw(st.integers(0, slots - 1))
    primary = data.draw(st.integers(0, 15))
    worker = assignment(slot, slots, primary)
    candidates = worker.candidates()
    assert candidates[0] == primary
    assert sorted(candidates) == [shard for shard in range(16) if worker.may_adopt(shard)]


@given(st.integers(1, 8), st.integers(1, 32), st.data())
def test_order_is_a_permutation(slots: int, shards: int, data: st.DataObject) -> None:
    slot = data.draw(st.integers(0, slots - 1))
    assert sorted(order(slot, slots, shards)) == list(range(shards))


@pytest.mark.parametrize(("taken", "number"), [([], 0), ([0, 1, 2], 3), ([1, 2], 0), ([0, 2], 1)])
def test_numbers_stay_small(taken: list[int], number: int) -> None:
    assert smallest_free(taken) == number


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
