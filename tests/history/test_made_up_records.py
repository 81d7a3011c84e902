"""Records that are made up, at random but the same ones each time: nothing in a folder does harm, nothing is lost."""

import io
import json
import math
import shutil
import tempfile
import time
import tracemalloc
import zipfile
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import contents, make_look, make_samples, make_writer, same

from lightning_saliency.history import RecordError, load_record
from lightning_saliency.history.files import look_name

TINY = {"a": ((2, 2), (1, 3)), "b": ((2, 2), (2, 2))}
SAMPLES = "samples.npz"


def tiny_look(epoch, step, seed=0):
    return make_look(epoch, step, seed=seed, shapes=TINY, num_classes=2, scalars={"loss": 0.5}, layers=("layer4",))


def tiny_writer(folder, **options):
    return make_writer(folder, samples=make_samples((0, 1), sizes=((2, 2), (3, 2))), **options)


@contextmanager
def temporary_folder():
    folder = tempfile.mkdtemp()
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder)


def whole_record():
    """The files of a record, and the looks by their files' names."""
    with temporary_folder() as folder:
        writer = tiny_writer(folder)
        for epoch in (None, 0, 1, 2):
            writer.write(tiny_look(epoch, 10 * (epoch or 0), seed=epoch or 0))
        return contents(writer.record.path), dict(zip(writer.record.files, writer.record, strict=True))


FILES, LOOKS = whole_record()
LOOK = sorted(LOOKS)[1]


def array(header, data=b""):
    """The bytes of an array file with any header."""
    text = header.encode("latin1", "replace").ljust(118) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data


def pickled():
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": print}, None], dtype=object), allow_pickle=True)
    return stream.getvalue()


HOSTILE = [
    None,
    pickled(),
    b"",
    array("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }"),
    array("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }", bytes(32)),
    array("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", np.float32([math.inf] * 4).tobytes()),
    array("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", np.float32([math.nan, 9, -9, 0]).tobytes()),
    array("__import__('os').abort()"),
    bytes(3_000_000),
]
MEMBERS = ["about", "logits", "maps/a/2x2", "maps/b/2x2", "ranges/a", "images/2x2", "images/3x2"]
NAMES = ["/etc/passwd", "../../up.npy", "about.npy", "C:\\x.npy", "\0", "a" * 300, "maps/a/99999x99999.npy"]
VALUES = [-1, 0, 2**63, 10**400, 1e308, math.nan, True, None, "inf", [], {}, [[2**20, 2**20]], "\ud800"]
KEYS = {
    SAMPLES: ["format", "run", "positions", "labels", "class_names", "sizes"],
    LOOK: ["format", "run", "attempt", "epoch", "step", "positions", "predictions", "probabilities", "classes",
           "methods", "num_classes", "scalars", "layers", "explained", "time"],
}  # fmt: skip


def with_members(content, compression=zipfile.ZIP_DEFLATED, **changes):
    """An archive with other members of any names, or without (None); what is no archive stays as it is."""
    stream = io.BytesIO()
    with suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()} | changes
        with zipfile.ZipFile(stream, "w", compression) as changed:
            for name, data in members.items():
                if data is not None:
                    changed.writestr(zipfile.ZipInfo(name), data, compression)
        return stream.getvalue()
    return content


def with_description(content, key, value):
    """An archive whose description says something else, with the right checksum."""
    with suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as file:
        about = file.read("about.npy")
        text = json.dumps(json.loads(about[128:]) | {key: value}).encode()
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(text)},), }}"
        return with_members(content, **{"about.npy": array(header, text)})
    return content


def flipped(content, bits):
    changed = bytearray(content)
    for bit in bits:
        if changed:
            changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    return bytes(changed)


def attempt(read, *arguments):
    """What is read, or None where it raises what it may."""
    with suppress(RecordError):
        return read(*arguments)
    return None


def check(files):
    """A record of these files opens in bounded time and memory, and shows what is whole as it was written."""
    with temporary_folder() as parent:
        folder = parent / "saliency.record"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        start = time.process_time()
        tracemalloc.start()
        try:
            record = load_record(folder)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        read = {}
        for part in (record, record.superseded):
            for row, name in enumerate(part.files):
                part.about(row)  # it was checked when the record was opened
                read[name] = attempt(part.__getitem__, row)
        attempt(getattr, record, "samples")
        assert time.process_time() - start < 5
        assert peak < 10_000_000
    hidden = {name for name in files if name.startswith(".")}
    assert files.keys() == {*read, *record.problems, *hidden} | ({SAMPLES} & files.keys())
    assert all(isinstance(text, str) and text for text in record.problems.values())
    whole = {name for name in LOOKS if files.get(name) == FILES[name]}
    if files.get(SAMPLES) == FILES[SAMPLES]:
        assert whole <= read.keys()
    for name in whole & read.keys():
        assert same(read[name], LOOKS[name])


