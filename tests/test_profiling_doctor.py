"""The checks of a machine: each status, and what the report says."""

import json
from types import SimpleNamespace

import pytest
import torch

from erecap.profiling import doctor
from erecap.profiling.cli import main
from erecap.profiling.doctor import Check, gpus, hardware, ranges, software
from erecap.profiling.doctor.ranges import Requirement, release, supported_ranges
from erecap.profiling.frontend import Frontend

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "version", "allowed"),
    [
        ("torch>=2.8", "2.13.0+cpu", True),
        ("torch>=2.8", "2.7.1", False),
        ("torch>=2.8", "2.8.0rc1", True),
        ("transformers>=5.10,<6", "5.9.9", False),
        ("transformers>=5.10,<6", "5.24.0", True),
        ("transformers<6,>=5.10", "6.0.0", False),
        ("numpy (>=2.0)", "2.0", True),
        ("ray[default]==2.9; extra == 'ray'", "2.9.0", True),
        ("ray!=2.9", "2.9.0", False),
        ("ray", "0.1", True),
    ],
)
def test_versions_are_compared_by_their_numbers(text, version, allowed):
    assert Requirement.parse(text).allows(version) == allowed


def test_requirements_are_read():
    assert Requirement.parse("ray[default]>=2.9 ; extra == 'ray'") == Requirement("ray", ">=2.9", "ray")
    assert release("5.24.0.dev0") == (5, 24)
    with pytest.raises(ValueError, match="is not of the form"):
        Requirement.parse("???")
    with pytest.raises(ValueError, match="bound '~=2' is not one of"):
        Requirement("a", "~=2").allows("2")


def test_the_ranges_are_those_of_the_project(monkeypatch, tmp_path):
    python, packages = supported_ranges()
    assert python == ">=3.11"
    assert Requirement("torch", ">=2.8") in packages
    assert any(requirement.extra == "openai" for requirement in packages)
    monkeypatch.setattr(ranges, "_PYPROJECT", tmp_path / "none")
    monkeypatch.setattr(ranges, "metadata", lambda name: {"Requires-Python": ">=3.12"})
    monkeypatch.setattr(ranges, "requires", lambda name: ["numpy>=2", "openai>=2; extra == 'openai'"])
    assert supported_ranges() == (">=3.12", [Requirement("numpy", ">=2"), Requirement("openai", ">=2", "openai")])


def findings(monkeypatch, bounds="", installed=None, requirements=()):
    monkeypatch.setattr(software, "supported_ranges", lambda: (bounds, requirements))
    monkeypatch.setattr(software, "_version", (installed or {}).get)
    return {check.name: check for check in software.check_packages(CPU)}


def test_packages_have_a_status_each(monkeypatch):
    requirements = [
        Requirement("torch", ">=2.8"), Requirement("numpy", ">=2"), Requirement("minigrid", ">=3"), Requirement("rich", ""),
        Requirement("openai", ">=2", "openai"), Requirement("ray", ">=2", "ray"), Requirement("pytest", "", "dev"),
        Requirement("erecap", "", "dev"),
    ]  # fmt: skip
    found = findings(monkeypatch, installed={"torch": "2.7.0", "rich": "14", "ray": "1.0"}, requirements=requirements)
    assert {name: check.status for name, check in found.items()} == {
        "package torch": "error",
        "package numpy": "error",
        "package minigrid": "warning",
        "package rich": "ok",
        "extra openai": "ok",
        "extra ray": "warning",
    }
    assert found["package torch"].found == "2.7.0, supported is >=2.8"
    assert found["package torch"].remedy == "pip install 'torch>=2.8'"
    assert found["extra ray"].remedy == "pip install 'erecap[ray]'"


def test_a_bare_copy_checks_what_it_needs(monkeypatch):
    found = findings(monkeypatch, installed=dict.fromkeys(software.NEEDED, "9"))
    assert found.pop("package ranges").status == "warning"
    assert {check.status for check in found.values()} == {"ok"}


def test_python_is_checked_against_the_range(monkeypatch):
    assert software.check_python(CPU)[0].status == "ok"
    monkeypatch.setattr(software, "supported_ranges", lambda: (">=4", ()))
    assert software.check_python(CPU)[0].status == "error"


