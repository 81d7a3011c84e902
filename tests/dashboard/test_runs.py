"""Which runs the tab lists: named as TensorBoard names them, whatever lies around, and never waited for."""

import shutil
import threading
import time
import uuid

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from recording import make_look, make_writer

from lightning_saliency.dashboard.runs import LogFolder, RunFinder, open_records, parse_log_folders
from lightning_saliency.history import find_records

PATIENCE = 30


def write_run(folder, epochs=1, **options):
    writer = make_writer(folder, **options)
    for epoch in range(epochs):
        writer.write(make_look(epoch, epoch))
    return writer


def never(path):
    return False


def listed(finder, is_right, is_open=never):
    """The runs of a finder by their ids, as soon as they are as they should be."""
    end = time.monotonic() + PATIENCE
    while True:
        runs = {run.id: run for run in finder.listing(is_open)[0]}
        if is_right(runs) or time.monotonic() > end:
            return runs
        time.sleep(0.02)


def ids(*folders):
    finder = RunFinder(folders)
    end = time.monotonic() + PATIENCE
    while finder.listing(never)[1] and time.monotonic() < end:
        time.sleep(0.02)
    return [run.id for run in finder.listing(never)[0]]


def test_runs_at_any_depth_are_named_by_their_paths_and_sorted_as_numbers_are(tmp_path):
    for run in ("logs/version_10", "logs/version_2", "deep/a/b/c/d/e", "", "with space/ü"):
        write_run(tmp_path / run)
    assert ids(LogFolder(str(tmp_path))) == [".", "deep/a/b/c/d/e", "logs/version_2", "logs/version_10", "with space/ü"]


def test_a_runs_further_records_have_its_name_and_their_own(tmp_path):
    write_run(tmp_path / "run", name="grad_cam")
    write_run(tmp_path / "run", name="saliency")
    write_run(tmp_path / "run", name="saliency")
    write_run(tmp_path / "other", name="a")
    assert ids(LogFolder(str(tmp_path))) == ["other", "run", "run#grad_cam", "run#saliency-2"]


def test_a_record_in_a_folder_below_its_run_is_that_runs(tmp_path):
    write_run(tmp_path / "run", name="explained/layers")
    write_run(tmp_path / "run", name="saliency")
    write_run(tmp_path, name="a/b/c")
    assert ids(LogFolder(str(tmp_path))) == [".", "run", "run#explained/layers"]
    assert ids(LogFolder(str(tmp_path / "run/explained"))) == ["."]


def test_the_folders_of_a_spec_keep_apart_also_where_their_runs_have_one_name(tmp_path):
    for run in ("a/version_0", "b/version_0"):
        write_run(tmp_path / run)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert ids(LogFolder(a, "one"), LogFolder(b, "two")) == ["one/version_0", "two/version_0"]
    unnamed = ids(LogFolder(a), LogFolder(b))
    assert unnamed[0] == "version_0"
    assert len(set(unnamed)) == 2


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("/a", [("", "/a")]),
        ("one:/a,two:/b", [("one", "/a"), ("two", "/b")]),
        ("one:/a:b", [("one", "/a:b")]),
        ("/a:b", [("", "/a:b")]),
        ("gs://bucket/a,one:gs://bucket/b", [("", "gs://bucket/a"), ("one", "gs://bucket/b")]),
        (",/a,", [("", "/a")]),
        ("", []),
    ],
)
def test_a_spec_is_read_as_tensorboard_reads_it(spec, expected):
    assert [(folder.name, folder.path) for folder in parse_log_folders("", spec)] == expected


def test_the_log_folder_may_be_the_record_itself_or_be_missing(tmp_path):
    record = write_run(tmp_path / "run").record.path
    assert ids(LogFolder(record)) == ["."]
    assert ids(LogFolder(str(tmp_path / "none"))) == []


def test_links_are_followed_once(tmp_path):
    write_run(tmp_path / "elsewhere/run")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    assert [found.run for found in find_records(tmp_path / "logs")] == ["linked/run"]


def test_a_record_that_appears_is_listed_and_one_that_is_deleted_is_not(tmp_path):
    finder = RunFinder([LogFolder(str(tmp_path))])
    assert not finder.has_records()
    writer = write_run(tmp_path / "run")
    assert listed(finder, lambda runs: runs)["run"].summary.num_samples == 3
    assert finder.has_records()
    write_run(tmp_path / "later")
    assert set(listed(finder, lambda runs: len(runs) == 2)) == {"run", "later"}
    shutil.rmtree(writer.record.path)
    assert set(listed(finder, lambda runs: len(runs) == 1)) == {"later"}


