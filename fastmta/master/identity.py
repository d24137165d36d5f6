"""Who the workers run as: mail_owner when the master is root, else the user that started it.

Used by master/supervisor.py (ownership of the queue) and by each worker before it reads a byte from the network. Like
Postfix's daemons, a worker keeps no supplementary groups. Raises IdentityError with the parameter at fault.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import msgspec


class IdentityError(Exception):
    """mail_owner names nobody, or root."""


class Identity(msgspec.Struct, frozen=True):
    """A user and a group, and whether this process has to change to them."""

    uid: int
    gid: int
    name: str
    change: bool  # the process is root and gives that up

    def assume(self) -> None:
        """Become this user, without a way back."""
        if not self.change:
            return
        os.setgroups([self.gid])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def must_reach(self, path: Path) -> None:
        """Raise IdentityError when this user may not enter one of the folders on the way to that path."""
        for folder in reversed(path.absolute().parents):
            if self.change and folder.is_dir() and not self._may_enter(folder.stat()):
                raise IdentityError(f"user {self.name} (mail_owner) may not enter {folder}, on the way to {path}")

    def _may_enter(self, found: os.stat_result) -> bool:
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid == self.gid:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)

    def give(self, path: str | os.PathLike[str], gid: int = -1) -> None:
        """Make this user the owner of that file, where the process may do so."""
        if self.change:
            os.chown(path, self.uid, gid, follow_symlinks=False)


def find(mail_owner: str) -> Identity:
    """The identity of the workers. Without root it is the calling user, whatever mail_owner says."""
    if os.geteuid() != 0:
        uid = os.geteuid()
        return Identity(uid, os.getegid(), _name(uid), change=False)
    try:
        entry = pwd.getpwnam(mail_owner)
    except KeyError:
        raise IdentityError(f"mail_owner: unknown user name value: {mail_owner}") from None
    if entry.pw_uid == 0:
        raise IdentityError(f"mail_owner: user {mail_owner} has privileged user ID: 0")
    return Identity(entry.pw_uid, entry.pw_gid, entry.pw_name, change=True)


def group(setgid_group: str) -> int:
    """The gid of the group that may ask the workers, or -1 where there is no such group."""
    try:
        return grp.getgrnam(setgid_group).gr_gid
    except KeyError:
        return -1


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
