"""Any text becomes one line, or the name of a file: one that fits, and different ones for different texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_saliency._names import check_tag, one_line, printable, to_file_name, to_file_path

ODD = st.text(
    st.one_of(st.characters(), st.sampled_from('./\\: \n\0~*"con'), st.characters(categories=["Cs"])), max_size=300
)
bounded = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@bounded
@given(ODD)
def test_any_text_is_one_line(text):
    for line in (one_line(text), printable(text)):
        assert len(line.splitlines()) <= 1
        line.encode()  # which raises for what is no text
    assert one_line(text) == one_line(text).strip()


@bounded
@given(ODD, st.integers(20, 120))
def test_any_text_names_a_file_on_every_system(text, most):
    name = to_file_name(text, most)
    assert 0 < len(name.encode()) <= most
    assert not set(name) & set('\\/:*?"<>|\0\n')
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert name.partition(".")[0].lower() not in ("con", "nul", "com1")
    assert to_file_name(name, most) == name


@bounded
@given(st.lists(ODD, unique=True, max_size=20))
def test_different_texts_name_different_files(texts):
    assert len(set(map(to_file_name, texts))) == len(texts)


@bounded
@given(ODD)
def test_a_tag_is_refused_or_is_the_path_of_its_files(text):
    path = to_file_path(text)
    assert ".." not in path.split("/")
    if path == text:
        assert check_tag("name", text) == text
    else:
        with pytest.raises(ValueError, match="Expected `name` to be a t"):
            check_tag("name", text)


def test_what_can_name_a_file_is_left_as_it_is():
    for name in ("grad_cam", "grad_cam@layer4.1", "Größe 2", "x" * 120, "console", "-dash", "~", "日本"):
        assert to_file_name(name) == name
    assert to_file_path("saliency/grad_cam") == "saliency/grad_cam"


@pytest.mark.parametrize(("text", "line"), [("cat\n", "cat"), ("a\x00\x1b[1mb", "a [1mb"), ("\t a \r\n b\x85", "a b")])
def test_line_ends_and_control_characters_are_spaces(text, line):
    assert one_line(text) == line
