"""The watch over the processes of a run: when one of them dies, all end at once, and one sentence says which it was.

Each process holds a connection to rank 0 for as long as it works. The system closes it when the process ends, however
that comes about; a machine that is gone is missed by TCP's own probes. So nobody is taken for dead because he is slow,
and a collective that would wait for the dead one for ever is not needed to find out.
"""

import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Protocol

from avrobust_core.blame import sentence
from avrobust_core.errors import RunError
from avrobust_core.plain_text import plain_text
from avrobust_core.ranks import Ranks

LOST: Final = 4
"""The exit status of a run that ended because one of its processes died."""

START_SECONDS = 600.0
"""The processes of a run have so long to come together: on a busy machine libraries take minutes to load."""

SETTLE_SECONDS = 1.0
"""What fails in one process may fail because another has died: news of that is given so long to come first."""

GRACE_SECONDS = 5.0
"""What fails in one process usually fails in rank 0 too, which is given so long to end by itself, and to say why."""

TIDY_SECONDS = 3.0
"""A process that is to end is given so long to tidy up its files."""

_PROBES: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6}
"""A machine that does not answer for 40 seconds is gone."""

_HERE: Final = "127.0.0.1"

_GOES_ON: Final = "so all of them end. The same command goes on where it stopped, with any number of processes"


@dataclass(frozen=True, slots=True)
class Who:
    """A process, by the names that help to find it."""

    rank: int
    world: int
    pid: int
    host: str

    @classmethod
    def this(cls, ranks: Ranks) -> "Who":
        """The present process."""
        return cls(ranks.rank, ranks.world, os.getpid(), os.uname().nodename)

    def __str__(self) -> str:
        return f"process {self.rank + 1} of {self.world} (rank {self.rank}, pid {self.pid} on {self.host})"


class Watch(Protocol):
    """One process's part in the watch."""

    def settle(self) -> None:
        """After something failed: return only if that was not because another process has died."""

    def leave(self, error: BaseException | None) -> None:
        """This process ends: by itself, or because of an error, which is raised further by the caller.

        Where rank 0 speaks for this process, this does not return.
        """


class Hub:
    """Rank 0's part: it hears of every end, speaks for all, and ends them.

    Args:
        ranks: of this process.
        children: those that this process has started itself, by rank: it can tell how they ended.
    """

    def __init__(self, ranks: Ranks, children: Mapping[int, "subprocess.Popen[bytes]"]) -> None:
        self.ranks = ranks
        self.children = children
        self.members: dict[int, tuple[Who, socket.socket]] = {}
        self._token = secrets.token_hex(16)
        self._server = _listening(ranks)
        self._lock = threading.Lock()
        self._leaving = False
        self._done: set[int] = set()
        os.register_at_fork(after_in_child=self._close)  # else who reads clips for a dead process would keep it alive

    @property
    def invitation(self) -> str:
        """For `Member`: where to connect, and the secret by which a member is known."""
        address = _HERE if _on_one_machine(self.ranks) else self.ranks.address
        port = self._server.getsockname()[1]
        told = {"address": address, "port": port, "token": self._token, "who": asdict(Who.this(self.ranks))}
        return json.dumps(told)

    def welcome(self, seconds: float = START_SECONDS) -> None:
        """Wait for all other processes, then watch them.

        Raises:
            RunError: if one of them has ended before, or has not come in time; names it.
        """
        deadline = time.monotonic() + seconds
        self._server.settimeout(0.2)
        while len(self.members) < self.ranks.world - 1:
            for rank, child in self.children.items():
                if rank not in self.members and child.poll() is not None:
                    raise RunError(
                        f"process {rank + 1} of {self.ranks.world} (rank {rank}, pid {child.pid}) "
                        f"{_how(child.returncode)} before it had joined the others: its own message says why"
                    )
            if time.monotonic() > deadline:
                missing = ", ".join(str(rank) for rank in range(1, self.ranks.world) if rank not in self.members)
                raise RunError(
                    f"of {self.ranks.world} processes these have not come within {seconds:g} s: rank {missing}; look "
                    f"at their own messages, and whether port {self._server.getsockname()[1]} here can be reached"
                )
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            self._admit(connection)
        self._server.close()
        threading.Thread(target=self._listen, name="watch", daemon=True).start()

    def settle(self) -> None:
        """See `Watch`."""
        time.sleep(SETTLE_SECONDS)
        with self._lock:  # for ever, while `_end` has it
            return

    def leave(self, error: BaseException | None) -> None:
        """See `Watch`; where it failed, all others end, without a word of their own."""
        if error is not None:
            self.settle()
        with self._lock:
            self._leaving = True
        number = getattr(error, "number", None)
        status = 1 if number is None else 128 + number
        self._tell({"done": True} if error is None else {"end": status})
        self._reap(60 if error is None else 2 * TIDY_SECONDS)

    def _admit(self, connection: socket.socket) -> None:
        """Take a connection for a member's if it knows the secret; whatever else knocks at the port is turned away."""
        connection.settimeout(5)
        try:
            told = json.loads(_line(connection))
            who, known = Who(**told["who"]), secrets.compare_digest(told["token"], self._token)
        except (OSError, ValueError, KeyError, TypeError):
            known = False
        if not known:
            connection.close()
            return
        connection.settimeout(None)
        _probe(connection)
        self.members[who.rank] = who, connection

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            heard = dict.fromkeys(self.members, b"")
            for rank, (_, connection) in self.members.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    rank = key.data
                    news = _received(self.members[rank][1])
                    if not news:
                        selector.unregister(key.fileobj)
                        if rank not in self._done:
                            self._gone(rank)
                        continue
                    *lines, heard[rank] = (heard[rank] + news).split(b"\n")
                    for line in lines:
                        self._hear(rank, json.loads(line))

    def _hear(self, rank: int, news: Mapping[str, Any]) -> None:
        self._done.add(rank)  # it has said why it ends
        if "failed" in news:
            what, status = f"failed: {news['failed']}", 1
        elif "stopped" in news:
            what, status = f"was stopped by {news['stopped']}", LOST
        else:
            return
        end = partial(self._end, f"{self.members[rank][0]} {what}", status)
        _later(GRACE_SECONDS, end)

    def _gone(self, rank: int) -> None:
        how = f"ended without a word, as a process that is killed does{_see(self.ranks)}"
        if rank in self.children:
            try:
                how = _how(self.children[rank].wait(5))
            except subprocess.TimeoutExpired:
                how = "has closed its connection"
        self._end(f"{self.members[rank][0]} {how}", LOST)

    def _end(self, what: str, status: int) -> None:
        """Say what has happened, and end all processes, unless this one is about to do so by itself."""
        with self._lock:
            if self._leaving:
                return
            self._leaving = True
            self._tell({"end": status})
            _say(f"{what}; {_GOES_ON}" if status == LOST else f"{what}. The others wait for it, {_GOES_ON}")
            self._reap(2 * TIDY_SECONDS)
            os._exit(status)

    def _reap(self, seconds: float) -> None:
        """Wait for the processes that this one has started, and kill those that do not end."""
        deadline = time.monotonic() + seconds
        for child in self.children.values():
            try:
                child.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:  # in a collective, where no signal reaches Python
                child.kill()

    def _tell(self, news: Mapping[str, Any]) -> None:
        for _, connection in self.members.values():
            _send(connection, news)

    def _close(self) -> None:
        for connection in (self._server, *(connection for _, connection in self.members.values())):
            connection.close()


