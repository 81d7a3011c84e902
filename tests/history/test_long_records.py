"""Long records: what a write takes does not grow with them, and opening one takes as long as there are looks."""

import json
import sys

import pytest
from recording import start_process

WRITING = """
import json, os, sys, threading, time
import numpy as np
from recording import make_look, make_writer
from lightning_saliency.history import RecordedSamples, load_record

def seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start

def measure():
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "handles": len(os.listdir("/proc/self/fd")),
        "threads": (threading.active_count(), len(os.listdir("/proc/self/task"))),
        "write": min(seconds(lambda: write(100)) for _ in range(5)),
        "open": min(seconds(lambda: load_record(sys.argv[1])) for _ in range(2)),
        "looks": len(writer.record),
    }

def write(count):
    global written
    for _ in range(count):
        writer.write(make_look(written, written, shapes={"cam": ((4, 4),)}, num_classes=2))
        written += 1

written = 0
writer = make_writer(sys.argv[1], samples=RecordedSamples((0,), (np.zeros((3, 4, 4), np.uint8),), (1,)))
write(500)
first = measure()
write(3500)
last = measure()
print(json.dumps([first, last]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what the system says of a process")
def test_5000_looks_take_no_more_memory_handles_threads_and_time_each_than_1000(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    process = start_process(WRITING, tmp_path)
    first, last = json.loads(process.communicate()[0])
    assert (first["looks"], last["looks"]) == (1000, 5000)
    assert (first["handles"], first["threads"]) == (last["handles"], last["threads"])
    assert last["bytes"] - first["bytes"] < 10_000_000  # where each look is, once for the writer and once for a reader
    assert last["write"] < 3 * first["write"]
    assert last["open"] < 3 * 5 * first["open"]
