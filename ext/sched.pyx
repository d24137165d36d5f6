"""The core of the queue manager: destinations, their entries, and the places (slots) in which they are delivered.

qmgr/active.py resolves recipients, and calls `Scheduler.add` or `add_job`; the scheduler calls `agent.slot(slot)`
when a destination has entries and a place for them; the agent calls `slot.take()` and `request.finish(...)`; the
scheduler then calls its owner: `finished(request, results, attempt, now)`, `suspended(requests, reason)`,
`withdrawn(request)` and `arm(when)` (call `run_timers()` at that Unix time). No socket and no timer in here: the
clock and the shared counts are handed in.

Places: a destination has a window and a transport a process limit, both shared by all workers (ext/shared.pyx). A
slot keeps its place for as long as it finds entries, so that a busy connection costs no accounting; it gives the
place up when another worker waits and holds less than its part, when other destinations of the transport wait for a
process, when the window shrank, or for a rate delay. Who cannot get a place says so in shared memory and is woken
(`woken()`, by the eventfd), and looks again every POLL seconds in any case.

The order inside a destination is that of ext/jobs.pyx.

What an agent does wrong goes to owner.failed, and its recipients are deferred. Reference: qmgr(8), SCHEDULER_README.
"""

cimport cython

from collections import deque
from heapq import heappop, heappush

from fastmta._ext.jobs cimport JobQueue, Node
from fastmta._ext.window cimport Window

from fastmta.model.outcome import Attempt, Deferred

cdef extern from *:
    """
    #include <time.h>
    static inline double fm_wall(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
    }
    """
    double wall_time "fm_wall"() noexcept nogil

cdef enum:
    GRANTED = 0
    NO_PROCESS = 1
    NO_WINDOW = 2
    LATER = 3
    DEAD = 4

cdef double POLL = 0.25  # seconds between looks at the places that others hold
cdef double TURN = 0.05  # seconds that a worker keeps a place of which it has only a part

LOST = Deferred("4.3.0", "unknown mail transport error")
NOWHERE = Attempt()

SUSPENDED = "delivery temporarily suspended: "


