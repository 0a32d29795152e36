"""Which photos a worker gets, and which are sent again or refused when workers die."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from trainer.vgg16.engines.assignment import CPUS_PER_WORKER, MAX_DEATHS, Assignment, Place, places
from trainer.vgg16.engines.engine import Todo


def photos(n: int) -> list[Todo]:
    return [Todo(f"{number:064x}", Path(f"{number}.jpg"), ("whole",)) for number in range(n)]


def test_photos_are_sent_once_and_in_order() -> None:
    assignment = Assignment(photos(5))
    assert [assignment.take(2, is_idle=False) for _ in range(4)] == [
        (*photos(5)[:2],),
        (*photos(5)[2:4],),
        (*photos(5)[4:],),
        (),
    ]
    assert not assignment


def test_photos_of_a_lost_node_are_sent_again_like_new_ones() -> None:
    assignment = Assignment(photos(6))
    lost = assignment.take(4, is_idle=True)
    assignment.send_again(lost)
    assert assignment.take(4, is_idle=False) == lost
    assert assignment.n_sent_again == 4


def test_a_photo_that_was_there_when_a_worker_died_is_sent_alone_after_all_others() -> None:
    assignment = Assignment(photos(4))
    assert assignment.blame(assignment.take(2, is_idle=True), "killed") == ()
    assert assignment.take(2, is_idle=True) == (*photos(4)[2:],)
    assert assignment.take(2, is_idle=False) == ()  # the worker has another task
    assert assignment.take(2, is_idle=True) == (photos(4)[0],)
    assert assignment.take(2, is_idle=True) == (photos(4)[1],)
    assert not assignment


def test_a_photo_is_refused_with_the_reason_when_three_workers_died_of_it() -> None:
    assignment = Assignment(photos(2))
    assert assignment.blame(assignment.take(2, is_idle=True), "first") == ()
    assert assignment.blame(assignment.take(2, is_idle=True), "second") == ()
    assert assignment.take(2, is_idle=True) == (photos(2)[1],)  # the other one is innocent
    refused = assignment.blame(assignment.take(2, is_idle=True), "out of memory")
    assert [photo.sha256 for photo in refused] == [photos(1)[0].sha256]
    assert "3 workers died" in refused[0].reason
    assert "out of memory" in refused[0].reason
    assert not assignment
    assert assignment.n_refused == 1


@given(
    st.integers(0, 12),
    st.sets(st.integers(0, 11)),
    st.lists(st.sampled_from(["done", "node lost"]), max_size=30),
    st.integers(1, 5),
)
def test_no_photo_is_lost_or_computed_twice_whatever_dies(
    n: int, deadly: set[int], ends: list[str], n_at_once: int
) -> None:
    assignment = Assignment(photos(n))
    finished: list[str] = []
    refused: list[str] = []
    kills = {photos(12)[number].sha256 for number in deadly}
    while assignment:
        task = assignment.take(n_at_once, is_idle=True)
        if kills & {photo.sha256 for photo in task}:
            refused += [photo.sha256 for photo in assignment.blame(task, "killed")]
        elif ends and ends.pop() == "node lost":
            assignment.send_again(task)
        else:
            finished += [photo.sha256 for photo in task]
    assert sorted(finished) == sorted(photo.sha256 for photo in photos(n) if photo.sha256 not in kills)
    assert sorted(refused) == sorted(photo.sha256 for photo in photos(n) if photo.sha256 in kills)
    assert MAX_DEATHS == 3


def test_the_processors_of_a_node_are_shared_out_among_its_workers() -> None:
    found = places({"b": {"CPU": 2.0}, "a": {"CPU": 10.0, "GPU": 1.0}, "head": {"memory": 1.0}}, on_gpu=False)
    assert found == (Place("a", 0, 4), Place("a", 1, 3), Place("a", 2, 3), Place("b", 0, 2))
    assert all(place.n_cpus <= CPUS_PER_WORKER for place in found)


def test_each_gpu_gets_a_worker_and_nodes_without_one_get_none() -> None:
    assert places({"a": {"CPU": 9.0, "GPU": 2.0}, "b": {"CPU": 4.0}}, on_gpu=True) == (
        Place("a", 0, 5, n_gpus=1),
        Place("a", 1, 4, n_gpus=1),
    )
