"""A shared study: every run once, none lost, whoever dies; and strangers are refused with the difference."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest

pytest.importorskip("optuna")

import synthetic
from synthetic import NAME, objective, points, setup

from phiscale.errors import DivergedError, RunError
from phiscale.search import storage as storages
from phiscale.search.storage import mend_journal, open_storage
from phiscale.search.study import Job, Report, Score, Study

ROOT = Path(__file__).parents[2]


def worker(url: str, log: Path, *, seconds: float, grace: float = 60, folder: Path | None = None) -> "subprocess.Popen[str]":
    command = [sys.executable, synthetic.__file__, url, str(seconds), str(log), str(grace), *([str(folder)] if folder else [])]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, stdout=subprocess.PIPE, text=True)


def check_whole(study: Study) -> None:
    """Each point and each finalist's seed is there once, and has an answer."""
    runs = study.runs()
    assert len({(run.point.key, run.seed) for run in runs}) == len(runs) == len(study.points) + 2 * 2
    assert all(run.state in ("done", "pruned") for run in runs)
    finished = Counter(t.user_attrs["run"] for t in study.study.trials if t.state.name in ("COMPLETE", "PRUNED"))
    assert set(finished.values()) == {1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("finished")
    study = Study.create(setup(), points(), storage=f"sqlite:///{folder}/study.db", name=NAME, folder=folder)
    study.work(objective)
    return study


def test_a_study_trains_every_point_once_and_the_finalists_anew(finished: Study) -> None:
    check_whole(finished)
    first = [run for run in finished.runs() if run.seed == 0]
    assert any(run.state == "pruned" for run in first)
    found = finished.findings()
    assert [one.n for one in found.standings] == [2, 2]
    assert found.winner.key == found.standings[0].key


@pytest.mark.parametrize(("pruner", "prunes"), [("hyperband", True), ("none", False)])
def test_other_pruners_leave_a_whole_study_too(pruner: str, prunes: bool, tmp_path: Path) -> None:
    with Study.create(setup(pruner=pruner, epochs=9), points(), storage=f"journal:{tmp_path}/study.log", name=NAME) as study:
        study.work(objective)
        check_whole(study)
        assert any(run.state == "pruned" for run in study.runs()) == prunes
        assert study.findings().winner in study.points


def test_a_study_that_is_over_runs_nothing_again(finished: Study) -> None:
    def never(job: Job, report: Report) -> Score:
        raise AssertionError(job)

    again = Study.create(setup(), points(), storage=finished.url, name=NAME, folder=finished.folder)
    again.work(never)


def test_a_lost_database_is_read_back_from_the_folder(finished: Study, tmp_path: Path) -> None:
    again = Study.create(setup(), points(), storage=f"sqlite:///{tmp_path}/new.db", name=NAME, folder=finished.folder)
    assert [(run.state, run.top1, run.curve) for run in again.runs()] == [(run.state, run.top1, run.curve) for run in finished.runs()]
    assert again.findings() == finished.findings()


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"baseline": synthetic.baseline().at(96)}, "baseline: .* at 64 px, here .* at 96 px"),
        ({"images": {"fingerprint": "beef"}}, "images.fingerprint: 'f00d', here 'beef'"),
        ({"epochs": 5}, "epochs: 3, here 5"),
        ({"version": "0.0.1"}, "version: "),
    ],
)
def test_a_study_made_for_something_else_is_refused_with_the_difference(finished: Study, others: dict[str, object], said: str) -> None:
    with pytest.raises(RunError, match=said):
        Study.create(setup(**others), points(), storage=finished.url, name=NAME, folder=None)


def test_a_worker_of_another_version_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    with pytest.raises(RunError, match=r"made by phiscale 99\.0.*install the same version"):
        Study.create(setup(version="99.0"), points(), storage=url, name=NAME)
    with pytest.raises(RunError, match=r"made by phiscale 99\.0.*install the same version"):
        Study.join(storage=url, name=NAME)
    with pytest.raises(RunError, match=r"no study 'other'.*there: tiny"):
        Study.join(storage=url, name="other")