cdef class Scheduler:
    """All transports of a worker. `owner` answers for messages (see above); `table` is the SharedTable."""

    def __init__(self, table, owner, clock=None):
        self.table = table
        self.owner = owner
        self.clock = clock
        self.transports = {}
        self.dirty = []
        self.timers = []
        self.waiting = set()
        self.slots = set()

    cdef double now(self):
        return wall_time() if self.clock is None else self.clock()

    def transport(self, rules, agent):
        """Make a transport by its rules (qmgr.settings.TransportRules) with the agent that delivers for it."""
        cdef Transport made = Transport(self, rules, agent)
        self.transports[rules.name] = made
        return made

    cpdef DeliveryRequest add(self, Destination destination, object message, list recipients):
        """One more entry, a job of its own: the whole of what a message has for this destination."""
        cdef DeliveryRequest request = DeliveryRequest.__new__(DeliveryRequest)
        request.message = message
        request.recipients = [0] if recipients is None else recipients
        request.destination = destination
        request.queued = message.activated
        request.total = request.left = 1
        destination.jobs.append(request)
        destination.todo += 1
        if destination.todo > destination.idle and not destination.queued and not destination.waiting:
            destination.queued = True
            destination.via.ready.append(destination)
            self.dispatch(destination.via)
        return request

    cpdef Job add_job(self, Destination destination, object message, list groups):
        """A message with several entries for this destination: each group is a list of recipient indexes."""
        cdef Job job = Job.__new__(Job)
        cdef DeliveryRequest request
        cdef list group
        job.message = message
        job.queued = message.activated
        job.entries = []
        for group in reversed(groups):
            request = DeliveryRequest.__new__(DeliveryRequest)
            request.message = message
            request.recipients = group
            request.destination = destination
            request.queued = job.queued
            job.entries.append(request)
        job.total = job.left = len(groups)
        destination.jobs.append(job)
        destination.todo += job.left
        if destination.todo > destination.idle and not destination.queued and not destination.waiting:
            destination.queued = True
            destination.via.ready.append(destination)
            self.dispatch(destination.via)
        return job

    cdef void dispatch(self, Transport transport):
        # Give out places while there are any. An agent may take, finish and so come back here before slot() returns:
        # the outermost call does the work.
        cdef Transport next_one
        if not transport.dirty:
            transport.dirty = True
            self.dirty.append(transport)
        if self.dispatching:
            return
        self.dispatching = True
        try:
            while self.dirty:
                next_one = self.dirty.pop(0)
                next_one.dirty = False
                next_one.give()
        except BaseException as error:
            self.owner.failed("scheduler", error)
        finally:
            self.dispatching = False

    cdef int grant(self, Destination destination, double now) except -1:
        # Try to get a place at the destination and a process of its transport.
        cdef Transport transport = destination.via
        cdef Window window = destination.window
        cdef double when
        if not self.forced and not window.may_acquire():
            return NO_WINDOW
        if not window.try_acquire():
            if window.size() == 0:
                when = window.dead_until()
                if when <= now or when > now + transport.dead_time + 1:
                    window.revive()
                    if not window.try_acquire():
                        return NO_WINDOW
                else:
                    return DEAD
            else:
                return NO_WINDOW
        if transport.rate_delay > 0:
            when = window.not_before()
            if now < when <= now + transport.rate_delay:
                window.release()
                self.set_timer(when, destination)
                return LATER
        if transport.processes is not None and not (
            (self.forced or transport.processes.may_acquire()) and transport.processes.try_acquire()
        ):
            window.release()
            return NO_PROCESS
        return GRANTED

    cdef void wait_for(self, object who, Window window):
        if not self.polling:
            self.polling = True
            self.set_timer(self.now() + POLL, None)
        window.wait()
        self.waiting.add(who)

    cdef void set_timer(self, double when, object what):
        cdef bint first = not self.timers or when < self.timers[0][0]
        if isinstance(what, Destination):
            if (<Destination>what).timed:
                return
            (<Destination>what).timed = True
        elif isinstance(what, Transport):
            if (<Transport>what).timed:
                return
            (<Transport>what).timed = True
        self.timer_count += 1
        heappush(self.timers, (when, self.timer_count, what))
        if first:
            self.owner.arm(when)

    def run_timers(self):
        """Do what was to be done by now; arm the next."""
        cdef double now = self.now()
        while self.timers and self.timers[0][0] <= now:
            what = heappop(self.timers)[2]
            if what is None:
                self.polling = False
                self.forced = True  # a worker that hangs must not keep places from others
                self.woken()
                self.forced = False
            elif isinstance(what, Destination):
                (<Destination>what).timed = False
                self.retry(<Destination>what)
            else:
                (<Transport>what).timed = False
                self.dispatch(<Transport>what)
        if self.timers:
            self.owner.arm(self.timers[0][0])

    def retry(self, Destination destination not None):
        """Look again whether a destination can have a place."""
        if destination.todo > destination.idle and not destination.queued:
            destination.queued = True
            destination.via.ready.append(destination)
        self.dispatch(destination.via)

    def woken(self):
        """Another worker gave up a place (the eventfd became readable), or it is time to look."""
        cdef list who = list(self.waiting)
        self.waiting.clear()
        for one in who:
            if isinstance(one, Destination):
                # Our bit stays while we try, so that nobody takes us for content; the retry sets or clears it.
                (<Destination>one).waiting = False
                self.retry(<Destination>one)
                if (<Destination>one).waiting:
                    (<Destination>one).window.pass_on()
                else:
                    (<Destination>one).window.stop_waiting()
            else:
                self.dispatch(<Transport>one)
                if one in self.waiting:
                    (<Transport>one).processes.pass_on()
                else:
                    (<Transport>one).processes.stop_waiting()

    cdef void suspend(self, Destination destination, double now):
        # The destination is dead: its entries are deferred without an attempt.
        cdef list requests = destination.drop_all()
        if not requests:
            return
        why = destination.window.reason()
        if why is None:
            why = ("4.4.1", "destination is not available")
        self.owner.suspended(requests, Deferred(why[0], SUSPENDED + why[1]))

    def withdraw(self, queue_ids):
        """Take the entries of these messages (a set of queue ids) out of the queues; owner.withdrawn(request) for each.

        Those on their way are left alone.
        """
        cdef Transport transport
        cdef Destination destination
        cdef list found = []
        for transport in self.transports.values():
            for destination in transport.destinations.values():
                if destination.todo:
                    destination.withdraw(queue_ids, found)
        for request in found:
            self.owner.withdrawn(request)

    def drain(self):
        """No entry is given out any more. Those on their way end."""
        self.draining = True

    def forget_dead(self):
        """A queue run that somebody asked for: all destinations get another chance."""
        cdef Transport transport
        cdef Destination destination
        for transport in self.transports.values():
            for destination in transport.destinations.values():
                if destination.window.size() == 0:
                    destination.window.revive()

    def trim(self, double idle=60.0):
        """Forget the destinations without mail for so many seconds."""
        cdef Transport transport
        cdef Destination one
        cdef double before = self.now() - idle
        for transport in self.transports.values():
            for name, one in list(transport.destinations.items()):
                if not (one.todo or one.busy or one.queued or one.waiting or one.timed) and one.last_used < before:
                    del transport.destinations[name]

    def census(self):
        """{message: recipients that wait or are on their way}, and the requests on their way, for the sweep."""
        cdef Transport transport
        cdef Destination destination
        cdef Node node
        cdef Slot slot
        counts = {}
        flying = []
        for transport in self.transports.values():
            for destination in transport.destinations.values():
                for node in destination.jobs.members():
                    if isinstance(node, Job):
                        number = sum([len(one.recipients) for one in (<Job>node).entries])
                    else:
                        number = len((<DeliveryRequest>node).recipients)
                    counts[node.message] = counts.get(node.message, 0) + number
        for slot in self.slots:
            for request in slot.requests:
                counts[request.message] = counts.get(request.message, 0) + len(request.recipients)
                flying.append(request)
        return counts, flying


