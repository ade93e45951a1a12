"""The connection to Ray, without Ray: addresses, environment, errors. ``fake_ray`` is the part of the package that is called."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from benchmarks.cluster.protocol import ClusterError, Node, Share, WorkerLostError
from benchmarks.cluster.ray_cluster import RayCluster
from benchmarks.cluster.ray_connection import connect

RAY_VARIABLES = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class RayError(Exception):
    pass


class RayActorError(RayError):
    actor_init_failed = False


class ActorInitError(RayActorError):
    actor_init_failed = True


class RayTaskError(RayError):
    pass


class RuntimeEnvSetupError(RayError):
    pass


class ActorUnschedulableError(RayError):
    pass


ERRORS = SimpleNamespace(
    RayError=RayError,
    RayActorError=RayActorError,
    RayTaskError=RayTaskError,
    RuntimeEnvSetupError=RuntimeEnvSetupError,
    ActorUnschedulableError=ActorUnschedulableError,
)


class FakeRay(ModuleType):
    """Notes how it is started, and what its environment was then."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.exceptions = ERRORS
        self.started: list[dict[str, object]] = []
        self.environment: dict[str, str] = {}
        self.refusal: Exception | None = None
        self.running = False

    def init(self, **options: object) -> None:
        self.started.append(options)
        self.environment = dict(os.environ)
        os.environ["RAY_LEFT_BEHIND"] = "1"
        if self.refusal is not None:
            raise self.refusal
        self.running = True

    def shutdown(self) -> None:
        self.running = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


@pytest.fixture
def fake_ray(monkeypatch, tmp_path, short_folder):
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    for name in RAY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    return ray


