"""Shell: the user that a component's steps run as. Only root can choose one.

`runWith.posixUser` of the deployment, else `runWithDefault.posixUser` of the nucleus, as `user` or `user:group`, names
or numbers; a step with RequiresPrivilege runs as root. A nucleus that is root and is told no user fails the component
(nucleus, UnixRunWithGenerator); here it runs as the present user.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from foreshore.errors import UserError


class Identity(NamedTuple):
    """A user and its groups, by number."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    def environment(self) -> dict[str, str]:
        """What `sudo -H` would set."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


def is_root() -> bool:
    """Whether another user can be chosen."""
    return os.geteuid() == 0


def find_identity(wanted: str) -> Identity:
    """The identity of `user` or `user:group`. Raises UserError when there is no such user or group."""
    name, _, group = wanted.partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise _unknown(f"there is no user {name!r} on this machine", wanted) from None
    try:
        gid = entry.pw_gid if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise _unknown(f"there is no group {group!r} on this machine", wanted) from None
    groups = tuple(os.getgrouplist(entry.pw_name, gid))
    return Identity(entry.pw_name, entry.pw_uid, gid, groups, entry.pw_dir)


def _unknown(what: str, wanted: str) -> UserError:
    mend = "add it with useradd, or name another posixUser"
    return UserError(what, code="run-with", where=f"posixUser {wanted}", mend=mend)


def hand_over(folders: Iterable[tuple[Path, bool]], identity: Identity) -> None:
    """Make a user the owner of what is in folders, and of a folder itself when it goes with True."""
    for folder, itself in folders:
        if not folder.exists():
            continue
        for path in [*folder.rglob("*"), *([folder] if itself else [])]:
            os.chown(path, identity.uid, identity.gid, follow_symlinks=False)
