"""The connection to a Ray cluster: one that runs already, or one on this machine that lives as long as the connection.

Ray waits for minutes for an address where nobody answers. Addresses are therefore asked first, with a limit of seconds. For a
cluster of its own Ray writes a token into the home folder and leaves its logs in ``/tmp/ray``; here the token stays in the
environment and the logs in a folder that is removed.
"""

import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import structlog

from benchmarks.cluster.protocol import ClusterError
from benchmarks.cluster.ray_cluster import RayCluster

LOCAL = "local"
AUTO = "auto"
_CLIENT = "ray://"
_CONNECT_S = 3.0
_ANSWER_S = 15.0
_OBJECT_STORE_BYTES = 200 * 2**20  # records of episodes are small; Ray would reserve 30% of the memory
_AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
_FOLDER_CHARACTERS = 28  # 107 are a socket's limit; Ray's name of the session takes most of them
_THEIRS = "${PYTHONPATH}"  # Ray puts the node's own value there
_REMEDY = "name a running cluster with --address HOST:PORT, or use this machine with --address local"

log = structlog.get_logger(__name__)


@contextmanager
def connect(address: str | None = None, working_dir: Path | None = None) -> Iterator[RayCluster]:
    """Connect to a Ray cluster; leaving the context ends the workers.

    Parameters
    ----------
    address : str, optional
        ``HOST:PORT``, ``ray://HOST:PORT``, ``auto`` for the cluster that runs on this machine, or ``local`` for a new one on this
        machine. Default: the environment variable ``RAY_ADDRESS``, else ``local``.
    working_dir : Path, optional
        Folder that Ray copies to the nodes; the workers run in it and import from it.

    Yields
    ------
    RayCluster
        The cluster.

    Raises
    ------
    ClusterError
        Where Ray is not installed, and where the cluster does not answer or refuses.
    """
    ray = _import_ray()
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    with ExitStack() as leaving:
        leaving.enter_context(redirect_stdout(sys.stderr))  # for what workers print: stdout is for results
        leaving.enter_context(_restored_environment())
        options = leaving.enter_context(_own_cluster()) if address == LOCAL else {}
        if address != LOCAL:
            _check_reachable(address)
        leaving.callback(_shutdown, ray)
        with _ctrl_c_waits():
            _init(ray, address, runtime_env=_runtime_env(working_dir), **options)
        yield RayCluster(ray, None if working_dir else str(Path.cwd()))


def _import_ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ClusterError("--executor ray needs Ray, which is not installed: pip install 'erecap[ray]'") from error


def _init(ray: ModuleType, address: str, **options: Any) -> None:
    try:
        ray.init(address=address, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:  # versions that differ, sockets, tokens, packages
        text = " ".join(str(error).split())
        raise ClusterError(f"Ray at address {address!r} refused the connection: {text}. Correct that, or {_REMEDY}") from error
    resources = ray.cluster_resources()
    log.info("connected to Ray", address=address, cpus=resources.get("CPU", 0), gpus=resources.get("GPU", 0))


def _shutdown(ray: ModuleType) -> None:
    with _ctrl_c_waits():
        ray.shutdown()


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Hold a first Ctrl-C back until the context is left: Ray's processes would stay if it were interrupted while it starts them.

    A second one interrupts at once. Only the main thread gets Ctrl-C, and only it may change the handler.
    """
    before, pressed = signal.getsignal(signal.SIGINT), []

    def hold(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _check_reachable(address: str) -> None:
    """Ask an address whether a Ray cluster is there. Raise ``ClusterError`` after some seconds without an answer."""
    if address != AUTO:
        _check_port(address)
    if address.startswith(_CLIENT):
        return
    command = [sys.executable, "-m", "ray.scripts.scripts", "status", *([] if address == AUTO else ["--address", address])]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"address {address!r}: no Ray cluster answers within {_ANSWER_S:.0f} s: {_REMEDY}") from error
    if asked.returncode:
        last = (asked.stderr.strip() or asked.stdout.strip() or "no reason given").splitlines()[-1]
        raise ClusterError(f"address {address!r}: no Ray cluster answers ({last}): {_REMEDY}")


def _check_port(address: str) -> None:
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ClusterError(f"address {address!r} has no host and port: write HOST:PORT, ray://HOST:PORT, {AUTO} or {LOCAL}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except OSError as error:
        raise ClusterError(f"address {address!r}: nobody answers there ({error.strerror or error}): {_REMEDY}") from error


def _runtime_env(working_dir: Path | None) -> dict[str, Any]:
    """Let workers import what this process imports from folders of the user, where their machine has the same folders."""
    if working_dir is not None and not working_dir.is_dir():
        raise ClusterError(f"working_dir={str(working_dir)!r} is no folder: name one that holds your packages")
    installed = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    own = [folder for folder in map(Path.absolute, map(Path, sys.path)) if folder.is_dir()]
    folders = [str(folder) for folder in own if not any(folder.resolve().is_relative_to(root) for root in installed)]
    env: dict[str, Any] = {"env_vars": {"PYTHONPATH": os.pathsep.join((*dict.fromkeys(folders), _THEIRS))}} if folders else {}
    return env | ({"working_dir": str(working_dir)} if working_dir else {})


@contextmanager
def _own_cluster() -> Iterator[dict[str, Any]]:
    """Prepare a cluster on this machine; yields the options of ``ray.init``."""
    if not _AUTHENTICATION.intersection(os.environ) and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = _token()
    folder = tempfile.mkdtemp(prefix="er-", dir=_short_folder())
    try:
        yield {"_temp_dir": folder, "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str:
    """Choose where the cluster's folder is made. Ray's sockets lie in it, and the system limits the length of their paths."""
    chosen = os.environ.get("RAY_TMPDIR")
    for folder in [chosen] if chosen else [tempfile.gettempdir(), "/tmp"]:
        if len(folder) <= _FOLDER_CHARACTERS:
            return folder
    raise ClusterError(
        f"the folder {folder} is too long for Ray, whose sockets lie in it: set RAY_TMPDIR to a short one, as /tmp/me"
    )


@cache
def _token() -> str:
    """Make the token of this process: Ray reads it once, so that all clusters of a process share it."""
    return secrets.token_hex(32)


@contextmanager
def _restored_environment() -> Iterator[None]:
    """Take back what Ray and this module set in the environment."""
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)