@pytest.fixture
def port():
    """A port where something listens that is not Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def status(monkeypatch):
    """``status(returncode, stderr)`` makes ``ray status`` answer so; it is a list of the commands."""

    class Status(list[list[str]]):
        def __call__(self, returncode: int = 0, stderr: str = "") -> None:
            self.answer = SimpleNamespace(returncode=returncode, stderr=stderr, stdout="")

        def run(self, command: list[str], **options: object) -> SimpleNamespace:
            self.append(command)
            return self.answer

    made = Status()
    made()
    monkeypatch.setattr(subprocess, "run", made.run)
    return made


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"needs Ray, which is not installed: pip install 'erecap\[ray\]'"), connect():
        pass


def test_a_cluster_of_its_own_leaves_nothing_behind(fake_ray, tmp_path, short_folder):
    before = dict(os.environ)
    with connect("local"):
        assert fake_ray.running
        (options,) = fake_ray.started
        folder = Path(options["_temp_dir"])
        assert folder.is_dir()
        assert folder.parent == short_folder
    assert not fake_ray.running
    assert list(tmp_path.iterdir()) == list(short_folder.iterdir()) == []
    assert os.environ == before
    assert options["include_dashboard"] is False
    assert len(fake_ray.environment["RAY_AUTH_TOKEN"]) == 64


def test_a_folder_that_is_too_long_for_sockets_is_refused_or_replaced(fake_ray, monkeypatch, tmp_path):
    long = tmp_path / ("long" * 10)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(ClusterError, match="too long for Ray, whose sockets lie in it: set RAY_TMPDIR"), connect("local"):
        pass
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with connect("local"):
        pass
    (options,) = fake_ray.started
    assert Path(options["_temp_dir"]).parent == Path("/tmp")
    assert list(long.iterdir()) == []


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal: a process started in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_ray_starts_waits_until_it_has_started(fake_ray, monkeypatch, short_folder, ctrl_c):
    init, seen = fake_ray.init, []

    def slow(**options):
        ctrl_c()
        init(**options)
        seen.append("started")

    monkeypatch.setattr(fake_ray, "init", slow)
    with pytest.raises(KeyboardInterrupt), connect("local"):
        seen.append("entered")
    assert seen == ["started"]
    assert not fake_ray.running
    assert list(short_folder.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait(fake_ray, monkeypatch, ctrl_c):
    seen = []

    def slow(**options):
        ctrl_c()
        seen.append("first")
        ctrl_c()
        seen.append("second")

    monkeypatch.setattr(fake_ray, "init", slow)
    with pytest.raises(KeyboardInterrupt), connect("local"):
        pass
    assert seen == ["first"]


def test_clusters_of_one_process_share_their_token(fake_ray):
    tokens = []
    for _ in range(2):
        with connect("local"):
            tokens.append(fake_ray.environment["RAY_AUTH_TOKEN"])
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("name", ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_users_choice_of_authentication_is_kept(fake_ray, monkeypatch, name):
    monkeypatch.setenv(name, "mine")
    with connect("local"):
        assert {n: v for n, v in fake_ray.environment.items() if n.startswith("RAY_AUTH")} == {name: "mine"}


def test_a_users_token_file_is_kept(fake_ray, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    with connect("local"):
        assert "RAY_AUTH_TOKEN" not in fake_ray.environment


def test_the_address_is_that_of_the_environment_by_default(fake_ray, monkeypatch, status, port):
    with connect():
        pass
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with connect():
        pass
    with connect("local"):
        pass
    assert [options["address"] for options in fake_ray.started] == ["local", f"127.0.0.1:{port}", "local"]
    assert [command[-2:] for command in status] == [["--address", f"127.0.0.1:{port}"]]


def test_what_workers_print_does_not_mix_with_results(fake_ray, capsys):
    with connect("local"):
        print("from a worker")  # noqa: T201
    print("a result")  # noqa: T201
    printed = capsys.readouterr()
    assert printed.out == "a result\n"
    assert "from a worker\n" in printed.err


@pytest.mark.parametrize("address", ["10.0.0.1", "host:", ":6379", "host:port", "host:0", "host:65536", "ray://host", ""])
def test_a_malformed_address_is_refused(fake_ray, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1")
    with (
        pytest.raises(ClusterError, match="has no host and port: write HOST:PORT, ray://HOST:PORT, auto or"),
        connect(address),
    ):
        pass


@pytest.mark.parametrize("form", ["{}", "ray://{}"])
def test_an_address_where_nobody_answers_is_refused(fake_ray, form):
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    with (
        pytest.raises(ClusterError, match=r"nobody answers there \(Connection refused\): name"),
        connect(form.format(free)),
    ):
        pass
    assert fake_ray.started == []


def test_an_address_where_no_cluster_answers_is_refused(fake_ray, status, port):
    status(1, "Traceback\nRpcError: Method not found!\n")
    with pytest.raises(ClusterError, match=r"no Ray cluster answers \(RpcError: Method not found!\)"), connect(f"127.0.0.1:{port}"):
        pass
    status(1)
    with pytest.raises(ClusterError, match=r"'auto': no Ray cluster answers \(no reason given\)"), connect("auto"):
        pass
    assert fake_ray.started == []
    assert status[1][-1] == "status"


def test_an_address_that_keeps_silent_is_refused(fake_ray, monkeypatch, port):
    def silent(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", silent)
    with pytest.raises(ClusterError, match="no Ray cluster answers within 15 s"), connect(f"127.0.0.1:{port}"):
        pass


@pytest.mark.parametrize("refusal", [RuntimeError("Version mismatch:\n Ray 2.9"), OSError("AF_UNIX path"), RayError("no token")])
def test_a_refusal_of_ray_is_passed_on_and_cleaned_up(fake_ray, short_folder, refusal):
    fake_ray.refusal = refusal
    text = " ".join(str(refusal).split())
    with pytest.raises(ClusterError, match=f"Ray at address 'local' refused the connection: {text}"), connect("local"):
        pass
    assert list(short_folder.iterdir()) == []
    assert "RAY_LEFT_BEHIND" not in os.environ


def test_workers_import_from_the_users_folders_and_not_from_other_environments(fake_ray, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [f"{sys.prefix}/lib", str(tmp_path), str(tmp_path / "missing"), str(tmp_path)])
    with connect("local"):
        pass
    monkeypatch.setattr(sys, "path", [f"{sys.prefix}/lib"])
    with connect("local", tmp_path):
        pass
    assert [options["runtime_env"] for options in fake_ray.started] == [
        {"env_vars": {"PYTHONPATH": f"{tmp_path}:${{PYTHONPATH}}"}},
        {"working_dir": str(tmp_path)},
    ]


def test_workers_work_in_the_commands_folder_unless_they_get_one(fake_ray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with connect("local") as cluster:
        assert cluster.folder == str(tmp_path)
    with connect("local", tmp_path) as cluster:
        assert cluster.folder is None


def test_a_working_dir_that_is_none_is_refused(fake_ray, tmp_path):
    with pytest.raises(ClusterError, match="is no folder: name one"), connect("local", tmp_path / "missing"):
        pass


LOST = "The actor died.\n\tpid: 1\nThe worker process has died. Code 2. End of file. Some common causes include: (1) many"


@pytest.mark.parametrize(
    ("error", "raised", "text"),
    [
        (RayActorError(LOST), WorkerLostError, r"^The worker process has died\. Code 2\. End of file$"),
        (RayError("The object is lost.\n"), WorkerLostError, "^The object is lost$"),
        (RayError(""), WorkerLostError, "^RayError$"),
        (
            ActorInitError("Trace\nModuleNotFoundError: agents"),
            ClusterError,
            "cannot start on the cluster: ModuleNot",
        ),
        (RayTaskError("Trace\nValueError: x"), ClusterError, r"ValueError: x\. Install the same erecap .*--working-dir"),
        (RuntimeEnvSetupError("too large"), ClusterError, "too large"),
        (ActorUnschedulableError("no such node"), ClusterError, "no such node"),
    ],
)
def test_errors_of_ray_become_the_pools(error, raised, text):
    def get(ticket):
        raise error

    with pytest.raises(raised, match=text):
        RayCluster(SimpleNamespace(exceptions=ERRORS, get=get)).result("ticket")


def test_dead_nodes_do_not_count_and_end_a_run_on_them():
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0, "memory": 5.0}},
        {"NodeID": "b", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"NodeID": "c", "Alive": False, "Resources": {"CPU": 8.0}},
    ]

    def cluster(here):
        context = SimpleNamespace(get_node_id=lambda: here)
        return RayCluster(SimpleNamespace(nodes=lambda: nodes, get_runtime_context=lambda: context))

    assert cluster("a").nodes() == [Node(2.0, 0.0), Node(4.0, 1.0)]
    cluster("a").check()
    with pytest.raises(ClusterError, match="Ray died on the node of this process"):
        cluster("c").check()


def test_an_actor_gets_its_share_and_is_not_restarted_by_ray():
    asked = {}

    class Remote:
        def __init__(self, cls):
            asked["class"] = cls.__name__

        def options(self, **options):
            asked.update(options)
            return SimpleNamespace(remote=lambda *arguments: arguments)

    assert RayCluster(SimpleNamespace(remote=Remote), "/home/me").start(Share(2.0, 0.5)) == ("/home/me", False)
    assert RayCluster(SimpleNamespace(remote=Remote)).start(Share(1.0, 0.0)) == (None, True), (
        "GPUs that it does not take are hidden"
    )
    RayCluster(SimpleNamespace(remote=Remote)).start(Share(2.0, 0.5))
    assert asked == {"class": "EpisodeWorker", "num_cpus": 2.0, "num_gpus": 0.5, "max_restarts": 0, "max_task_retries": 0}