class Member:
    """The part of any other process: it tells rank 0 how it ends, and ends when rank 0 does.

    Args:
        ranks: of this process.
        invitation: the hub's.

    Raises:
        RunError: if rank 0 cannot be reached.
    """

    def __init__(self, ranks: Ranks, invitation: str) -> None:
        told = json.loads(invitation)
        self.ranks = ranks
        self.first = Who(**told["who"])
        self._leaving = False
        try:
            self._connection = socket.create_connection((told["address"], told["port"]), timeout=START_SECONDS)
        except OSError as error:
            raise RunError(
                f"{Who.this(ranks)} cannot reach {self.first} at {told['address']}, port {told['port']}: "
                f"{sentence(error)}; look whether a firewall is between them"
            ) from error
        self._connection.settimeout(None)
        _probe(self._connection)
        _send(self._connection, {"token": told["token"], "who": asdict(Who.this(ranks))})
        os.register_at_fork(after_in_child=self._connection.close)
        threading.Thread(target=self._listen, name="watch", daemon=True).start()

    def settle(self) -> None:
        """See `Watch`."""
        time.sleep(SETTLE_SECONDS)

    def leave(self, error: BaseException | None) -> None:
        """See `Watch`; an error is told to rank 0, which speaks for all."""
        if error is None:
            self._leaving = True
            _send(self._connection, {"done": True})
            return
        self.settle()
        number = getattr(error, "number", None)
        if number is not None:
            self._leaving = True
            _send(self._connection, {"stopped": signal.Signals(number).name})
            return
        if not self._leaving:
            _send(self._connection, {"failed": plain_text(sentence(error), 2000)})
        time.sleep(2 * GRACE_SECONDS)  # rank 0 ends this process; if it does not, the error is told here

    def _listen(self) -> None:
        heard = b""
        while news := _received(self._connection):
            *lines, heard = (heard + news).split(b"\n")
            for line in lines:
                told = json.loads(line)
                self._leaving = True  # rank 0 is done, or has said why all end
                if "end" in told:
                    _later(TIDY_SECONDS, partial(os._exit, told["end"]))
                    os.kill(os.getpid(), signal.SIGTERM)  # as if asked to end: files are tidied up
        if not self._leaving:
            if self.ranks.local == (1 if self.ranks.node == 0 else 0):  # one of each machine speaks
                how = f"ended without a word, as a process that is killed does{_see(self.ranks)}"
                _say(f"{self.first} {how}; {_GOES_ON}")
            os._exit(LOST)


def _on_one_machine(ranks: Ranks) -> bool:
    return ranks.local_world == ranks.world


def _listening(ranks: Ranks) -> socket.socket:
    if _on_one_machine(ranks):
        return socket.create_server((_HERE, 0), backlog=ranks.world)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=ranks.world, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=ranks.world)


def _probe(connection: socket.socket) -> None:
    """Let the system ask now and then whether the other machine is still there."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _line(connection: socket.socket) -> bytes:
    heard = b""
    while not heard.endswith(b"\n") and len(heard) < 4096:
        heard += connection.recv(1) or b"\n"  # byte by byte: what follows the line is not ours
    return heard


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:  # reset, or the other machine is gone
        return b""


def _send(connection: socket.socket, news: Mapping[str, Any]) -> bool:
    try:
        connection.sendall(json.dumps(news).encode() + b"\n")
    except OSError:  # who is gone need not be told
        return False
    return True


def _later(seconds: float, act: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"


def _see(ranks: Ranks) -> str:
    return f" ({ranks.launcher}'s own message says by what)" if ranks.launcher in ("torchrun", "srun") else ""


def _say(message: str) -> None:
    try:
        sys.stderr.write(plain_text(f"avrobust: error: {message}", 3000) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # standard error is gone with its terminal
        return
