"""Two real processes over gloo, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import events, is_own

from lightning_saliency.callbacks.audit import changed

SECONDS = 180  # of which two processes on a small machine need about 40


def run(folder: Path, strategy: str, mode: str):
    folder.mkdir(parents=True)
    script = Path(__file__).parents[1] / "ddp_run.py"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(script.parent), str(script.parents[1])]),
    }
    ended = subprocess.run(
        [sys.executable, str(script), str(folder), strategy, mode],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    (folder / "stderr.txt").write_text(ended.stderr)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """Without the callback both strategies end alike."""
    return run(tmp_path_factory.mktemp("ddp") / "without", "ddp", "without")


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_processes_end_like_those_without_the_callback_and_can_monitor_its_scalars(tmp_path, strategy, without):
    ours = run(tmp_path / "with", strategy, "with")
    for rank in range(2):
        assert changed(without[rank][0], ours[rank][0]) == []
    weights = [{name: part for name, part in parts.items() if "parameter" in name} for parts, _ in ours]
    assert weights[0] == weights[1]
    assert len(weights[0]) == 8
    assert ours[0][1]["xai_saliency/seconds"] == ours[1][1]["xai_saliency/seconds"] > 0
    own = [{name: value for name, value in ending.items() if is_own(name)} for _, ending in ours]
    assert own[0] == own[1]
    assert {"xai_saliency/cam/deletion", "xai_saliency/saliency/rank_correlation_random_head"} <= own[0].keys()
    assert (tmp_path / "with/best.ckpt").exists()
    assert len(events(tmp_path / "with").Images("saliency/cam")) == 3  # from one rank only


def test_a_forward_that_gathers_from_all_ranks_is_not_run_by_one_alone_and_the_run_goes_on(tmp_path):
    without = run(tmp_path / "without", "ddp", "gathers without")
    ours = run(tmp_path / "with", "ddp", "gathers with")
    for rank in range(2):
        assert changed(without[rank][0], ours[rank][0]) == []
    said = (tmp_path / "with/stderr.txt").read_text()
    assert said.count("its forward calls a collective operation (c10d.") == 1
