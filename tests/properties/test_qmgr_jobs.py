"""The preemptive order against a slow, plain rendering of Postfix's qmgr_job.c, and what it promises."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fastmta._ext.jobs import JobQueue


class OracleJob:
    def __init__(self, name: int, entries: int, queued: float) -> None:
        self.name, self.total, self.queued = name, entries, queued
        self.selected = 0
        self.available = self.used = self.level = 0
        self.parent: OracleJob | None = None
        self.children: list[OracleJob] = []

    @property
    def needed(self) -> int:
        return self.total - self.selected


class Oracle:
    """qmgr_job.c for jobs that are read completely and never block, without its cache."""

    def __init__(self, cost: int, loan: int, discount: int, minimum: int) -> None:
        self.cost, self.loan, self.factor, self.minimum = cost, loan, 100 - discount, minimum
        self.list: list[OracleJob] = []

    def add(self, name: int, entries: int, queued: float) -> None:
        self.list.append(OracleJob(name, entries, queued))

    def next(self, now: float) -> int | None:
        if not self.list:
            return None
        job = self.list[0]
        if self.cost >= 2:
            job = self.preempt(job, now)
        job.available += 1
        job.used += 1
        job.selected += 1
        if job.needed == 0:
            self.retire(job)
        return job.name

    def preempt(self, current: OracleJob, now: float) -> OracleJob:
        if current.available <= 0 or current.total < self.minimum * self.cost:
            return current
        best = self.candidate(current, now)
        if best is None:
            return current
        expected = best.needed
        if current.available // self.cost + self.loan < expected * self.factor / 100:
            return current
        if best.level > 0:
            self.pop(best)
        self.list.remove(best)
        self.list.insert(self.list.index(current), best)
        best.parent = current
        current.children.append(best)
        best.level = current.level + 1
        current.available -= expected * self.cost
        best.used = -expected
        return best

    def candidate(self, current: OracleJob, now: float) -> OracleJob | None:
        slots = (current.needed + current.available) // self.cost
        best, best_score = None, 0.0
        for job in self.list[self.list.index(current) + 1 :] if slots > 0 else []:
            if job.children:
                continue
            delay = now - job.queued + 1
            if 0 < job.needed <= slots and delay / job.total > best_score:
                best, best_score = job, delay / job.total
            if delay <= best_score and job.level == 0:
                break
        return best

    def pop(self, job: OracleJob) -> None:
        parent = job.parent
        if parent is not None:
            if job.level == parent.level + 1:
                parent.available -= job.used * self.cost
            parent.children.remove(job)
            parent.children.extend(job.children)
            job.parent = None
        for child in job.children:
            child.parent = parent
        job.children = []
        job.level = 0

    def retire(self, job: OracleJob) -> None:
        if job.level > 0:
            self.pop(job)
        for child in job.children:
            child.parent = None
        job.children = []
        self.list.remove(job)


SIZES = st.one_of(st.just(1), st.integers(1, 4), st.integers(1, 120))
STEPS = st.lists(st.one_of(SIZES, st.none(), st.just(0)), min_size=1, max_size=250)
RULES = st.tuples(st.sampled_from([0, 1, 2, 5, 10]), st.integers(0, 5), st.integers(0, 100), st.integers(0, 4))


@given(STEPS, RULES)
def test_the_order_is_that_of_postfix(steps: list[int | None], rules: tuple[int, int, int, int]) -> None:
    """A number: a job of so many entries comes; None: an entry is delivered; 0: a second passes."""
    queue: JobQueue[int] = JobQueue(*rules)
    oracle = Oracle(*rules)
    now = 1000.0
    for name, step in enumerate(steps):
        if step is None:
            node = queue.next(now)
            assert (node.message if node is not None else None) == oracle.next(now)
        elif step == 0:
            now += 1
        else:
            queue.add(name, step, now)
            oracle.add(name, step, now)
    while True:
        node = queue.next(now)
        expected = oracle.next(now)
        assert (node.message if node is not None else None) == expected
        if expected is None:
            return


@given(STEPS, RULES, st.randoms(use_true_random=False))
def test_every_entry_comes_once_also_when_jobs_are_removed(steps, rules, random) -> None:  # type: ignore[no-untyped-def]
    queue: JobQueue[int] = JobQueue(*rules)
    wanted: Counter[int] = Counter()
    got: Counter[int] = Counter()
    for name, step in enumerate(steps):
        if step is None:
            node = queue.next(1000.0 + name)
            if node is not None:
                got[node.message] += 1
        elif step == 0:
            members = queue.members()
            if members:
                victim = random.choice(members)
                wanted[victim.message] = got[victim.message]
                queue.remove(victim)
                if not wanted[victim.message]:
                    del wanted[victim.message]
        else:
            queue.add(name, step, 1000.0 + name)
            wanted[name] = step
    while (node := queue.next(2000.0)) is not None:
        got[node.message] += 1
    assert got == wanted
    assert queue.members() == []


@given(st.lists(st.integers(1, 5), min_size=1, max_size=100))
def test_small_jobs_go_in_the_order_of_arrival(sizes: list[int]) -> None:
    queue: JobQueue[int] = JobQueue()
    for name, size in enumerate(sizes):
        queue.add(name, size, 1000.0)
    got = [node.message for _ in range(sum(sizes)) if (node := queue.next(1000.0))]
    assert got == sorted(got)


@given(st.integers(20, 500), st.integers(0, 300))
def test_a_big_job_loses_at_most_its_part(size: int, small: int) -> None:
    """However much small mail comes: of six deliveries the big job has five, but for the loan."""
    queue: JobQueue[str] = JobQueue()
    queue.add("big", size, 1000.0)
    for _ in range(small):
        queue.add("small", 1, 1001.0)
    before = 0
    for taken in range(1, size + small + 1):
        node = queue.next(1002.0)
        assert node is not None
        if node.message == "big" and queue.members() and queue.members()[0].message != "big":
            break
        before += node.message == "small"
        assert before <= taken / 6 + 4 or taken - before == size