cdef class Transport:
    """One delivery agent of master.cf, its rules and its destinations."""

    def __init__(self, Scheduler scheduler, rules, agent):
        self.scheduler = scheduler
        self.rules = rules
        self.name = rules.name
        self.service = rules.service
        self.agent = agent
        self.destinations = {}
        self.ready = deque()
        self.process_limit = rules.process_limit
        self.limit = 1 if rules.destination_rate_delay > 0 else rules.destination_concurrency_limit
        self.initial = rules.initial_destination_concurrency
        if self.limit and self.limit < self.initial:
            self.initial = self.limit
        self.positive_base = rules.positive_feedback.base
        self.positive_kind = rules.positive_feedback.kind
        self.negative_base = rules.negative_feedback.base
        self.negative_kind = rules.negative_feedback.kind
        self.cohort_limit = rules.failed_cohort_limit
        self.rate_delay = rules.destination_rate_delay
        self.transport_delay = rules.transport_rate_delay
        self.dead_time = rules.minimal_backoff_time
        self.slot_cost = rules.delivery_slot_cost
        self.slot_loan = rules.delivery_slot_loan
        self.slot_discount = rules.delivery_slot_discount
        self.minimum_slots = rules.minimum_delivery_slots
        if self.process_limit > 0 or self.transport_delay > 0:
            if self.process_limit <= 0:
                self.process_limit = 65535
            self.processes = Window(scheduler.table, f"transport {self.name}", 65535, self.process_limit)

    def destination(self, str name not None, str nexthop not None):
        """The destination of that queue name, made if need be."""
        found = self.destinations.get(name)
        if found is None:
            found = self.destinations[name] = Destination(self, name, nexthop)
        return found

    cdef int give(self) except -1:
        # Give places to the destinations that want one, in turn, while there are any.
        cdef Scheduler scheduler = self.scheduler
        cdef Destination destination
        cdef Slot slot
        cdef int answer
        cdef double now = scheduler.now(), when
        self.starved = False
        while self.ready:
            if scheduler.draining:
                return 0
            if self.transport_delay > 0:
                when = self.processes.not_before()
                if now < when <= now + self.transport_delay:
                    scheduler.set_timer(when, self)
                    return 0
            destination = <Destination>self.ready[0]
            if destination.todo <= destination.idle:
                self.ready.popleft()
                destination.queued = False
                continue
            answer = scheduler.grant(destination, now)
            if answer == NO_PROCESS:
                self.starved = True
                if self.processes.in_use() > self.processes.mine or self.processes.others_waiting():
                    scheduler.wait_for(self, self.processes)
                    # One may have become free before our bit was set.
                    if self.processes.in_use() < self.process_limit and self.processes.may_acquire():
                        continue
                return 0
            self.ready.popleft()
            destination.queued = False
            if answer == GRANTED:
                if destination.waiting and destination.todo <= destination.idle + 1:
                    destination.stop_waiting()
                slot = Slot.__new__(Slot)
                slot.destination = destination
                slot.requests = []
                slot.granted = now
                destination.busy += 1
                destination.idle += 1
                destination.last_used = now
                scheduler.slots.add(slot)
                if destination.todo > destination.idle:
                    destination.queued = True
                    self.ready.append(destination)
                try:
                    self.agent.slot(slot)
                except Exception as error:
                    scheduler.owner.failed(self.name, error)
                    slot.release()
                    for request in list(slot.requests):
                        request.finish([LOST] * len(request.recipients), NOWHERE)
            elif answer == DEAD:
                scheduler.suspend(destination, now)
            elif answer == NO_WINDOW and (
                destination.window.in_use() > destination.window.mine or destination.window.others_waiting()
            ):
                destination.waiting = True
                scheduler.wait_for(destination, destination.window)
                if (
                    destination.window.in_use() < min(destination.window.size(), self.limit or 65535)
                    and destination.window.may_acquire()
                ):
                    # It became free before our bit was set.
                    destination.stop_waiting()
                    destination.queued = True
                    self.ready.append(destination)
        return 0


