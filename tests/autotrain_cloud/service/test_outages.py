"""The services as processes, while the database of their store and of their runs goes and comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import Store
from tests.autotrain_cloud.pipeline.test_controller import write_settings
from tests.autotrain_cloud.processes import PATIENCE_S, wait_until
from tests.autotrain_cloud.service.test_learn import raise_alarm
from tests.postgres import BIN, Postgres

COMMANDS = """
select = "sh -c 'echo $0 > {out}/train.jsonl' [ {slice} ]"
retrain = "sh -c 'cat {checkpoint} {select}/train.jsonl > {out}/weights'"
"""


@pytest.mark.slow
@pytest.mark.skipif(not BIN, reason="Debian: apt install postgresql")
def test_while_the_database_is_down_learning_says_so_in_a_few_lines_and_then_goes_on_with_its_runs(
    tmp_path: Path,
) -> None:
    (tmp_path / "weights").write_text("w\n")
    with Postgres.start() as postgres:
        settings = StoreSettings(url=postgres.new_store(), blobs=str(tmp_path / "blobs"))
        store = Store.open(settings)
        pipeline = write_settings(
            tmp_path, commands=COMMANDS, tail="[policy]\nmin_new_minutes = 0.0",
            head=f'database = "{postgres.new_store()}"',
        )  # fmt: skip
        text = pipeline.read_text().replace('engine = "sqlite"', 'engine = "dbos"')
        pipeline.write_text(text)
        cloud = tmp_path / "cloud.toml"
        cloud.write_text(f'[store]\nurl = "{settings.url}"\nblobs = "{settings.blobs}"\n')
        log = tmp_path / "learn.log"
        with log.open("wb") as sink:
            learn = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime", "cloud", "learn", "--config", str(cloud),
                 "--pipeline", str(pipeline), "--every", "0.2"],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            )  # fmt: skip
        controller = Controller.open(pipeline)
        try:
            raise_alarm(store)

            def states() -> list[str]:
                return [controller.runs.read(id).state for id in controller.runs.ids()]

            wait_until(lambda: states() == ["done"])
            postgres.stop("immediate")
            wait_until(lambda: "trying again" in log.read_text())
            assert learn.poll() is None
            postgres.go()
            wait_until(lambda: "watch: works again" in log.read_text())
            controller.start(why="the database is back", slice="attic")
            wait_until(lambda: states() == ["done", "done"])
            learn.terminate()
            assert learn.wait(PATIENCE_S) == 0
            assert "Traceback" not in log.read_text()
            assert len(log.read_text().splitlines()) < 40
        finally:
            learn.kill()
            learn.wait()
            controller.close()
            store.close()
