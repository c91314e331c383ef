"""Holding processes to CPUs: affinity here, quotas on directory trees that look like the kernel's (real ones in tests/integration)."""

import os
from decimal import Decimal

import pytest

from burnish.errors import BurnishError, Reason
from burnish.pipeline import cpu_limit


@pytest.fixture
def tree(tmp_path):
    """A fake /proc/self and cgroup mounts; returns a function that describes them."""

    def make(mounts: dict[str, str], membership: str) -> tuple:
        proc = tmp_path / "proc"
        proc.mkdir()
        lines = []
        for name, facts in mounts.items():
            (tmp_path / name).mkdir()
            lines.append(f"32 31 0:29 / {tmp_path / name} rw,relatime - {facts}")
        (proc / "mountinfo").write_text("\n".join(["20 1 0:5 / / rw - ext4 /dev/vda rw", *lines]))
        (proc / "cgroup").write_text(membership)
        return tmp_path, proc

    return make


def test_whole_cpus_are_the_last_ones_and_the_client_gets_the_others(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 4, 7})
    limit = cpu_limit.prepare(Decimal("2"))
    assert (limit.enforcement, limit.cpus) == ("affinity", (4, 7))
    assert cpu_limit.client_cpus(limit.cpus) == (0, 1)
    assert cpu_limit.prepare(Decimal("4.0")).cpus == (0, 1, 4, 7)
    assert cpu_limit.client_cpus((0, 1, 4, 7)) == (0, 1, 4, 7)


def test_more_cpus_than_there_are_is_refused_with_the_number_there_is(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    with pytest.raises(BurnishError, match="at most 2") as caught:
        cpu_limit.prepare(Decimal("2.5"))
    assert caught.value.reason is Reason.ResourcesNotEnforceable
    assert caught.value.field == "spec.targets[].resources.cpu"


def test_fraction_becomes_a_v1_quota_below_the_own_group(tree):
    root, proc = tree({"cpu": "cgroup cgroup rw,cpu,cpuacct"}, "4:memory:/other\n1:cpu,cpuacct:/mine\n0::/\n")
    (root / "cpu" / "mine").mkdir()
    limit = cpu_limit.prepare(Decimal("0.25"), proc=proc)
    assert limit.enforcement == "cgroup v1 quota"
    assert limit.cgroup.parent == root / "cpu" / "mine"
    assert (limit.cgroup / "cpu.cfs_quota_us").read_text() == "25000"
    assert (limit.cgroup / "cpu.cfs_period_us").read_text() == "100000"
    limit.enter()
    assert (limit.cgroup / "cgroup.procs").read_text() == str(os.getpid())


def test_fraction_becomes_a_v1_quota_below_the_mount_where_the_path_is_the_hosts(tree):
    root, proc = tree({"cpu": "cgroup cgroup rw,cpu"}, "1:cpu:/kubepods/pod1/abc\n")
    assert cpu_limit.prepare(Decimal("0.5"), proc=proc).cgroup.parent == root / "cpu"


def test_fraction_becomes_a_v2_quota(tree):
    root, proc = tree({"unified": "cgroup2 cgroup2 rw"}, "0::/user.slice/me\n")
    own = root / "unified" / "user.slice" / "me"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("")
    (own / "cgroup.controllers").write_text("memory")
    (own.parent / "cgroup.subtree_control").write_text("cpu memory")
    limit = cpu_limit.prepare(Decimal("1.5") if len(os.sched_getaffinity(0)) > 1 else Decimal("0.5"), proc=proc)
    assert limit.enforcement == "cgroup v2 quota"
    assert limit.cgroup.parent == own.parent  # a sibling: our own group holds processes
    assert (limit.cgroup / "cpu.max").read_text() in ("150000 100000", "50000 100000")


def test_fraction_turns_the_controller_on_where_it_may(tree):
    root, proc = tree({"unified": "cgroup2 cgroup2 rw"}, "0::/\n")
    (root / "unified" / "cgroup.subtree_control").write_text("")
    (root / "unified" / "cgroup.controllers").write_text("cpu memory")
    assert cpu_limit.prepare(Decimal("0.5"), proc=proc).cgroup.parent == root / "unified"
    assert (root / "unified" / "cgroup.subtree_control").read_text() == "+cpu"


@pytest.mark.parametrize(
    "mounts",
    [{}, {"unified": "cgroup2 cgroup2 rw"}],
    ids=["no cgroup", "no cpu controller"],
)
def test_fraction_is_refused_with_the_cure_where_no_group_takes_it(tree, mounts):
    _, proc = tree(mounts, "0::/\n")
    with pytest.raises(BurnishError, match="ask for whole CPUs") as caught:
        cpu_limit.prepare(Decimal("0.5"), proc=proc)
    assert caught.value.reason is Reason.ResourcesNotEnforceable


def test_throttled_periods_are_read_from_both_versions(tmp_path):
    (tmp_path / "cpu.stat").write_text("usage_usec 5\nnr_periods 10\nnr_throttled 3\nthrottled_usec 9\n")
    assert cpu_limit.throttled_periods(tmp_path) == 3
    (tmp_path / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 9\n")
    assert cpu_limit.throttled_periods(tmp_path) == 4
    (tmp_path / "cpu.stat").write_text("usage_usec 5\n")
    assert cpu_limit.throttled_periods(tmp_path) == 0
