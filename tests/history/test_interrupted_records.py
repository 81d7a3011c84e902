"""Several writers at once, kills, and folders that are deleted, full or forbidden."""

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from recording import contents, make_look, make_samples, make_writer, same, start_process

from lightning_saliency.history import Record, load_record


def test_two_writers_in_one_record_leave_each_other_s_looks_readable(tmp_path):
    one = make_writer(tmp_path)
    other = make_writer(tmp_path, state=one.state_dict())
    failures = []

    def write(writer, steps):
        try:
            for step in steps:
                writer.write(make_look(0, step, seed=step))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(one, range(0, 30)))]
    threads += [threading.Thread(target=write, args=(other, range(15, 45)))]
    record = Record(one.record.path)
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        record.refresh()
        assert record.problems == {}
        assert all(same(look, make_look(0, look.step, seed=look.step)) for look in record[-3:])
    for thread in threads:
        thread.join()
    record.refresh()
    assert (failures, record.problems) == ([], {})
    shown = [*record, *record.superseded]
    assert sorted(look.step for look in shown) == list(range(45))
    assert all(same(look, make_look(0, look.step, seed=look.step)) for look in shown)


WRITING = """
import sys
from recording import make_look, make_writer
writer = make_writer(sys.argv[1], state=eval(sys.argv[2]))
shapes = {"saliency": ((500, 500),) * 3}
print("ready", flush=True)
for step in range(int(sys.argv[3]), int(sys.argv[4])):
    writer.write(make_look(0, step, seed=step, shapes=shapes))
    print(step, flush=True)
"""


def expected(step):
    return make_look(0, step, seed=step, shapes={"saliency": ((500, 500),) * 3})


def test_two_processes_in_one_record_and_one_that_is_killed_leave_it_readable(tmp_path):
    state = make_writer(tmp_path).state_dict()
    lasting = start_process(WRITING, tmp_path, repr(state), "0", "6")
    killed = start_process(WRITING, tmp_path, repr(state), "100", "100000")
    for writer in (lasting, killed):
        assert writer.stdout.readline() == b"ready\n"
    folder = Path(state["path"])
    deadline = time.monotonic() + 60
    while not list(folder.glob(".epoch=000000-step=00000001*")):  # in the middle of a write
        assert time.monotonic() < deadline
    killed.send_signal(signal.SIGKILL)
    written = [int(line) for line in killed.communicate()[0].split()]
    assert [int(line) for line in lasting.communicate()[0].split()] == list(range(6))
    record = load_record(tmp_path)
    assert record.problems == {}
    steps = {look.step for looks in (record, record.superseded) for look in looks if same(look, expected(look.step))}
    assert steps >= {*range(6), *written}