def test_a_record_that_is_looked_at_is_looked_up_at_each_request(tmp_path):
    writer = write_run(tmp_path / "run")
    finder = RunFinder([LogFolder(str(tmp_path))])
    before = listed(finder, lambda runs: "run" in runs)["run"]
    writer.write(make_look(7, 7))
    (now,) = finder.listing(lambda path: path == writer.record.path)[0]
    assert (before.summary.num_looks, now.summary.num_looks) == (1, 2)
    assert before.summary.stamp != now.summary.stamp
    shutil.rmtree(writer.record.path)
    (gone,) = finder.listing(lambda path: path == writer.record.path)[0]
    assert "deleted" in gone.summary.problem


def test_what_cannot_be_shown_says_why(tmp_path):
    broken = write_run(tmp_path / "broken").record.path
    with open(f"{broken}/samples.npz", "wb") as file:
        file.write(b"no archive")
    headless = write_run(tmp_path / "headless").record.path
    with open(f"{headless}/samples.npz", "rb"):
        shutil.move(f"{headless}/samples.npz", tmp_path / "moved")
    (tmp_path / "empty.record").mkdir()
    runs = listed(RunFinder([LogFolder(str(tmp_path))]), lambda runs: len(runs) == 2)
    assert "samples.npz cannot be read" in runs["broken"].summary.problem
    assert "has no samples.npz" in runs["headless"].summary.problem
    assert set(runs) == {"broken", "headless"}


def test_runs_in_a_remote_store_are_found():
    root = f"memory://{uuid.uuid4().hex}/logs"
    for run in ("a/version_0", "b", "."):
        write_run(root if run == "." else f"{root}/{run}")
    assert ids(LogFolder(root)) == [".", "a/version_0", "b"]
    assert list(open_records([root])) == ["logs", "a/version_0", "b"]


def test_a_folder_by_the_address_of_a_file_is_one_of_this_machine(tmp_path):
    write_run(tmp_path / "run")
    assert ids(LogFolder(f"file://{tmp_path}")) == ["run"]


class LockedStore(MemoryFileSystem):
    """A store of which one folder may not be read."""

    protocol = "locked"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("locked://", "memory://"))

    def ls(self, path, detail=True, **options):
        if "secret/saliency.record" in path:
            raise PermissionError("not yours")
        return super().ls(path, detail, **options)


def test_a_record_that_may_not_be_read_says_so_and_the_others_are_listed():
    fsspec.register_implementation("locked", LockedStore, clobber=True)
    name = uuid.uuid4().hex
    for run in ("a", "secret", "z"):
        write_run(f"memory://{name}/{run}")
    runs = listed(RunFinder([LogFolder(f"locked://{name}")]), lambda runs: len(runs) == 3)
    problems = {run: found.summary.problem for run, found in runs.items()}
    assert problems.pop("secret").endswith("secret/saliency.record cannot be read: not yours")
    assert problems == {"a": "", "z": ""}


class SlowStore(MemoryFileSystem):
    """A store that answers when it is allowed to, and fails the first time."""

    protocol = "slow"
    may_answer = threading.Event()
    num_asked = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("slow://", "memory://"))

    def find(self, path, **options):
        type(self).num_asked += 1
        assert self.may_answer.wait(PATIENCE)
        if self.num_asked == 1:
            raise OSError("no connection")
        return super().find(path, **options)


def test_a_store_that_does_not_answer_makes_nobody_wait_and_is_asked_again():
    fsspec.register_implementation("slow", SlowStore, clobber=True)
    name = uuid.uuid4().hex
    write_run(f"memory://{name}/run")
    finder = RunFinder([LogFolder(f"slow://{name}")])
    start = time.monotonic()
    assert not finder.has_records()
    assert finder.listing(never) == ([], True)
    assert time.monotonic() - start < 1
    SlowStore.may_answer.set()
    listed(finder, lambda runs: finder.problem)
    assert finder.problem == f"slow://{name} cannot be searched: no connection"
    assert set(listed(finder, lambda runs: runs)) == {"run"}
    assert SlowStore.num_asked >= 2
    assert finder.problem == ""


def test_the_records_of_a_command_line_are_named_by_their_folders(tmp_path):
    write_run(tmp_path / "a/version_0")
    write_run(tmp_path / "b")
    assert list(open_records([f"{tmp_path}/a/version_0"])) == ["version_0"]
    assert list(open_records([str(tmp_path)])) == ["a/version_0", "b"]
    assert list(open_records([f"{tmp_path}/a", f"{tmp_path}/b/"])) == [f"{tmp_path}/a/version_0", f"{tmp_path}/b"]
    with pytest.raises(FileNotFoundError, match="none"):
        open_records([str(tmp_path / "none")])
