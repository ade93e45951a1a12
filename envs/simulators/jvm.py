"""The Java process of a simulator: one per process and simulator, shared by its environments, ended with the process.

Java listens for calls of py4j on the loopback. Ctrl-C does not reach it, so an interrupted episode can still end in order. It ends
when its standard input is closed, which the system does when this process is killed.
"""

import atexit
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import IO, Any

NO_JAVA = "install a Java runtime (Debian, Ubuntu: default-jre-headless) and run `erecap doctor`, which checks it"
OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options for small programs: one thread collects garbage, and the quick compiler alone compiles."""
GRACE_S = 5.0
"""Seconds that Java has to leave before it is killed."""


class SimulatorError(ValueError):
    """A simulator that is not installed, does not start, or has ended."""


@dataclass(frozen=True)
class Program:
    """A simulator as its Python package ships it."""

    title: str
    """Its name in messages."""
    package: str
    """The Python package that holds the jar."""
    jar: str
    """File name of the jar."""
    server: str
    """Full name of the Java class that Python calls."""

    def path(self) -> Path:
        """Find the jar without importing the package. Raise ``SimulatorError`` where it is not installed."""
        found = importlib.util.find_spec(self.package)
        if found is None or importlib.util.find_spec("py4j") is None:
            missing = self.package if found is None else "py4j"
            raise SimulatorError(
                f"{self.title} needs the package {missing!r}, which is not installed: pip install 'erecap[worlds]'"
            )
        return Path(next(iter(found.submodule_search_locations or ()))) / self.jar


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C out of a call: py4j 0.10.9 calls a method that it does not have when it is interrupted."""
    try:
        yield
    except AttributeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


class Jvm:
    """A Java process that runs one simulator's jar.

    Parameters
    ----------
    program
        The simulator.

    Raises
    ------
    SimulatorError
        Where the package or Java is missing, or Java does not start.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.owner = program, os.getpid()
        jar, java = program.path(), shutil.which("java")
        if java is None:
            raise SimulatorError(f"{program.title} runs on Java, and there is no 'java' on PATH: {NO_JAVA}")
        with tempfile.TemporaryFile() as errors:
            self.process = _start(java, jar, errors)
            port = _port_of(self.process)
            if port is None:
                said = _said(self.process, errors)
                raise SimulatorError(f"{program.title} runs on Java, and {java} does not start ({said}): {NO_JAVA}")
        self.gateway = _connect(port)

    @_interruptible()
    def new_server(self) -> Any:
        """Make a new simulator in the process: an object of the Java class ``program.server``."""
        java: Any = self.gateway.jvm
        for name in self.program.server.split("."):
            java = getattr(java, name)
        return java()

    @_interruptible()
    def texts(self, strings: Any) -> list[str]:
        """Return a Java list of strings and let go of it: one call instead of one per string. None of them holds a line break."""
        joined: str = self.gateway.jvm.java.lang.String.join("\n", strings)
        self.release(strings)
        return joined.split("\n") if joined else []

    @_interruptible()
    def numbers(self, numbers: Any) -> list[int]:
        """Return a Java list of whole numbers and let go of it."""
        found: list[int] = json.loads(numbers.toString())
        self.release(numbers)
        return found

    @_interruptible()
    def release(self, java_object: Any) -> None:
        """Let Java free an object. Nothing else does it: py4j's own way may call a process that has ended."""
        if self.runs:
            self.gateway.detach(java_object)

    @property
    def runs(self) -> bool:
        """Whether the process runs and belongs to this one, not to one that was forked from it."""
        return self.owner == os.getpid() and self.process.poll() is None

    def close(self) -> None:
        """End the process and wait for it, so that it leaves no zombie."""
        if self.owner != os.getpid():
            return
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(GRACE_S)
        except TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Simulator:
    """One simulated world in the shared Java process.

    Parameters
    ----------
    program
        The simulator's program; its Java process is started where none runs yet.
    """

    def __init__(self, program: Program) -> None:
        self.jvm = shared_jvm(program)
        self._server = self.jvm.new_server()

    @_interruptible()
    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the Java object.

        Raises
        ------
        SimulatorError
            Where the Java process has ended.
        RuntimeError
            Where the method raised in Java.
        """
        from py4j.protocol import Py4JError, Py4JNetworkError

        title = self.jvm.program.title
        try:
            return getattr(self._server, method)(*arguments)
        except Py4JNetworkError as error:
            raise SimulatorError(f"the Java process of {title} has ended: give the same command again, it goes on") from error
        except Py4JError as error:
            raise RuntimeError(f"{title} failed in {method}{arguments}: {error}") from error

    def ask_texts(self, method: str) -> list[str]:
        """Call a method that returns strings."""
        return self.jvm.texts(self.ask(method))

    def ask_numbers(self, method: str) -> list[int]:
        """Call a method that returns whole numbers."""
        return self.jvm.numbers(self.ask(method))

    def close(self) -> None:
        """Let Java free this world. The process stays for others."""
        self.jvm.release(self._server)


_RUNNING: dict[Program, Jvm] = {}
_LOCK = threading.Lock()


def shared_jvm(program: Program) -> Jvm:
    """Return this process's Java process for a simulator; start it where none runs. ``Jvm`` says what it raises."""
    with _LOCK:
        known = _RUNNING.get(program)
        if known is None or not known.runs:
            _RUNNING[program] = known = Jvm(program)
            atexit.register(known.close)
        return known


def _start(java: str, jar: Path, errors: IO[bytes]) -> "Popen[bytes]":
    """Start py4j's server in a process group of its own, which Ctrl-C does not reach."""
    from py4j.java_gateway import find_jar_path

    paths = os.pathsep.join((find_jar_path(), str(jar)))
    command = [java, *OPTIONS, "-classpath", paths, "py4j.GatewayServer", "--die-on-broken-pipe", "0"]
    return Popen(command, stdin=PIPE, stdout=PIPE, stderr=errors, cwd=jar.parent, process_group=0)


def _port_of(process: "Popen[bytes]") -> int | None:
    """Read the port that the server listens on, its first line; ``None`` where it says none. What it says later is thrown away."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    threading.Thread(target=partial(_drain, process.stdout), daemon=True).start()
    return int(line) if line.isdigit() else None


def _drain(stream: IO[bytes]) -> None:
    with stream:
        for _ in stream:
            pass


def _said(process: "Popen[bytes]", errors: IO[bytes]) -> str:
    """End a process that did not start, and return the last line that it wrote."""
    assert process.stdin is not None
    process.stdin.close()
    process.kill()
    process.wait()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {process.returncode}")


def _connect(port: int) -> Any:
    from py4j.java_gateway import GatewayParameters, JavaGateway

    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # it logs tracebacks of what it raises
    return JavaGateway(gateway_parameters=GatewayParameters(port=port, enable_memory_management=False))
