"""Running Postgres when we are root: Postgres refuses root, so it runs as a system user that must reach its files.

The user gets search permission on the folders above the data and the binaries by a POSIX access-control entry for
that one user. Folder modes stay as they are, so a private home directory does not open up to everybody.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from voice_agent.errors import StorageError

USER_NAME = "pgserver"

_log = logging.getLogger(__name__)

_ACL_ATTRIBUTE = "system.posix_acl_access"
_ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_SEARCH = 0o1

AclEntry = tuple[int, int, int]
"""(tag, permission bits, user or group id) as in linux/posix_acl_xattr.h."""


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The system user Postgres runs as."""

    name: str
    uid: int
    gid: int


def server_user() -> ServerUser | None:
    """The user to run Postgres as: None when we are not root (then it is ourselves). Creates it when missing.

    Raises:
        StorageError: the user is missing and cannot be created.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(USER_NAME)
    except KeyError:
        _create_user()
        entry = pwd.getpwnam(USER_NAME)
    return ServerUser(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _create_user() -> None:
    tool = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")
    advice = (
        f"Postgres does not run as root and the system user '{USER_NAME}' cannot be created ({{why}}). "
        "Run as an ordinary user, or set storage.dsn to a Postgres server."
    )
    if tool is None:
        raise StorageError(advice.format(why="no useradd here"))
    command = [tool, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER_NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 9):  # 9: the name exists, made by another process meanwhile
        raise StorageError(advice.format(why=done.stderr.strip() or f"useradd ended with {done.returncode}"))


def make_reachable(path: Path, user: ServerUser) -> None:
    """Let ``user`` pass through every folder above ``path``.

    Raises:
        StorageError: a folder can not be opened to the user; names it and says what to do.
    """
    # A path through a symbolic link needs the folders above the link and those above its target.
    folders = {*path.absolute().parents, *path.resolve().parents}
    for folder in sorted(folders, key=lambda folder: len(folder.parts)):
        if _may_search(folder, user):
            continue
        try:
            grant_search(folder, user.uid)
        except OSError as error:
            raise StorageError(
                f"Postgres runs as the system user '{user.name}', who may not enter {folder} (needed for {path}): "
                f"{error.strerror}. Allow it with 'chmod o+x {folder}', put data_dir and the program elsewhere, "
                "run as an ordinary user, or set storage.dsn."
            ) from error
        _log.warning("search permission granted to the Postgres user", extra={"folder": str(folder)})


def _may_search(folder: Path, user: ServerUser) -> bool:
    status = folder.stat()
    if status.st_uid == user.uid:
        return bool(status.st_mode & 0o100)
    if any(tag == _USER and who == user.uid and perm & _SEARCH for tag, perm, who in read_acl(folder)):
        # With an access-control list the group bits of the mode are its mask.
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def read_acl(folder: Path) -> list[AclEntry]:
    """The access-control list of a folder; built from the mode bits when it has none."""
    try:
        raw = os.getxattr(folder, _ACL_ATTRIBUTE)
    except OSError:
        mode = folder.stat().st_mode
        bits = ((_USER_OBJ, mode >> 6 & 7), (_GROUP_OBJ, mode >> 3 & 7), (_OTHER, mode & 7))
        return [(tag, perm, _NO_ID) for tag, perm in bits]
    return [struct.unpack_from("<HHI", raw, at) for at in range(4, len(raw), 8)]


def grant_search(folder: Path, uid: int) -> None:
    """Add ``u:<uid>:--x`` to the access-control list of ``folder``.

    Raises:
        OSError: the file system has no access-control lists, or the folder is not ours.
    """
    entries = [entry for entry in read_acl(folder) if entry[0] != _MASK and entry[::2] != (_USER, uid)]
    entries.append((_USER, _SEARCH, uid))
    grouped = [perm for tag, perm, _ in entries if tag in (_USER, _GROUP_OBJ, _GROUP)]
    mask = 0
    for perm in grouped:
        mask |= perm
    entries.append((_MASK, mask, _NO_ID))
    entries.sort(key=lambda entry: (entry[0], entry[2]))
    raw = struct.pack("<I", _ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder, _ACL_ATTRIBUTE, raw)