cdef class Destination:
    """Where one transport delivers to: the next hop, its window, and the entries that wait."""

    def __init__(self, Transport transport, str name, str nexthop):
        self.via = transport
        self.name = name
        self.nexthop = nexthop
        self.window = Window(transport.scheduler.table, f"{transport.name}:{name}", transport.initial, transport.limit)
        self.last_used = transport.scheduler.now()
        self.jobs = JobQueue(
            transport.slot_cost, transport.slot_loan, transport.slot_discount, transport.minimum_slots
        )

    @property
    def transport(self):
        """The name of the transport."""
        return self.via.name

    cpdef stop_waiting(self):
        """No place is wanted any more."""
        self.waiting = False
        self.via.scheduler.waiting.discard(self)
        self.window.stop_waiting()

    def dead_reason(self):
        """The Deferred of a destination that is dead now, else None."""
        cdef double until = self.window.dead_until()
        cdef double now
        if until == 0:
            return None
        now = self.via.scheduler.now()
        if until <= now or until > now + self.via.dead_time + 1:
            return None
        why = self.window.reason() or ("4.4.1", "destination is not available")
        return Deferred(why[0], SUSPENDED + why[1])

    cdef DeliveryRequest select(self, double now):
        # The next entry: the next job's next.
        cdef Node node = self.jobs.take(now)
        if node is None:
            return None
        self.todo -= 1
        return <DeliveryRequest>((<Job>node).entries.pop()) if isinstance(node, Job) else <DeliveryRequest>node

    def drop_all(self):
        """Take out all entries that wait."""
        cdef Node node
        cdef list requests = []
        for node in self.jobs.clear():
            if isinstance(node, Job):
                requests.extend(reversed((<Job>node).entries))
            else:
                requests.append(node)
        self.todo = 0
        if self.waiting:
            self.stop_waiting()
        return requests

    def withdraw(self, queue_ids, list found not None):
        """Take out the entries of these messages, into found."""
        cdef Node node
        for node in self.jobs.members():
            if node.message.envelope.queue_id in queue_ids:
                if isinstance(node, Job):
                    found.extend(reversed((<Job>node).entries))
                else:
                    found.append(node)
                self.todo -= node.left
                self.jobs.remove(node)
        if self.todo == 0 and self.waiting:
            self.stop_waiting()


cdef class Job(Node):
    """The entries of one message for one destination."""


