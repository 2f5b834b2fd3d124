"""Scripts in a process of their own, without the seconds that loading TensorFlow takes.

`start` and `run` do what `subprocess.Popen` and `subprocess.run` do with ``python -c CODE ARGUMENTS``. The
process is forked from a server that has loaded the heavy libraries and has computed nothing. Where there is
no fork, Python is started.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

PRELOADED = ("tensorflow", "keras", "tiledseg.cli", "tiledseg.train", "tiledseg.evaluate", "tiledseg.predict")
COMMANDS = ("tiledseg.cli.data", "tiledseg.cli.evaluate", "tiledseg.cli.predict", "tiledseg.cli.train")
EXTRAS = {"openvino": "tiledseg.engine.openvino", "zarr": "zarr"}  # where they are installed
PIPE = subprocess.PIPE

# --- the tests' side -------------------------------------------------------------------------------


class Fork:
    """The parts of `subprocess.Popen` that tests use; each stream is a pipe unless a file is given."""

    def __init__(
        self,
        code: str,
        arguments: Sequence[object],
        env: dict[str, str],
        streams: dict[str, int],
        address: str | None = None,
    ) -> None:
        self.returncode: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address or _server())
        message = json.dumps(
            {"code": code, "args": [str(one) for one in arguments], "env": env, "cwd": str(Path.cwd())}
        ).encode()
        given = [os.open(os.devnull, os.O_RDONLY)]
        self._pipes: dict[str, IO[bytes]] = {}
        for name in ("stdout", "stderr"):
            if streams.get(name) is None:
                reading, writing = os.pipe()
                self._pipes[name] = os.fdopen(reading, "rb")
                given.append(writing)
            else:
                given.append(os.dup(streams[name]))
        self._socket.sendall(len(message).to_bytes(4, "big"))
        socket.send_fds(self._socket, [message], given)
        for one in given:
            os.close(one)
        self._reports = self._socket.makefile("rb")
        self.pid = int(self._reports.readline())

    @property
    def stdout(self) -> IO[bytes]:
        return self._pipes["stdout"]

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._socket], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._reports.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[bytes, bytes]:
        with ThreadPoolExecutor(2) as threads:
            read = {name: threads.submit(pipe.read) for name, pipe in self._pipes.items()}
        self.wait()
        out, err = (read[name].result() if name in read else b"" for name in ("stdout", "stderr"))
        return out, err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.wait()
        for one in (self._reports, self._socket, *self._pipes.values()):
            one.close()


def start(code: str, *arguments: object, env: dict[str, str] | None = None, **streams: Any) -> Any:
    """Start a script; `env` is added to the environment."""
    whole = {**os.environ, **(env or {})}
    if hasattr(os, "fork"):
        return Fork(code, arguments, whole, streams)
    pipes = {"stdout": PIPE, "stderr": PIPE, **streams}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=whole, **pipes)


def run(code: str, *arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    with start(code, *arguments, env=env) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess([code, *arguments], process.returncode, out.decode(), err.decode())


@cache
def _server() -> str:
    """Start the server of this process; return its address."""
    folder = tempfile.mkdtemp()  # a socket's path is short
    address = f"{folder}/socket"
    server = subprocess.Popen([sys.executable, __file__, address], stdin=PIPE, stdout=PIPE)
    atexit.register(_end, server, folder)
    assert server.stdout.readline() == b"ready\n"
    return address


@cache
def programs() -> str:
    """Return a folder with the program `tiledseg`, for the front of PATH."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    if hasattr(os, "fork"):
        program = folder / "tiledseg"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" "{_server()}" "$@"\n')
        program.chmod(0o755)
    return str(folder)


def _end(server: subprocess.Popen[bytes], folder: str) -> None:
    server.communicate()
    with contextlib.suppress(OSError):
        Path(folder, "socket").unlink()
        Path(folder).rmdir()


# --- the server's side -----------------------------------------------------------------------------


def serve(address: str) -> dict[str, Any]:
    """Fork for each connection until standard input ends; return what to run, in the fork that runs it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            if listener not in select.select([listener, sys.stdin], [], [])[0]:
                os._exit(0)
            connection, _ = listener.accept()
            if not os.fork():
                return _reported(connection)
            connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _reported(connection: socket.socket) -> dict[str, Any]:
    """Fork the process itself; report its id and later its exit status."""
    length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    message, streams, _, _ = socket.recv_fds(connection, length, 3, socket.MSG_WAITALL)
    pid = os.fork()
    if not pid:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        asked: dict[str, Any] = json.loads(message)
        return asked
    for stream in (*streams, 0, 1, 2):
        os.close(stream)
    connection.sendall(b"%d\n" % pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):  # the test has ended
        connection.sendall(b"%d\n" % code)
    os._exit(0)


def as_if_new(asked: dict[str, Any]) -> dict[str, Any]:
    """Set up this process as one that has just been started; return the namespace of its script."""
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.argv = ["-c", *asked["args"]]
    sys.path[0] = ""
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules["__main__"] = types.ModuleType("__main__")
    return vars(sys.modules["__main__"])


def run_to_its_end(asked: dict[str, Any]) -> None:
    """Run a script and end as Python does, but leave its memory alone: freeing it copies all pages."""
    code = 0
    try:
        exec(asked["code"], as_if_new(asked))
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            raise
        code = error.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) > 2:  # the program `tiledseg`
        address, *words = sys.argv[1:]
        command = "import sys; from tiledseg.cli import main; sys.exit(main())"
        sys.exit(Fork(command, words, dict(os.environ), {"stdout": 1, "stderr": 2}, address).wait())
    extras = (one for name, one in EXTRAS.items() if find_spec(name))
    for name in (*PRELOADED, *COMMANDS, *extras):  # `import openvino` itself may leave a process behind
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the collections of each fork copy all pages
    run_to_its_end(serve(sys.argv[1]))
