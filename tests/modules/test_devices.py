"""Which devices train, and what is compiled."""

import pytest

from modules import devices


@pytest.mark.parametrize(
    ("setting", "kept", "avx512", "expected"),
    [
        (True, (2, 2, 512), True, True),
        (False, (14, 14, 512), False, False),
        ("auto", None, False, "auto"),
        ("auto", (14, 14, 512), False, True),
        ("auto", (14, 14, 512), True, False),
        ("auto", (2, 8, 512), False, False),
    ],
)
def test_a_step_on_kept_features_is_compiled_where_that_gains(
    setting: bool | str,
    kept: tuple[int, int, int] | None,
    avx512: bool,
    expected: bool | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_has_avx512", lambda: avx512)
    assert devices.jit_compile(setting, kept) == expected
