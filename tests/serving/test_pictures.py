import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from modules import images
from serving import client, pictures
from tests.conftest import random_picture


class Probe:
    """Stands where a model would; fails from a request on."""

    def __init__(self, fails_from: int = 1_000_000) -> None:
        self.requests: list[int] = []
        self._fails_from = fails_from

    def ask(self, values: Sequence[bytes], signature: str = "") -> client.Answer:
        if len(self.requests) == self._fails_from:
            raise client.ServingError("the server is gone", fatal=True)
        self.requests.append(len(values))
        return client.Answer(np.ones((len(values), 1), np.float32), ["cat"])


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for number in range(12):
        (tmp_path / f"{number:02}.png").write_bytes(random_picture(number))
    return sorted(map(str, tmp_path.iterdir()))


def until_it_ends(answers: Iterator[dict]) -> tuple[list[str], BaseException | None]:
    """The files that were answered, and what ended the answers."""
    found = []
    try:
        for answer in answers:
            found.append(answer["file"])
    except BaseException as error:
        return found, error
    return found, None


def test_files_are_taken_only_a_few_batches_ahead_of_the_answers(files: list[str]) -> None:
    taken = 0

    def many() -> Iterator[str]:
        nonlocal taken
        for taken in range(1, 1001):
            yield files[taken % len(files)]

    answers = pictures.answers(Probe(), many(), {}, top=1, batch_size=2, concurrency=3)
    for number in range(1, 101):
        next(answers)
        assert taken <= number + 2 * (3 + 1)
    answers.close()


def test_large_pictures_go_in_smaller_requests(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    size = max(Path(file).stat().st_size for file in files)
    monkeypatch.setattr(pictures, "_MAX_BYTES", 3 * size)
    probe = Probe()
    answers = list(pictures.answers(probe, files, {}, top=1, batch_size=8, concurrency=1))
    assert [answer["file"] for answer in answers] == files
    assert probe.requests == [3, 3, 2, 3, 1]


def test_an_error_that_ends_all_comes_after_every_answer_before_it(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_MAX_BYTES", 0)  # each picture is a request of its own
    given = [files[0], pictures.Unusable("bad", "is bad"), *files[1:]]
    answers = pictures.answers(Probe(fails_from=5), given, {}, top=1, batch_size=4, concurrency=1)
    found, error = until_it_ends(answers)
    assert str(error) == "the server is gone"
    assert found == [files[0], "bad", *files[1:5]]


def test_an_interrupt_hands_on_what_has_been_answered_and_waits_for_nothing_else(files: list[str]) -> None:
    third_asked, over, third_answered = threading.Event(), threading.Event(), threading.Event()
    contents = [Path(file).read_bytes() for file in files]

    class Slow(Probe):
        """Of its two threads one waits in the first request, so that the other has done with the second in the third."""

        def ask(self, values: Sequence[bytes], signature: str = "") -> client.Answer:
            number = contents.index(values[0])
            if number == 2:
                third_asked.set()
            if number == 0:
                assert third_asked.wait(60)
            if number == 2:
                over.wait(10)
                third_answered.set()
            return super().ask(values)

    def given() -> Iterator[str]:
        yield from files[:3]
        raise KeyboardInterrupt

    found, error = until_it_ends(pictures.answers(Slow(), given(), {}, top=1, batch_size=1, concurrency=2))
    assert isinstance(error, KeyboardInterrupt)
    assert not third_answered.is_set()
    over.set()
    assert found == files[:2]


def test_what_is_unusable_or_vanishes_has_its_error_in_its_place(files: list[str]) -> None:
    def given() -> Iterator[str | pictures.Unusable]:
        yield files[0]
        yield pictures.Unusable("folder", "can't be listed")
        Path(files[1]).unlink()
        yield files[1]
        yield "a\0b"
        yield files[2]

    found = list(pictures.answers(Probe(), given(), {}, top=1, batch_size=2, concurrency=1))
    assert [record["file"] for record in found] == [files[0], "folder", files[1], "a\0b", files[2]]
    assert [record.get("error") for record in found] == [
        None,
        "can't be listed",
        "No such file or directory",
        "embedded null byte",
        None,
    ]


def test_no_more_of_a_file_is_read_than_a_picture_can_have() -> None:
    (found,) = pictures.answers(Probe(), ["/dev/zero"], {"max_pixels": 1000}, top=1, batch_size=1, concurrency=1)
    assert found["error"].startswith(f"more than {images.max_bytes(1000)} bytes")
