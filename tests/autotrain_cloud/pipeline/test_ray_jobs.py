"""What a job server's answers mean, and what is said when it gives none."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from autotrain_cloud.pipeline import supervise
from autotrain_cloud.pipeline.executor import Job, open_executor
from autotrain_cloud.pipeline.ray_executor import RayExecutor
from autotrain_cloud.pipeline.ray_jobs import JobInfo, RayJobs, find_token
from edge_runtime.errors import ConfigError, StorageError


def job(folder: Path, *argv: str, attempt: str = "1") -> Job:
    return Job(
        id="step-key", attempt=attempt, argv=argv or ("true",), folder=folder / "job", cwd=folder,
        timeout_s=60.0,
    )  # fmt: skip


class Server(ThreadingHTTPServer):
    """Gives the answers it was given, by method and path, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, str]] = {}
        self.asked: list[tuple[str, str, str]] = []  # what, token, body

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        what = f"{self.command} {self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.asked.append((what, self.headers.get("Authorization", ""), body))
        code, text = self.server.answers[what]
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_job_is_submitted_with_what_is_set_aside_for_it_and_the_token(server: Server) -> None:
    server.answers["POST /api/jobs/"] = 200, '{"submission_id": "a"}'
    assert RayJobs(server.url, token="secret").submit("a", "true", cpus=2, gpus=1)
    ((_, token, body),) = server.asked
    assert token == "Bearer secret"
    assert json.loads(body) == {
        "submission_id": "a", "entrypoint": "true", "entrypoint_num_cpus": 2,
        "entrypoint_num_gpus": 1,
    }  # fmt: skip


def test_an_answer_that_makes_no_sense_may_be_another_in_a_minute(server: Server) -> None:
    server.answers["GET /api/jobs/a"] = 200, "<html>"
    with pytest.raises(StorageError, match="gave an answer that is not JSON: <html>"):
        RayJobs(server.url).find("a")
    server.answers["POST /api/jobs/"] = 500, "Traceback\nNo available agent"
    with pytest.raises(StorageError, match="gave HTTP 500: No available agent"):
        RayJobs(server.url).submit("a", "true")


def test_a_refused_token_is_for_a_person_and_says_where_it_belongs(server: Server) -> None:
    server.answers["GET /api/jobs/a"] = 401, "Unauthorized: Missing authentication token"
    with pytest.raises(ConfigError, match=r"refuses this token .*into RAY_AUTH_TOKEN"):
        RayJobs(server.url).find("a")


