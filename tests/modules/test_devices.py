"""Which devices train, and what is compiled."""

import contextlib

import pytest
import tensorflow as tf

from modules import devices

AMD_AVX2 = {"vendor_id": "AuthenticAMD", "flags": "sse2 avx2"}
AMD_AVX512 = {"vendor_id": "AuthenticAMD", "flags": "sse2 avx2 avx512f"}
INTEL_AVX512 = {"vendor_id": "GenuineIntel", "flags": "sse2 avx2 avx512f"}


@pytest.mark.parametrize(
    ("setting", "kept", "cpu", "policy", "expected"),
    [
        (True, (2, 2, 512), INTEL_AVX512, "float32", True),
        (False, (14, 14, 512), AMD_AVX2, "float32", False),
        ("auto", None, AMD_AVX2, "float32", "auto"),
        ("auto", (14, 14, 512), AMD_AVX2, "float32", True),
        ("auto", (14, 14, 512), INTEL_AVX512, "float32", False),
        ("auto", (4, 4, 512), INTEL_AVX512, "float32", True),
        ("auto", (4, 4, 512), INTEL_AVX512, "mixed_bfloat16", False),
        ("auto", (4, 4, 512), AMD_AVX512, "float32", False),
        ("auto", (2, 8, 512), INTEL_AVX512, "float32", False),
        ("auto", (2, 8, 512), AMD_AVX2, "float32", False),
    ],
)
def test_a_step_on_kept_features_is_compiled_where_that_gains(
    setting: bool | str,
    kept: tuple[int, int, int] | None,
    cpu: dict[str, str],
    policy: str,
    expected: bool | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_cpu", cpu.__getitem__)
    assert devices.jit_compile(setting, kept, policy) == expected


@pytest.mark.parametrize(
    ("setting", "flags", "expected"),
    [
        ("auto", {"avx2", "avx512f"}, "float32"),
        ("auto", {"avx2", "avx512f", "avx512_bf16"}, "mixed_bfloat16"),
        ("auto", {"avx2", "amx_bf16"}, "mixed_bfloat16"),
        ("auto", set(), "float32"),
        ("float32", {"avx512_bf16"}, "float32"),
    ],
)
def test_a_cpu_trains_in_bfloat16_where_it_computes_in_it(
    setting: str, flags: set[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    assert devices.precision(setting) == expected


def test_what_this_cpu_is_is_read() -> None:
    assert "sse2" in devices._cpu_flags(), "every x86_64 has it"
    assert devices._cpu("vendor_id") in {"AuthenticAMD", "GenuineIntel"}
    assert devices._cpu("nothing") == ""


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(9, 0)], "mixed_bfloat16"),
        ([(8, 0), (8, 6)], "mixed_bfloat16"),
        ([(8, 0), (7, 5)], "mixed_float16"),
        ([(7, 0)], "mixed_float16"),
        ([(7, 0), (6, 1)], "float32"),
        ([None], "float32"),
    ],
)
def test_gpus_train_in_bfloat16_where_all_compute_in_it(
    capabilities: list[tuple[int, int] | None], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_cpu_flags", lambda: {"avx512_bf16"})
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: capabilities if kind == "GPU" else [])
    details = lambda gpu: {"compute_capability": gpu} if gpu else {}  # noqa: E731
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
    assert devices.precision("auto") == expected
    assert devices.precision("mixed_float16") == "mixed_float16"


def test_models_are_judged_in_full_float32_and_trained_as_before() -> None:
    before = devices.computes_in()
    with contextlib.suppress(RuntimeError), devices.full_float32():
        assert devices.computes_in() == devices.FLOAT32
        raise RuntimeError
    assert devices.computes_in() == before == devices.TENSOR_FLOAT32
