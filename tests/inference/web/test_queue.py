"""The queue: order, claims, limits, and what becomes of a job whose worker dies."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from inference.web.jobs.queue import MAX_ATTEMPTS, JobQueue, QueueFullError
from preprocessing.errors import MediaError


@pytest.fixture
def queue(tmp_path) -> JobQueue:
    return JobQueue(tmp_path / "queue.sqlite3")


def add(queue: JobQueue, *ids: str) -> None:
    for job_id in ids:
        queue.add(job_id, {"strength": 0.5}, {"width": 1}, 100)


def test_jobs_are_taken_in_order_and_once(queue):
    add(queue, "a", "b", "c")
    assert [queue.position(queue.get(x)) for x in "abc"] == [0, 1, 2]
    taken = []
    threads = [threading.Thread(target=lambda: taken.append(queue.claim("w"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job.id for job in taken if job) == ["a", "b", "c"]
    assert taken.count(None) == 2
    assert queue.get("a").options == {"strength": 0.5}


def test_the_queue_is_kept_in_its_file(queue, tmp_path):
    add(queue, "a")
    again = JobQueue(tmp_path / "queue.sqlite3")
    assert again.get("a").state == "queued"
    assert again.counts() == {"queued": 1, "running": 0}


def test_a_file_of_another_version_is_refused(queue, tmp_path):
    with sqlite3.connect(tmp_path / "queue.sqlite3") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(MediaError, match="another version"):
        JobQueue(tmp_path / "queue.sqlite3")


def test_a_full_queue_refuses(queue):
    queue.add("a", {}, {}, 1)
    with pytest.raises(QueueFullError, match="1 jobs are waiting"):
        queue.add("b", {}, {}, 1)
    queue.claim("w")
    queue.add("b", {}, {}, 1)  # a running job does not wait


def test_only_the_holder_of_the_claim_can_end_a_job(queue):
    add(queue, "a")
    first = queue.claim("w")
    queue.release("w")
    second = queue.claim("w")
    assert not queue.progress(first, "render", 1, 2)
    assert not queue.finish(first, "done")
    assert queue.progress(second, "render", 1, 2)
    assert (queue.get("a").done, queue.get("a").total) == (1, 2)
    assert queue.finish(second, "done", report={"frames": 2})
    assert not queue.finish(second, "done"), "a job ends once"
    assert queue.get("a").report == {"frames": 2}


def test_a_job_whose_worker_dies_is_first_again_and_given_up_in_the_end(queue):
    add(queue, "a", "b")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert queue.claim("w").id == "a"
        ended = queue.release("w")
        assert [job.id for job in ended] == (["a"] if attempt == MAX_ATTEMPTS else [])
    assert queue.get("a").state == "failed"
    assert "died 3 times" in queue.get("a").error
    assert queue.claim("w").id == "b"


def test_a_stop_of_the_service_is_not_held_against_the_job(queue):
    add(queue, "a")
    for _ in range(2 * MAX_ATTEMPTS):
        queue.claim("w")
        queue.release("w", blame=False)
    assert (queue.get("a").state, queue.get("a").attempts) == ("queued", 0)


def test_release_concerns_one_worker(queue):
    add(queue, "a", "b")
    queue.claim("one")
    queue.claim("two")
    queue.release("one")
    assert (queue.get("a").state, queue.get("b").state) == ("queued", "running")


def test_cancelling(queue):
    add(queue, "a", "b")
    running = queue.claim("w")
    queue.cancel("a")
    queue.cancel("b")
    assert queue.get("b").state == "cancelled"
    assert queue.get("a").state == "running"
    assert not queue.progress(running, "render", 1, 2), "the worker is told to stop"
    assert queue.to_kill(grace=60, stall=60) == []
    assert queue.to_kill(grace=-1, stall=60) == ["w"]
    assert [job.id for job in queue.release("w")] == ["a"]
    assert queue.get("a").state == "cancelled"
    assert queue.claim("w") is None


def test_a_job_without_progress_is_found(queue):
    add(queue, "a")
    queue.claim("w")
    assert queue.to_kill(grace=60, stall=60) == []
    assert queue.to_kill(grace=60, stall=-1) == ["w"]


def test_old_jobs_expire(queue):
    add(queue, "a", "b")
    done = queue.claim("w")
    queue.finish(done, "done")
    finished = queue.get("a").finished
    assert queue.expire(finished - 1) == []
    assert queue.expire(finished + 1) == ["a"]
    assert queue.ids() == {"b"}
    queue.forget("b")
    assert queue.ids() == {"b"}, "a waiting job is not forgotten"
