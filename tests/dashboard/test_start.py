"""TensorBoard with the tab: how it starts, what it imports, and that its runs have the tab's names."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from recording import make_look, make_writer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import lightning_saliency

ROOT = Path(lightning_saliency.__file__).parents[1]
TESTS = Path(__file__).parents[1]
PATIENCE = 60
HEAVY = ("torch", "pytorch_lightning", "lightning", "torchvision", "matplotlib", "PIL", "scipy")

# what TensorBoard does at its start, with or without the tab; then what that has cost
START = """
import json, resource, sys, time
from tensorboard import default, program
plugins = default.get_static_plugins()
if sys.argv[1] == "with":
    from lightning_saliency.dashboard.loader import SaliencyLoader
    plugins.append(SaliencyLoader)
tensorboard = program.TensorBoard(plugins=plugins)
tensorboard.configure(argv=["tensorboard", "--logdir", sys.argv[2], "--port", "0", "--load_fast", "false"])
tensorboard.launch()
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss / 1024,
                  "heavy": [name for name in sys.argv[3:] if name in sys.modules]}))
sys.stdout.flush()
__import__("os")._exit(0)
"""


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])}


def start(kind, folder):
    done = subprocess.run(
        [sys.executable, "-c", START, kind, str(folder), *HEAVY],
        capture_output=True, text=True, env=environment(), timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def tensorboard(folder, *options):
    """A TensorBoard with the tab, by its address."""
    log = folder / "tensorboard.txt"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tab_server", "--host", "127.0.0.1", "--port", "0", *options],
            stdout=said, stderr=said, env=environment(),
        )  # fmt: skip
    try:
        end, address = time.monotonic() + PATIENCE, None
        while address is None and time.monotonic() < end:
            address = re.search(r"http://\S+?:\d+\S*", log.read_text())
            time.sleep(0.05)
        assert address, log.read_text()
        yield address[0].rstrip("/")
    finally:
        process.terminate()
        process.wait(PATIENCE)


def ask(address, route):
    with urlopen(f"{address}/{route}", timeout=PATIENCE) as answer:
        return json.loads(answer.read())


def wait_for(read, expected):
    end = time.monotonic() + PATIENCE
    while (found := read()) != expected and time.monotonic() < end:
        time.sleep(0.1)
    return found


def write_events(folder):
    writer = EventFileWriter(str(folder))
    writer.add_event(Event(step=1, summary={"value": [{"tag": "loss", "simple_value": 1.0}]}))
    writer.close()


def test_the_start_takes_no_longer_and_no_more_memory_with_the_tab(tmp_path):
    for run in range(20):
        make_writer(tmp_path / f"version_{run}").write(make_look(0, 0))
    without, with_tab = [], []
    for _ in range(3):  # in turns, so that whatever else the machine does meets both
        without.append(start("without", tmp_path))
        with_tab.append(start("with", tmp_path))
    assert with_tab[0]["heavy"] == without[0]["heavy"]
    for what, most in (("cpu", 0.1), ("memory", 10)):
        more = statistics.median(b[what] - a[what] for a, b in zip(without, with_tab, strict=True))
        assert more <= most, f"{what}: {more}"


@pytest.mark.parametrize("options", [(), ("--load_fast=false",), ("--load_fast=false", "--path_prefix=/a/b")])
def test_the_tab_names_runs_as_tensorboard_does(tmp_path, options):
    logs = tmp_path / "logs"
    for run in (".", "deep/version_0", "name with space/ü#1"):
        make_writer(logs / run).write(make_look(0, 0))
        write_events(logs / run)
    make_writer(logs / "no_events").write(make_look(0, 0))
    with tensorboard(tmp_path, "--logdir", str(logs), *options) as address:
        expected = [".", "deep/version_0", "name with space/ü#1"]
        names = wait_for(lambda: sorted(ask(address, "data/runs")), expected)
        assert names == expected
        runs = ask(address, "data/plugin/saliency/runs")["runs"]
        assert sorted(run["id"] for run in runs) == sorted([*names, "no_events"])
        assert ask(address, "data/plugins_listing")["saliency"]["enabled"]
        for run in names:
            assert ask(address, f"data/plugin/saliency/about?id={quote(run)}")["id"] == run


def test_under_a_spec_too(tmp_path):
    for run in ("a", "a/version_0", "b/version_0"):
        make_writer(tmp_path / run).write(make_look(0, 0))
        write_events(tmp_path / run)
    spec = f"one:{tmp_path / 'a'},two:{tmp_path / 'b'}"
    with tensorboard(tmp_path, "--logdir_spec", spec) as address:
        expected = ["one/.", "one/version_0", "two/version_0"]
        assert wait_for(lambda: sorted(ask(address, "data/runs")), expected) == expected
        assert sorted(run["id"] for run in ask(address, "data/plugin/saliency/runs")["runs"]) == expected
        assert ask(address, "data/plugins_listing")["saliency"]["enabled"]


def test_where_there_is_no_record_the_tab_is_not_shown(tmp_path):
    write_events(tmp_path / "logs")
    with tensorboard(tmp_path, "--logdir", str(tmp_path / "logs")) as address:
        assert not ask(address, "data/plugins_listing")["saliency"]["enabled"]
        assert ask(address, "data/plugin/saliency/runs")["runs"] == []


def test_whatever_is_asked_nothing_heavy_is_imported(tmp_path):
    make_writer(tmp_path).write(make_look(0, 0))
    script = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from types import SimpleNamespace
from werkzeug.test import Client
from lightning_saliency.dashboard import SaliencyLoader
plugin = SaliencyLoader().load(SimpleNamespace(flags=SimpleNamespace(logdir={str(tmp_path)!r}, logdir_spec="")))
apps = plugin.get_plugin_apps()
while not plugin.is_active():
    pass
for route in ("about", "images", "peaks", "maps"):
    answer = Client(apps["/" + route]).get("/?id=.&method=grad_cam&looks=epoch=000000-step=0000000000")
    assert answer.status_code == 200, answer.data
from lightning_saliency.history import load_record
load_record({str(tmp_path)!r}).report()
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert done.stdout.strip() == "[]", done.stderr