KILLING = """
import os, random, select, signal, sys, time
from itertools import count
from recording import make_look, make_writer, same
from lightning_saliency.history import load_record

def look(step):
    return make_look(0, step, seed=step, shapes={"saliency": ((60, 60),) * 3})

def write_on(state, pipe):
    writer = make_writer(sys.argv[1], state=state)
    for step in count(1 + max(writer.record.steps, default=-1)):
        writer.write(look(step))
        os.write(pipe, step.to_bytes(4, "little"))

def killed(state, seconds):
    "Return the steps that a process reported as written before it was killed."
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        write_on(state, writing)
    os.close(writing)
    if seconds > 0.001:  # else in the middle of opening the record
        select.select([reading], [], [])
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    return [int.from_bytes(content[at : at + 4], "little") for at in range(0, len(content), 4)]

state = make_writer(sys.argv[1]).state_dict()
random, written, left = random.Random(0), set(), 0
for kill in range(100):
    reported = killed(state, random.uniform(0, 0.008))
    record = load_record(sys.argv[1])
    assert record.problems == {} and len(record.superseded) == 0, record.problems
    written |= set(reported)
    assert written <= set(record.steps), (written, record.steps)
    assert record.steps == list(range(len(record)))
    for step in [*reported, record.steps[-1]] if len(record) else ():
        assert same(record[step], look(step)), step
    hidden = [name for name in os.listdir(record.path) if name.startswith(".")]
    assert len(hidden) <= 1, hidden
    left += len(hidden)
writer = make_writer(sys.argv[1], state=state)
assert not [name for name in os.listdir(record.path) if name.startswith(".")]
writer.write(look(len(record)))
print(len(written), len(writer.record), left)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a killed process is a copy of one that has loaded everything")
def test_a_record_is_whole_after_each_of_100_kills_and_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    process = start_process(KILLING, tmp_path)
    said = process.communicate()[0]
    assert process.returncode == 0
    num_reported, num_looks, _ = map(int, said.split())
    assert 0 < num_reported < num_looks
    assert load_record(tmp_path).steps == list(range(num_looks))


def test_two_runs_that_begin_at_once_get_each_a_record(tmp_path):
    barrier, writers = threading.Barrier(8), []

    def begin():
        barrier.wait()
        writers.append(make_writer(tmp_path))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({writer.record.path for writer in writers}) == 8


def test_what_a_kill_at_any_byte_leaves_behind_is_ignored(tmp_path):
    source = make_writer(tmp_path / "source")
    source.write(make_look(1, 2))
    writer = make_writer(tmp_path / "run")
    writer.write(make_look(0, 1))
    expected = make_look(0, 1)
    folder = Path(writer.record.path)
    for name, content in contents(source.record.path).items():
        for length in range(0, len(content), 7):
            left = folder / f".{name}.0123456789abcdef0123456789abcdef"
            left.write_bytes(content[:length])
            record = load_record(tmp_path / "run")
            assert (record.epochs, record.problems) == ([0], {})
        left.rename(folder / f"{left.name}-{length}")
    assert same(load_record(folder)[0], expected)
    writer = make_writer(tmp_path / "run", state=writer.state_dict())
    writer.write(make_look(1, 2))
    assert load_record(tmp_path / "run").epochs == [0, 1]


@pytest.mark.parametrize("deleted", ["all", "the samples", "the run's folder"])
def test_a_record_that_is_deleted_in_mid_run_begins_again(tmp_path, deleted):
    run_folder = tmp_path / "run"
    writer = make_writer(run_folder)
    writer.write(make_look(0, 1))
    record = load_record(run_folder)
    if deleted == "the samples":
        os.remove(f"{record.path}/samples.npz")
    else:
        shutil.rmtree(record.path if deleted == "all" else run_folder)
    record.refresh()
    assert record.samples is None
    assert record.epochs == ([0] if deleted == "the samples" else [])
    assert record.problems == {}
    writer.write(make_look(1, 2))
    record.refresh()
    assert record.epochs == ([0, 1] if deleted == "the samples" else [1])
    assert record.samples.agrees_with(make_samples())
    assert writer.record.epochs == record.epochs


def test_where_another_run_took_the_place_of_a_deleted_record_both_have_one(tmp_path):
    first = make_writer(tmp_path)
    shutil.rmtree(first.record.path)
    second = make_writer(tmp_path)
    first.write(make_look(0, 1))
    second.write(make_look(1, 2))
    assert Path(second.record.path).name == "saliency.record"
    assert Path(first.record.path).name == "saliency-2.record"
    assert (load_record(first.record.path).epochs, load_record(second.record.path).epochs) == ([0], [1])


def test_damaged_samples_are_written_again(tmp_path):
    writer = make_writer(tmp_path)
    Path(writer.record.path, "samples.npz").write_bytes(b"damaged")
    writer.write(make_look())
    assert load_record(tmp_path).samples.agrees_with(make_samples())


FULL = """
import resource, sys
from recording import make_look, make_writer
writer = make_writer(sys.argv[1])
writer.write(make_look(0, 1))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
try:
    writer.write(make_look(1, 2, shapes={"saliency": ((90, 90),) * 3}))
except OSError as error:
    print(type(error).__name__, error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write(make_look(2, 3))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of a process's files")
def test_a_write_that_fails_raises_and_leaves_nothing_and_the_next_succeeds(tmp_path):
    failing = start_process(FULL, tmp_path)
    said = failing.communicate()[0]
    assert failing.returncode == 0
    assert said.startswith(b"OSError")
    record = load_record(tmp_path)
    assert record.epochs == [0, 2]
    assert sorted(os.listdir(record.path)) == [*record.files, "samples.npz"]


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        make_writer(tmp_path / "file" / "run")
    writer = make_writer(tmp_path / "run")
    shutil.rmtree(writer.record.path)
    Path(writer.record.path).write_bytes(b"")
    with pytest.raises(OSError, match="record"):
        writer.write(make_look())
    writer.record.refresh()
    assert len(writer.record) == 0