@pytest.fixture(params=["sqlite", "journal", "postgres", "proxy"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage of each kind that workers can share."""
    if request.param in ("postgres", "proxy"):
        return request.getfixturevalue(request.param)
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else f"journal:{tmp_path}/study.log"


@pytest.mark.slow
def test_of_three_workers_one_is_killed_and_no_run_is_lost_or_doubled(url: str, tmp_path: Path) -> None:
    log = tmp_path / "begun"
    with Study.create(setup(), points(), storage=url, name=NAME) as study:
        victim, others = worker(url, log, seconds=60), list[subprocess.Popen[str]]()
        try:
            until(lambda: any(run.state == "running" for run in study.runs()))
            begun = next(f"{run.point.key}/{run.seed}" for run in study.runs() if run.state == "running")
            others = [worker(url, log, seconds=0.1) for _ in range(2)]
            until(lambda: any(run.over for run in study.runs()))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            assert [one.wait(120) for one in others] == [0, 0]
        finally:
            for process in (victim, *others):
                process.kill()
                process.communicate()
        check_whole(study)
    times = Counter(log.read_text().split())
    assert times.pop(begun) == 2  # by the dead, and once more
    assert set(times.values()) == {1}


def until(true: "object", seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def test_a_silent_worker_elsewhere_is_given_up_by_the_observers_own_clock(tmp_path: Path) -> None:
    study = Study.create(setup(), points(), storage=f"sqlite:///{tmp_path}/study.db", name=NAME)
    study.home = ["another machine", "", 1, 1]
    taken = study.take()
    assert taken is not None
    assert study.reap(grace=1) == 0  # first seen now
    time.sleep(0.6)
    study.storage.set_trial_user_attr(taken[0]._trial_id, "beat", 1)
    time.sleep(0.6)
    assert study.reap(grace=1) == 0  # it moved
    time.sleep(1.1)
    assert study.reap(grace=1) == 1
    assert next(run for run in study.runs() if run.point.key == taken[1].point.key).state == "missing"
    study.fill()
    assert next(run for run in study.runs() if run.point.key == taken[1].point.key).state == "waiting"


def test_a_run_put_in_twice_is_trained_once(tmp_path: Path) -> None:
    study = Study.create(setup(finalists=1, seeds=1), points()[:1], storage=f"sqlite:///{tmp_path}/study.db", name=NAME)
    study._add(study.points[0], 0)  # what two creators at the same instant do
    log = tmp_path / "begun"
    study.work(lambda job, report: objective(job, report, log=log))
    assert Counter(log.read_text().split()) == {f"{study.points[0].key}/0": 1, f"{study.points[0].key}/1": 1}


def test_what_diverges_is_given_up_and_what_fails_is_tried_again(tmp_path: Path) -> None:
    study = Study.create(setup(), points(), storage=f"sqlite:///{tmp_path}/study.db", name=NAME)
    bad, broken = study.points[0].key, [True]

    def sometimes(job: Job, report: Report) -> Score:
        if job.point.key == bad:
            raise DivergedError("the loss is nan")
        if broken.pop() if broken else False:
            raise RunError("the disk is full")
        return objective(job, report)

    for _ in range(2):
        try:
            study.work(sometimes)
        except RunError as error:
            assert str(error) == "the disk is full"  # noqa: PT017
    states = {run.point.key: (run.state, run.why) for run in study.runs() if run.seed == 0}
    assert states.pop(bad) == ("failed", "the loss is nan")
    assert {state for state, _ in states.values()} <= {"done", "pruned"}


def test_a_full_disk_says_so_and_loses_nothing(tmp_path: Path) -> None:
    study = Study.create(setup(), points(), storage=f"sqlite:///{tmp_path}/study.db", name=NAME, folder=tmp_path)
    with study.storage._backend.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # this connection's file can't grow

    def talkative(job: Job, report: Report) -> Score:
        score = objective(job, report)
        study.study.set_user_attr("long", "x" * 100_000)
        return score

    with pytest.raises(RunError, match="is full; finished trials are safe"), storages.plain_errors(study.url):
        study.work(talkative)
    again = Study.create(setup(), points(), storage=study.url, name=NAME, folder=tmp_path)
    again.work(objective)
    check_whole(again)


def test_a_damaged_database_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(RunError, match=r"is damaged; move the file away.*read back"):
        open_storage(f"sqlite:///{tmp_path}/study.db")


def test_a_locked_database_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "LOCKED_SECONDS", 0.2)
    url = f"sqlite:///{tmp_path}/study.db"
    study = Study.create(setup(), points(), storage=url, name=NAME)
    holder = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(RunError, match="stayed locked"):
            study.runs()
    finally:
        holder.close()


def test_a_torn_journal_is_mended_and_goes_on(tmp_path: Path) -> None:
    url, path = f"journal:{tmp_path}/study.log", tmp_path / "study.log"
    study = Study.create(setup(), points(), storage=url, name=NAME)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":6,"worker_')  # killed in the middle of a line
    again = Study.create(setup(), points(), storage=url, name=NAME)
    assert (tmp_path / "study.log.torn").read_bytes() == b'{"op_code":6,"worker_'
    again.work(objective)
    check_whole(again)
    del study


def test_a_journal_damaged_in_the_middle_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    path.write_bytes(b'{"a":1}\n{"b":\n{"c":3}\n')
    with pytest.raises(RunError, match="line 2 of the journal"):
        open_storage(f"journal:{path}")
    assert path.read_bytes() == b'{"a":1}\n{"b":\n{"c":3}\n'


def test_mending_leaves_a_whole_journal_alone(tmp_path: Path) -> None:
    from optuna.storages.journal import JournalFileOpenLock

    path = tmp_path / "study.log"
    path.write_text(json.dumps({"a": 1}) + "\n")
    assert mend_journal(path, JournalFileOpenLock(str(path))) == 0


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own, on a socket in a folder of our own; Debian's package `postgresql` brings it.

    It refuses to run as root: there, it runs as the user of Debian's package.
    """
    pytest.importorskip("psycopg", reason="the PostgreSQL driver is not installed (psycopg[binary])")
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not homes:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    as_user: list[str] = []
    folder = Path("/tmp") / f"phiscale-postgres-{os.getpid()}"  # a socket's path must be short
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    if os.getuid() == 0:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    bins, data = homes[-1].parent, folder / "data"

    def run(*command: object) -> None:
        subprocess.run([*as_user, *map(str, command)], check=True, capture_output=True, cwd=folder, timeout=120)

    try:
        run(bins / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync")
        run(bins / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", f"-c listen_addresses='' -k {folder} -c fsync=off", "start")
    except (OSError, subprocess.SubprocessError) as error:
        subprocess.run(["rm", "-rf", folder], check=True)
        pytest.skip(f"PostgreSQL can't be started here: {error}")
    try:
        yield f"postgresql:///postgres?host={folder}&user=postgres"
    finally:
        run(bins / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    """Optuna's gRPC proxy before an SQLite file."""
    pytest.importorskip("grpc", reason="grpcio is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from optuna.storages import run_grpc_proxy_server\n"
        "from phiscale.search.storage import open_storage\n"
        f"run_grpc_proxy_server(open_storage('sqlite:///{tmp_path}/study.db'), host='127.0.0.1', port={port})"
    )

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT / "src")}) as server:
        try:
            until(answers)
            yield f"grpc://127.0.0.1:{port}"
        finally:
            server.kill()


def test_postgresql_that_is_not_there_says_so(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(RunError, match=r"failed.*is it running"):
        open_storage(f"postgresql:///postgres?host={tmp_path}")


def test_optunas_dashboard_opens_the_same_study(finished: Study) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    told: list[str] = []
    request: dict[str, object] = {}
    setup_testing_defaults(request)

    def get(path: str) -> object:
        answer = dashboard.wsgi(finished.url)(request | {"PATH_INFO": path}, lambda status, *_: told.append(status))
        return json.loads(b"".join(answer))

    known = get("/api/studies")
    assert [one["study_name"] for one in known["study_summaries"]] == [NAME]  # type: ignore[index]
    held = get(f"/api/studies/{known['study_summaries'][0]['study_id']}")  # type: ignore[index]
    assert len(held["trials"]) == len(finished.runs())  # type: ignore[index]
    assert told == ["200 OK", "200 OK"]
