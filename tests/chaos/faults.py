"""What goes wrong: each fault waits at the gate for its moment in a trial's run."""

from datetime import UTC, datetime, timedelta

import psutil
from typer.testing import CliRunner

from lynx_batch import storage
from lynx_batch.cli import app
from lynx_batch.ledger.heartbeat import Heartbeat
from tests import crashes
from tests.builders import HOPPER
from tests.chaos.arena import Trial
from tests.chaos.gate import COMMIT, TRY, VIDEO, Moment, Silence

STORE_DOWN_S = 20.0
STORE_BUSY_S = 10.0
DRAIN_S = 10.0
FULL_DISK_BYTES = 1024
LOST = frozenset({"GroupLost"})


def nothing(trial: Trial) -> None:
    """What the others are compared with."""


def a_rank_killed(trial: Trial) -> None:
    trial.breaks = LOST
    trial.arena.gate.at(Moment.AFTER, COMMIT, lambda: kill(trial.arena.workers()[:1]))


def a_group_killed(trial: Trial) -> None:
    trial.breaks = LOST
    trial.arena.gate.at(Moment.AFTER, COMMIT, lambda: kill(trial.arena.workers(trial.arena.busy_node())))


def every_group_killed_before_it_knows_of_a_commit(trial: Trial) -> None:
    trial.breaks = LOST

    def kill_all() -> None:
        kill(trial.arena.workers())
        raise Silence

    trial.arena.gate.at(Moment.AFTER, COMMIT, kill_all)


def a_node_killed(trial: Trial) -> None:
    trial.breaks = LOST
    trial.arena.gate.at(Moment.AFTER, COMMIT, lambda: trial.arena.kill_node(trial.arena.busy_node()))


def a_raylet_killed(trial: Trial) -> None:
    """That of the only group, as another might still be loading."""
    trial.breaks, trial.options = LOST, ("--set", "cluster.max_groups=1")
    trial.arena.gate.at(Moment.AFTER, COMMIT, lambda: trial.arena.kill_raylet(trial.arena.busy_node()))


def a_node_drained(trial: Trial) -> None:
    trial.breaks = frozenset({"NodeDrained"})

    def drain() -> None:
        node = trial.arena.busy_node()
        trial.arena.drain_node(node, DRAIN_S)
        trial.later(DRAIN_S, lambda: trial.arena.kill_node(node))

    trial.arena.gate.at(Moment.AFTER, COMMIT, drain)


def an_answer_to_a_commit_lost(trial: Trial) -> None:
    def stay_silent() -> None:
        raise Silence

    trial.arena.gate.at(Moment.AFTER, COMMIT, stay_silent)


def the_driver_killed_before_its_run_record(trial: Trial) -> None:
    kill_driver_at(trial, Moment.BEFORE, r"/runs/.*/run\.json")


def the_driver_killed_before_an_upload(trial: Trial) -> None:
    kill_driver_at(trial, Moment.BEFORE, VIDEO)


def the_driver_killed_after_an_upload(trial: Trial) -> None:
    kill_driver_at(trial, Moment.AFTER, VIDEO)


def the_driver_killed_before_a_commit(trial: Trial) -> None:
    kill_driver_at(trial, Moment.BEFORE, COMMIT)


def the_driver_killed_before_the_answer_to_a_commit(trial: Trial) -> None:
    kill_driver_at(trial, Moment.AFTER, COMMIT)


def the_driver_killed_before_a_try_is_recorded(trial: Trial) -> None:
    kill_driver_at(trial, Moment.BEFORE, TRY)


def the_driver_killed_before_the_answer_to_a_try(trial: Trial) -> None:
    kill_driver_at(trial, Moment.AFTER, TRY)


def the_driver_killed_before_its_metadata(trial: Trial) -> None:
    kill_driver_at(trial, Moment.BEFORE, r"/metadata/")


def the_store_killed_for_20_s(trial: Trial) -> None:
    def kill_server() -> None:
        trial.arena.server.kill()
        trial.later(STORE_DOWN_S, trial.arena.server.start)

    trial.arena.gate.at(Moment.AFTER, COMMIT, kill_server)


def the_store_answers_503_for_10_s(trial: Trial) -> None:
    trial.arena.gate.at(Moment.AFTER, COMMIT, lambda: trial.arena.gate.refuse(STORE_BUSY_S))


