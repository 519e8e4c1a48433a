"""The model of machines that share a plan, on plans whose ends are known."""

from __future__ import annotations

import pytest

from prbench.timing.schedule import Job, last_end, schedules


def jobs(*seconds: float, data: str = "d") -> list[Job]:
    return [Job(f"m{i}", data, s) for i, s in enumerate(seconds)]


def test_one_machine_does_all_the_work_and_opens_each_data_set_once_in_a_row() -> None:
    plan = [*jobs(3, 4), *jobs(5, data="e")]
    assert last_end(plan, {"d": 10, "e": 1}, 1) == (23, 11)
    # Back to the first data set: it is opened again.
    assert last_end([*plan, Job("x", "d", 1)], {"d": 10, "e": 1}, 1) == (34, 21)


def test_jobs_go_in_order_to_the_machine_that_is_free_first() -> None:
    # 4 and 1 begin; the second machine is free at 1 and takes 2, is free at 3 and takes 5.
    assert last_end(jobs(4, 1, 2, 5), {}, 2) == (8, 0)
    assert last_end(jobs(4, 1, 2, 5), {"d": 1}, 2) == (9, 2)


def test_what_limits_a_plan_is_said() -> None:
    one, two = schedules(jobs(*[1.0] * 20), {}, [1, 2])
    assert (one.seconds, one.speed_up, one.share_busy) == (20, 1, 1)
    assert (two.seconds, two.speed_up, two.share_busy) == (10, 2, 1)
    assert two.limit.startswith("the work")
    (eight,) = schedules(jobs(100, *[1.0] * 20), {}, [8])
    assert (eight.seconds, eight.share_busy) == (100, pytest.approx(120 / 800))
    assert eight.limit.startswith("its longest job, m0 on d")
    (late,) = schedules(jobs(*[1.0] * 20, 20.0), {}, [2])
    assert late.seconds == 30
    assert "longest first it would take 20 s" in late.limit
    (opening,) = schedules(jobs(*[1.0] * 20), {"d": 50.0}, [4])
    assert opening.limit == "opening the data sets on every machine"
    (many,) = schedules(jobs(1.0, 0.5, 0.5, 0.5), {}, [64])
    assert many.limit.startswith("its longest job")