def test_a_description_that_says_anything_at_all_does_no_harm():
    for name in (SAMPLES, LOOK):
        for key in KEYS[name]:
            for value in VALUES:
                check(FILES | {name: with_description(FILES[name], key, value)})


@pytest.mark.parametrize("name", [SAMPLES, LOOK])
def test_members_that_hold_anything_at_all_do_no_harm(name):
    for data in HOSTILE:
        for member in MEMBERS:
            check(FILES | {name: with_members(FILES[name], **{f"{member}.npy": data})})
        for member in NAMES:
            check(FILES | {name: with_members(FILES[name], zipfile.ZIP_STORED, **{member: data})})


names = st.sampled_from([*sorted(FILES), "epoch=000009-step=0000000009.npz"])
changes = st.one_of(
    st.lists(st.integers(0, 2**14), min_size=1, max_size=4).map(lambda bits: partial(flipped, bits=bits)),
    st.floats(0, 1).map(lambda share: lambda content: content[: int(share * len(content))]),
    st.floats(0, 1).map(lambda share: lambda content: content[int(share * len(content)) :]),
    st.binary(max_size=200).map(lambda data: lambda content: data),
    st.binary(min_size=1, max_size=50).map(lambda data: lambda content: content + data),
    st.sampled_from(sorted(FILES)).map(lambda other: lambda content: FILES[other]),
    st.tuples(st.sampled_from(KEYS[LOOK]), st.sampled_from(VALUES)).map(
        lambda part: lambda one: with_description(one, *part)
    ),
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    changed=st.lists(st.tuples(names, changes), min_size=1, max_size=3),
    deleted=st.sets(names, max_size=2),
    foreign=st.dictionaries(st.sampled_from([".hidden", "notes", "x.npz", "ü\n.npz", "epoch=1-step=1.npz"]), names),
)
def test_whatever_is_in_a_folder_a_record_opens_and_what_is_whole_is_read(changed, deleted, foreign):
    files = dict(FILES)
    for name, change in changed:
        files[name] = change(files.get(name, b""))
    files = {name: content for name, content in files.items() if name not in deleted}
    check({"notes.txt": b"", **files, **{name: FILES.get(other, b"") for name, other in foreign.items()}})


class Model:
    """What two writers in one folder should have written, by its definition."""

    def __init__(self):
        self.looks = {}  # by when: the attempt, and the seed of the look

    @property
    def next_attempt(self):
        return 1 + max((attempt for attempt, _ in self.looks.values()), default=-1)

    def is_superseded(self, when):
        attempt, _ = self.looks[when]
        return any(other > attempt for earlier, (other, _) in self.looks.items() if earlier <= when)


writes = st.tuples(st.just("write"), st.integers(0, 1), st.integers(-1, 3), st.integers(0, 2))
resumes = st.tuples(st.just("resume"), st.integers(0, 1))
reads = st.tuples(st.just("read"), st.integers(0, 1))


@settings(derandomize=True, deadline=None, max_examples=80)
@given(st.lists(st.one_of(writes, writes, writes, resumes, reads), max_size=25))
def test_looks_written_in_any_order_by_two_writers_with_resumes_are_read_as_the_rules_say(steps):
    with temporary_folder() as folder:
        state = tiny_writer(folder).state_dict()
        model, writers = Model(), [tiny_writer(folder, state=state) for _ in range(2)]
        attempts, followed = [0, 0], load_record(folder)
        for seed, (what, which, *at) in enumerate(steps):
            if what == "resume":
                attempts[which], writers[which] = model.next_attempt, tiny_writer(folder, state=state)
            elif what == "read":
                followed.refresh()
            else:
                epoch, step = (None if at[0] < 0 else at[0]), at[1]
                writers[which].write(tiny_look(epoch, step, seed))
                model.looks[at[0], step] = attempts[which], seed
                followed.refresh(look_name(epoch, step))  # as a writer does
        for record in (load_record(folder), followed):
            assert record.problems == {}
            for part, is_superseded in ((record, False), (record.superseded, True)):
                expected = sorted(when for when in model.looks if model.is_superseded(when) is is_superseded)
                assert [(-1 if epoch is None else epoch) for epoch in part.epochs] == [epoch for epoch, _ in expected]
                assert part.steps == [step for _, step in expected]
                for look, when in zip(part, expected, strict=True):
                    assert same(look, tiny_look(look.epoch, look.step, model.looks[when][1]))