def test_java_is_a_warning_that_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (missing,) = software.check_java(CPU)
    assert missing.status == "warning"
    assert "default-jre-headless" in missing.remedy
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    assert software.check_java(CPU)[0].found.startswith(f"{tmp_path}/java does not start")
    (tmp_path / "java").write_text("#!/bin/sh\necho 'openjdk version \"17\"' >&2\n")
    assert software.check_java(CPU) == [Check("java", "ok", 'openjdk version "17"')]


@pytest.mark.parametrize(("gib", "status"), [(0.4, "error"), (2, "warning"), (8, "ok")])
def test_little_memory_and_disk(monkeypatch, gib, status):
    monkeypatch.setattr(hardware, "available_bytes", lambda: int(gib * 2**30))
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(gib * 2**30)))
    for check in (*hardware.check_memory(CPU), *hardware.check_disk(CPU)):
        assert check.status == status
        assert bool(check.remedy) == (status != "ok")


def test_more_threads_than_cores_is_a_warning(monkeypatch):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(hardware.torch, "get_num_threads", lambda: 8)
    assert hardware.check_cpu(CPU)[1].remedy.endswith("set OMP_NUM_THREADS=1")


def cuda(monkeypatch, count, version="13.0", driver="580.1", free=70, capability=(9, 0)):
    gpu = SimpleNamespace(name="NVIDIA X", major=capability[0], minor=capability[1])
    for target, name, value in (
        (gpus, "_driver", lambda: driver),
        (torch.cuda, "is_available", lambda: count > 0),
        (torch.cuda, "device_count", lambda: count),
        (torch.cuda, "get_device_properties", lambda index: gpu),
        (torch.cuda, "mem_get_info", lambda index: (free << 30, 80 << 30)),
        (torch.version, "cuda", version),
    ):
        monkeypatch.setattr(target, name, value)
    return gpus.check_gpus(CPU)


def test_gpus_have_a_status_each(monkeypatch):
    driver, *cards = cuda(monkeypatch, 2)
    assert driver == Check("gpu driver", "ok", "580.1, CUDA 13.0 of torch")
    assert [card.status for card in cards] == ["ok", "ok"]
    assert cards[0].found == "NVIDIA X, 70.0 of 80.0 GiB free, compute capability 9.0"
    assert "nvidia-smi" in cuda(monkeypatch, 1, free=10)[1].remedy
    assert "float16" in cuda(monkeypatch, 1, capability=(7, 5))[1].remedy
    assert cuda(monkeypatch, 0, driver=None) == [Check("gpu", "ok", "none; everything runs on the CPU")]
    assert "update the driver" in cuda(monkeypatch, 0)[0].remedy
    (wrong,) = cuda(monkeypatch, 0, version=None)
    assert (wrong.status, "CUDA build" in wrong.remedy) == ("error", True)


def test_attention_kernels_are_tried(monkeypatch):
    (found,) = gpus.check_attention(CPU)
    assert found.status == "ok"
    assert found.found.startswith("flash, math on cpu")
    monkeypatch.setattr(gpus, "refusal", lambda name, *_: None if name == "math" else "too old")
    assert gpus.check_attention(CPU)[0].status == "warning"
    monkeypatch.setattr(gpus, "refusal", lambda *_: "too old")
    assert gpus.check_attention(CPU)[0].status == "error"


def test_communication_names_what_there_is(monkeypatch):
    assert gpus.check_communication(CPU)[0].found.startswith("gloo")
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    assert gpus.check_communication(CPU)[0].status == "warning"


def test_the_report_ends_with_1_on_an_error_only(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        doctor, "CHECKS", (lambda device: [Check("sun", "ok", "shines"), Check("wind", "warning", "blows", "hold on")],)
    )
    out = tmp_path / "env.json"
    assert main(["env", "--out", str(out)], Frontend(checks=())) == 0
    shown = capsys.readouterr().out
    assert "ok       sun   shines" in shown
    assert "-> hold on" in shown
    assert "0 errors, 1 warnings" in shown
    assert main(["show", str(out)]) == 0
    assert "-> hold on" in capsys.readouterr().out
    broken = Frontend(checks=(lambda: [Check("moon", "error", "gone", "look for it")],))
    assert main(["env", "--json"], broken) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["points"][-1] == {"name": "moon", "status": "error", "found": "gone", "remedy": "look for it"}
    assert told["machine"]["python"]


def test_all_checks_answer_here():
    found = doctor.run_checks(CPU)
    assert len({check.name for check in found}) == len(found) > 15
    assert all(bool(check.remedy) == (check.status != "ok") for check in found)