def a_full_disk(trial: Trial) -> None:
    """No file of a group can grow: a limit of its processes, which needs no file system of its own."""

    def fill() -> None:
        for worker in trial.arena.workers(trial.arena.busy_node()):
            worker.rlimit(psutil.RLIMIT_FSIZE, (FULL_DISK_BYTES, FULL_DISK_BYTES))

    trial.arena.gate.at(Moment.AFTER, COMMIT, fill)


def a_corrupt_photo(trial: Trial) -> None:
    trial.num_rejected = 1
    storage.write_bytes(trial.photo(0), b"no picture")


def a_photo_that_kills(trial: Trial) -> None:
    trial.num_failed, trial.breaks = 1, LOST
    storage.upload(crashes.write_crashing(trial.job.folder / "killer.jpg", HOPPER), trial.photo(1))


def a_photo_that_is_gone(trial: Trial) -> None:
    """It was there when the run was planned."""
    trial.num_rejected = 1
    trial.arena.gate.at(Moment.BEFORE, r"/runs/.*/run\.yaml", lambda: storage.delete(trial.photo(0)))


def a_photo_cut_short(trial: Trial) -> None:
    trial.arena.gate.cut(r"/photos/0\.jpg")


def prune_beside_a_driver_whose_clock_is_behind(trial: Trial) -> None:
    """A video that is not committed yet is what prune looks for."""

    def prune() -> None:
        (beat,) = (f.uri for f in storage.list_files(trial.job.output) if f.uri.endswith("/heartbeat.json"))
        behind = Heartbeat(at=datetime.now(UTC) - timedelta(hours=2), host="node-1", process_id=1)
        storage.write_bytes(beat, behind.model_dump_json().encode())
        told = CliRunner().invoke(app, ["prune", trial.job.output, "--min-age", "1h"]).output
        assert "0 files of 0.0 MB removed" in told, told

    trial.arena.gate.at(Moment.AFTER, VIDEO, prune)


def a_committed_video_lost_and_repaired(trial: Trial) -> None:
    """The run ends without the clip, and the next one renders its second edition."""

    def lose_and_repair() -> None:
        (video,) = (f.uri for f in storage.list_files(trial.job.output) if f.uri.endswith(".mp4"))
        storage.delete(video)
        told = CliRunner().invoke(app, ["verify", trial.job.output, "--repair"]).output
        assert "1 commit withdrawn" in told, told

    trial.arena.gate.at(Moment.AFTER, COMMIT, lose_and_repair)


def two_drivers_at_once(trial: Trial) -> None:
    trial.options = ("--set", "cluster.max_groups=1")
    trial.arena.gate.at(Moment.AFTER, r"/runs/.*/run\.yaml", trial.start_rival)


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        process.kill()


def kill_driver_at(trial: Trial, moment: Moment, path: str) -> None:
    def kill_driver() -> None:
        trial.kill_driver()
        raise Silence

    trial.arena.gate.at(moment, path, kill_driver)


SHORT = (a_node_killed,)
JUDGED = (
    nothing,
    a_group_killed,
    a_node_drained,
    the_driver_killed_before_a_try_is_recorded,
    the_driver_killed_before_the_answer_to_a_try,
    the_driver_killed_before_the_answer_to_a_commit,
    the_store_answers_503_for_10_s,
    two_drivers_at_once,
)
"""The faults of jobs with a quality gate."""

FAULTS = (
    nothing,
    a_rank_killed,
    a_group_killed,
    every_group_killed_before_it_knows_of_a_commit,
    a_node_killed,
    a_raylet_killed,
    a_node_drained,
    an_answer_to_a_commit_lost,
    the_driver_killed_before_its_run_record,
    the_driver_killed_before_an_upload,
    the_driver_killed_after_an_upload,
    the_driver_killed_before_a_commit,
    the_driver_killed_before_the_answer_to_a_commit,
    the_driver_killed_before_its_metadata,
    the_store_killed_for_20_s,
    the_store_answers_503_for_10_s,
    a_full_disk,
    a_corrupt_photo,
    a_photo_that_kills,
    a_photo_that_is_gone,
    a_photo_cut_short,
    prune_beside_a_driver_whose_clock_is_behind,
    a_committed_video_lost_and_repaired,
    two_drivers_at_once,
)