def test_a_cluster_that_is_not_there_may_come_back(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # holds a port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        executor = open_executor(f"ray://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"no Ray job server answers .*Connection refused"):
            executor.run(job(tmp_path))
    assert not (tmp_path / "job").exists()


def test_the_token_is_looked_for_where_ray_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert find_token() == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of home\n")
    assert find_token() == "of home"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"RAY_AUTH_TOKEN_PATH: .*none: cannot be read"):
        find_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the environment")
    assert find_token() == "of the environment"


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("ray://head", "http://head:8265"),
        ("ray://head:9000", "http://head:9000"),
        ("ray://[::1]", "http://[::1]:8265"),
        ("https://ray.example/?cpus=2&gpus=0.5", "https://ray.example"),
    ],
)
def test_a_cluster_is_named_by_its_job_server(url: str, server: str) -> None:
    executor = open_executor(url)
    assert isinstance(executor, RayExecutor) and executor._jobs.url == server
    assert (executor._cpus, executor._gpus) == ((2, 0.5) if "?" in url else (1, 0))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ray://head:10001", "10001 is Ray Client.*name the job server: ray://head:8265"),
        ("ray://", "expected 'local' or 'ray://HOST:8265'"),
        ("head:8265", "expected 'local' or"),
        ("ray://head:port", "Port could not be cast"),
        ("ray://head/jobs", "nothing may follow host and port"),
        ("ray://head?cpus=-1", "cpus=-1"),
        ("ray://head?memory=1", "memory=1"),
    ],
)
def test_a_name_that_cannot_be_a_job_server_is_refused_in_words(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        open_executor(url)


class Script(RayJobs):
    """A cluster that does as it is told: what `find` gives, one after the other."""

    def __init__(self, *found: JobInfo | StorageError | None) -> None:
        super().__init__("http://script")
        self.found = list(found)
        self.did: list[str] = []

    def find(self, id: str) -> JobInfo | None:
        one = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        if isinstance(one, StorageError):
            raise one
        return one

    def submit(self, id: str, entrypoint: str, *, cpus: float = 0, gpus: float = 0) -> bool:
        self.did.append(f"submit {id}")
        return True

    def stop(self, id: str) -> None:
        self.did.append(f"stop {id}")

    def forget(self, id: str) -> None:
        self.did.append(f"forget {id}")


def end(folder: Path, attempt: str = "1") -> None:
    facts = {"code": 0, "seconds": 1.0, "cpu_seconds": 0.5, "peak_mb": 10.0}
    (folder / "job" / f"exit-{attempt}.json").write_text(json.dumps(facts))


RUNNING = JobInfo(status="RUNNING")


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        (JobInfo(status="FAILED", code=supervise.NO_FOLDER), "does not have this folder"),
        (JobInfo(status="FAILED", code=127, message="x: not found"), "very installation"),
    ],
)
def test_a_node_that_lacks_what_a_step_needs_is_for_a_person(
    tmp_path: Path, info: JobInfo, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        RayExecutor(Script(None, info), poll_s=0.01).run(job(tmp_path))


def test_the_supervisor_says_that_its_folder_is_not_there(tmp_path: Path) -> None:
    assert supervise.main(tmp_path / "job") == supervise.NO_FOLDER
    assert not (tmp_path / "job").exists()


def test_a_lost_node_is_a_killed_step_with_rays_own_reason(tmp_path: Path) -> None:
    lost = JobInfo(status="FAILED", message="its actor died\nat length")
    outcome = RayExecutor(Script(None, RUNNING, lost), poll_s=0.01).run(job(tmp_path))
    assert outcome.ended == "killed"
    assert outcome.reason == "its Ray job ended as FAILED: its actor died"


def test_a_silent_job_server_is_waited_for_while_a_job_may_be_running(tmp_path: Path) -> None:
    silent = StorageError("silent")
    script = Script(RUNNING, silent, silent, JobInfo(status="FAILED", message="over"))
    (tmp_path / "job").mkdir()
    assert RayExecutor(script, poll_s=0.01).run(job(tmp_path)).ended == "killed"
    with pytest.raises(StorageError, match="silent"):
        RayExecutor(Script(RUNNING, silent), poll_s=0.01, patience_s=0.1).run(job(tmp_path))


def test_an_attempt_waits_for_the_job_of_the_one_before(tmp_path: Path) -> None:
    first = Script(None, JobInfo(status="STOPPED", message="x"))
    RayExecutor(first, poll_s=0.01).run(job(tmp_path))
    over = JobInfo(status="FAILED", message="x")
    script = Script(RUNNING, RUNNING, over, None, over)
    RayExecutor(script, poll_s=0.01).run(job(tmp_path, attempt="2"))
    assert script.did == ["submit step-key-2"] and len(script.found) == 1
    # And is stopped with it.
    script = Script(RUNNING, RUNNING, over)
    outcome = RayExecutor(script, poll_s=0.01).run(
        job(tmp_path, attempt="3"), cancelled=lambda: True
    )
    assert outcome.ended == "cancelled" and script.did == ["stop step-key-2", "stop step-key-3"]


def test_a_job_that_found_its_folder_taken_is_asked_for_again(tmp_path: Path) -> None:
    busy = JobInfo(status="FAILED", code=supervise.BUSY)
    script = Script(None, busy, None, JobInfo(status="FAILED", message="x"))
    RayExecutor(script, poll_s=0.01).run(job(tmp_path))
    assert script.did == ["submit step-key-1", "forget step-key-1", "submit step-key-1"]


def test_what_is_over_is_read_without_asking_for_anything(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    end(tmp_path)
    script = Script(None)
    outcome = RayExecutor(script, poll_s=0.01).run(job(tmp_path))
    assert (outcome.ended, outcome.cpu_seconds, script.did) == ("done", 0.5, [])


def test_controlling_a_cluster_needs_no_ray() -> None:
    import subprocess

    code = (
        "import sys; from autotrain_cloud.pipeline.executor import open_executor\n"
        "open_executor('ray://head'); print('ray' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
