"""Contract of the parameters of MAIL and RCPT: see smtpparams.pyx."""

from fastmta._ext.smtpsession cimport Limits


cdef class Parameters:
    cdef long long size
    cdef str body
    cdef bint utf8
    cdef int ret
    cdef str envid
    cdef int notify
    cdef str orcpt
    cdef bytes bad_notify

    cdef bytes read_mail(self, list params, Limits limits)
    cdef bytes read_rcpt(self, list params, Limits limits)
    cdef bint read_notify(self, bytes value)