cdef class DeliveryRequest(Node):
    """One entry: some recipients of a message for one destination, to be delivered in one transaction.

    message, recipients (a list of indexes into message.envelope.recipients), nexthop, started (Unix time of take()).
    Whoever took it must call `finish` once, whatever happens.
    """

    @property
    def nexthop(self):
        """Where it goes."""
        return self.destination.nexthop

    @property
    def transport(self):
        """The name of the transport."""
        return self.destination.via.name

    def pass_on(self, Destination destination not None):
        """Not for this agent: let another destination deliver it. The request is finished by that."""
        cdef Slot slot = self.slot
        if self.finished or slot is None:
            return
        self.finished = True
        self.slot = None
        slot.requests.remove(self)
        destination.via.scheduler.in_flight -= 1
        try:
            destination.via.scheduler.add(destination, self.message, self.recipients)
        finally:
            slot.finished_one()

    @property
    def service(self):
        """What its deliveries are logged as."""
        return self.destination.via.service

    def connected(self):
        """The next hop answered as a live site does: failures of other connections no longer add up."""
        self.destination.window.alive()

    def finish(self, list results not None, attempt, site_down=None):
        """The transaction is over: a Result for each recipient, in their order, and the facts for the log.

        site_down: a Deferred when the site could not be reached or refused to talk: negative feedback. A second call
        is ignored.
        """
        cdef Destination destination = self.destination
        cdef Transport transport = destination.via
        cdef Scheduler scheduler = transport.scheduler
        cdef Slot slot = self.slot
        cdef double now
        cdef bint dead = False
        if self.finished or slot is None:
            return
        self.finished = True
        if len(results) != len(self.recipients):
            wrong = f"{len(results)} results for {len(self.recipients)} recipients"
            scheduler.owner.failed(transport.name, ValueError(wrong))
            results = results[:len(self.recipients)] + [LOST] * (len(self.recipients) - len(results))
        now = scheduler.now()
        destination.last_used = now
        if site_down is None:
            destination.window.positive(transport.initial, transport.positive_base, transport.positive_kind)
        else:
            # The reason first: other workers need it as soon as the window is closed.
            destination.window.set_reason(site_down.dsn, site_down.text)
            dead = destination.window.negative(
                transport.cohort_limit, transport.negative_base, transport.negative_kind, now + transport.dead_time
            )
        if transport.rate_delay > 0:
            if dead:
                destination.window.revive()
            destination.window.delay_until(now + transport.rate_delay)
        self.slot = None
        slot.requests.remove(self)
        scheduler.in_flight -= 1
        try:
            if dead:
                scheduler.suspend(destination, now)
            scheduler.owner.finished(self, results, attempt, now)
        finally:
            slot.finished_one()
            if (
                destination.todo > destination.idle
                and not destination.queued
                and not destination.waiting
                and destination.window.size() > destination.window.in_use()
            ):
                # The window grew.
                destination.queued = True
                transport.ready.append(destination)
                scheduler.dispatch(transport)


@cython.freelist(64)
cdef class Slot:
    """A place at a destination, given to an agent. `destination.nexthop` and `.transport` say where."""

    @property
    def nexthop(self):
        """Where it goes."""
        return self.destination.nexthop

    cpdef DeliveryRequest take(self):
        """The next entry; None when there is nothing (more) for this place: it is given back by that, as soon as what
        was taken in it is finished, and must not be used again.
        """
        cdef Destination destination = self.destination
        cdef Scheduler scheduler = destination.via.scheduler
        cdef DeliveryRequest request
        cdef double now
        if self.closed:
            return None
        if destination.todo > 0 and not scheduler.draining:
            now = scheduler.now()
            if not self.must_yield(now):
                request = destination.select(now)
                if destination.todo == 0 and destination.waiting:
                    destination.stop_waiting()
                request.started = now
                request.slot = self
                if not self.requests:
                    destination.idle -= 1
                self.requests.append(request)
                self.used = True
                scheduler.in_flight += 1
                return request
        self.release()
        return None

    cdef bint must_yield(self, double now):
        cdef Destination destination = self.destination
        cdef Transport transport = destination.via
        cdef Scheduler scheduler = transport.scheduler
        cdef Window window = destination.window
        if window.size() < window.in_use():
            return True  # it shrank, or the destination is dead
        if window.over_share(now - self.granted >= TURN):
            destination.waiting = self.yielded = True
            scheduler.wait_for(destination, window)
            return True
        if transport.processes is not None:
            if self.used and transport.starved:
                return True  # another destination has its turn
            if transport.processes.over_share(now - self.granted >= TURN):
                if self.used or self.granted < now:
                    scheduler.wait_for(transport, transport.processes)
                    return True
            if transport.transport_delay > 0 and not transport.processes.claim_start(now, transport.transport_delay):
                return True
        return transport.rate_delay > 0 and self.used

    cpdef void release(self):
        """The agent does not want the place any more. What it took it must still finish."""
        if not self.closed:
            self.closed = True
            if not self.requests:
                self.destination.idle -= 1
                self.leave()

    cdef void finished_one(self):
        if not self.requests:
            if self.closed:
                self.leave()
            else:
                self.destination.idle += 1

    cdef void leave(self):
        cdef Destination destination = self.destination
        cdef Transport transport = destination.via
        cdef Scheduler scheduler = transport.scheduler
        if self.gone:
            return
        self.gone = True
        scheduler.slots.discard(self)
        destination.busy -= 1
        destination.window.release()
        if transport.processes is not None:
            transport.processes.release()
        if destination.todo > destination.idle and not destination.queued and not self.yielded:
            destination.queued = True
            transport.ready.append(destination)
        if transport.ready:
            scheduler.dispatch(transport)
