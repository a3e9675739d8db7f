from pathlib import Path

import pytest

from pipeline import fingerprint


def test_the_closure_holds_what_a_module_imports_and_nothing_else() -> None:
    trainer = fingerprint.import_closure("modules.trainer")
    assert {
        "modules.trainer",
        "modules.model",
        "modules.weights",
        "modules.augmentation",
        "modules.signatures",
    } <= trainer.keys()
    preprocessing = fingerprint.import_closure("modules.preprocessing")
    always = {"modules", "configs", "configs.environment"}
    assert preprocessing.keys() == {*always, "modules.preprocessing", "modules.features"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fingerprint, "_ROOT", tmp_path)
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("from modules import b\nimport os\n")
    (folder / "b.py").write_text("def f():\n    from modules.c import g\n")
    (folder / "c.py").write_text("g = 1\nimport modules.a\n")
    (folder / "d.py").write_text("")
    return folder


def test_a_change_anywhere_below_changes_the_fingerprint_and_no_other_does(project: Path) -> None:
    before = fingerprint.code_fingerprint("modules.a")
    (project / "d.py").write_text("changed = True\n")
    assert fingerprint.code_fingerprint("modules.a") == before
    (project / "c.py").write_text("g = 2\n")
    assert fingerprint.code_fingerprint("modules.a") != before


def test_a_newer_library_changes_the_fingerprint(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint.code_fingerprint("modules.a")
    monkeypatch.setattr(fingerprint.importlib.metadata, "version", lambda _: "99")
    assert fingerprint.code_fingerprint("modules.a") != before
