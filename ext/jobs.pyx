"""The order of jobs inside a destination: Postfix's preemptive scheduler (Patrik Rak).

ext/sched.pyx has a JobQueue for each destination. A job is the entries of one message there; a message with one
entry is its own job, and as long as there are only such jobs the order is that of arrival. Every delivery_slot_cost
entries of a big job earn it one delivery slot, for which a smaller job may go before it: so a mailing list of
50,000 recipients does not hold up a password reset, nor does a stream of small mail hold up the list for longer
than by one part in delivery_slot_cost.

The list is in order of arrival, but a job that preempts stands before the one that it preempted (its parent; the
first of the list is always the current job, since inside one destination no job can block). What differs from
qmgr_job.c: a job's size is known from the beginning, so the estimates there are exact here; times are not whole
seconds.

Raises nothing. Reference: SCHEDULER_README.
"""

cimport cython


@cython.freelist(256)
cdef class Node:
    """A job in the list of its destination."""


cdef class JobQueue:
    """The jobs of one destination, by the parameters of its transport. slot_cost below 2: in order of arrival."""

    def __init__(self, int slot_cost=5, int slot_loan=3, int slot_discount=50, int minimum_slots=3):
        self.slot_cost = slot_cost
        self.slot_loan = slot_loan
        self.slot_loan_factor = 100 - slot_discount
        self.minimum_slots = minimum_slots

    def add(self, message, int entries, double queued):
        """A job with that many entries (for tests: sched.pyx has jobs of its own)."""
        cdef Node node = Node.__new__(Node)
        node.message = message
        node.total = node.left = entries
        node.queued = queued
        self.append(node)
        return node

    def next(self, double now):
        """Whose entry is delivered next; None when there is none."""
        return self.take(now)

    cdef void append(self, Node node):
        node.level = 0
        node.prev = self.tail
        if self.tail is None:
            self.head = node
        else:
            self.tail.next = node
        self.tail = node
        self.candidate_for = None

    cdef Node take(self, double now):
        # The job whose entry is next (qmgr_job_entry_select). One without more entries leaves the list.
        cdef Node node = self.head
        if node is None:
            return None
        if node.total > 1 and self.slot_cost >= 2:
            node = self.preempt(node, now)
        node.slots_available += 1
        node.slots_used += 1
        if node is not self.candidate_for:
            self.candidate_for = None
        node.left -= 1
        if node.left == 0:
            self.remove(node)
        return node

    cpdef void remove(self, Node node):
        """Take a job out of the list."""
        node.left = 0
        if node.level > 0:
            self.pop(node)
        self.unlink(node)

    cpdef list members(self):
        """The jobs in the order in which they would go without any further preemption."""
        cdef Node node = self.head
        cdef list found = []
        while node is not None:
            found.append(node)
            node = node.next
        return found

    cdef list clear(self):
        cdef list found = self.members()
        cdef Node node
        for node in found:
            node.prev = node.next = node.parent = None
            node.children = None
        self.head = self.tail = self.candidate = self.candidate_for = None
        return found

    cdef void unlink(self, Node node):
        cdef Node child
        if node.children is not None:
            for child in node.children:
                child.parent = None
            node.children = None
        if node is self.candidate or node is self.candidate_for:
            self.candidate = self.candidate_for = None
        if node.prev is None:
            self.head = node.next
        else:
            node.prev.next = node.next
        if node.next is None:
            self.tail = node.prev
        else:
            node.next.prev = node.prev
        node.prev = node.next = None

    cdef Node find_candidate(self, Node current, double now):
        # The job that should go before the current one: the one with the best ratio of age to size among those that fit
        # into the slots that the current one can still earn. The answer holds for a second, unless something changes.
        cdef Node node, best = None
        cdef double score, best_score = 0, delay
        cdef int max_slots
        if self.candidate_for is current and (self.candidate_time == <long>now or self.candidate is None):
            return self.candidate
        max_slots = (current.left + current.slots_available) // self.slot_cost
        if max_slots > 0:
            node = current.next
            while node is not None:
                if node.children is None:
                    delay = now - node.queued + 1
                    if 0 < node.left <= max_slots:
                        score = delay / node.total
                        if score > best_score:
                            best_score = score
                            best = node
                    if delay <= best_score and node.level == 0:
                        break
                node = node.next
        self.candidate = best
        self.candidate_for = current
        self.candidate_time = <long>now
        return best

    cdef Node preempt(self, Node current, double now):
        # The job to go next: the current one, or one that preempts it and so becomes the first of the list.
        cdef Node node
        cdef int expected
        if current.slots_available <= 0 or current.total < self.minimum_slots * self.slot_cost:
            return current
        node = self.find_candidate(current, now)
        if node is None:
            return current
        expected = node.left
        if current.slots_available // self.slot_cost + self.slot_loan < expected * self.slot_loan_factor / 100.0:
            return current
        if node.level > 0:
            self.pop(node)
        node.prev.next = node.next
        if node.next is None:
            self.tail = node.prev
        else:
            node.next.prev = node.prev
        node.prev = current.prev
        node.next = current
        if current.prev is None:
            self.head = node
        else:
            current.prev.next = node
        current.prev = node
        node.parent = current
        if current.children is None:
            current.children = []
        current.children.append(node)
        node.level = current.level + 1
        self.candidate = self.candidate_for = None
        # The slots that it will use are paid at once; what it really used is settled when it leaves.
        current.slots_available -= expected * self.slot_cost
        node.slots_used = -expected
        return node

    cdef void pop(self, Node node):
        # Take it off the stack of preempting jobs; its children go to its parent.
        cdef Node parent = node.parent, child
        if parent is not None:
            if node.level == parent.level + 1:
                parent.slots_available -= node.slots_used * self.slot_cost
            parent.children.remove(node)
            node.parent = None
        if node.children is not None:
            for child in node.children:
                child.parent = parent
            if parent is not None:
                parent.children.extend(node.children)
            node.children = None
        if parent is not None and not parent.children:
            parent.children = None
        node.level = 0
        self.candidate = self.candidate_for = None
