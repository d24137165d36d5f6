"""The texts of notifications: Postfix's built-in templates, word for word.

Read by bounce.report. A template has a From: and two subjects (for the sender, for the postmaster) and a text in which
$myhostname, $delay_warning_time_hours and $maximal_queue_lifetime_days are filled in. Reference: bounce(5), postconf
-b. Templates of the administrator (bounce_template_file) are not supported yet.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Template(msgspec.Struct, frozen=True):
    """One kind of notification."""

    kind: str  # as in the log line "sender KIND notification"
    subject: str
    postmaster_subject: str
    text: str


SENDER_NAME: Final = "Mail Delivery System"

FAILURE: Final = Template(
    "non-delivery",
    "Undelivered Mail Returned to Sender",
    "Postmaster Copy: Undelivered Mail",
    """\
This is the mail system at host $myhostname.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

For further assistance, please send mail to postmaster.

If you do so, please include this problem report. You can
delete your own text from the attached returned message.

                   The mail system
""",
)

DELAY: Final = Template(
    "delay",
    "Delayed Mail (still being retried)",
    "Postmaster Warning: Delayed Mail",
    """\
This is the mail system at host $myhostname.

####################################################################
# THIS IS A WARNING ONLY.  YOU DO NOT NEED TO RESEND YOUR MESSAGE. #
####################################################################

Your message could not be delivered for more than $delay_warning_time_hours hour(s).
It will be retried until it is $maximal_queue_lifetime_days day(s) old.

For further assistance, please send mail to postmaster.

If you do so, please include this problem report. You can
delete your own text from the attached returned message.

                   The mail system
""",
)

SUCCESS: Final = Template(
    "delivery status",
    "Successful Mail Delivery Report",
    "",
    """\
This is the mail system at host $myhostname.

Your message was successfully delivered to the destination(s)
listed below. If the message was delivered to mailbox you will
receive no further notifications. Otherwise you may still receive
notifications of mail delivery errors from other systems.

                   The mail system
""",
)

VERIFY: Final = Template(
    "delivery status",
    "Mail Delivery Status Report",
    "",
    """\
This is the mail system at host $myhostname.

Enclosed is the mail delivery report that you requested.

                   The mail system
""",
)
