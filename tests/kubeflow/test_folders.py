"""Where ML Metadata is: its URL, what the cluster says of it, and who vouches for it."""

from pathlib import Path
from urllib.parse import quote

import hypothesis
import pytest
from hypothesis import strategies as st

from kubeflow import folders

RESERVED = ":/?#[]@!$&'()*+,;="
SERVICE = (
    "METADATA_GRPC_SERVICE_HOST",
    "METADATA_GRPC_SERVICE_PORT",
    "METADATA_GRPC_SERVICE_SERVICE_HOST",
    "METADATA_GRPC_SERVICE_SERVICE_PORT",
)

printable = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="%") | st.just(" "))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SERVICE, folders.METADATA_CA_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def of_service(monkeypatch: pytest.MonkeyPatch, *values: str | None) -> tuple[str, int | None]:
    """The place where the store is with these values of the variables `SERVICE`."""
    for name, value in zip(SERVICE, values, strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)
    connection = folders.metadata_connection(None)
    assert not connection.HasField("ssl_config")
    return connection.host, connection.port


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://me:pw@db/meta", folders.MetadataAddress("mysql", "db", 3306, "/meta", "me", "pw")),
        ("mysql://me:pw@db:3307/meta\n", folders.MetadataAddress("mysql", "db", 3307, "/meta", "me", "pw")),
        ("mysql://db/meta", folders.MetadataAddress("mysql", "db", 3306, "/meta")),
        ("postgresql://me:pw@db/meta", folders.MetadataAddress("postgresql", "db", 5432, "/meta", "me", "pw")),
        ("sqlite:///mnt/metadata.db", folders.MetadataAddress("sqlite", "", None, "/mnt/metadata.db")),
        ("grpc://mlmd.ns:8080", folders.MetadataAddress("grpc", "mlmd.ns", 8080, "")),
        ("grpcs://mlmd.ns:443", folders.MetadataAddress("grpcs", "mlmd.ns", 443, "")),
    ],
)
def test_a_metadata_store_is_named_by_a_url(url: str, expected: folders.MetadataAddress) -> None:
    assert folders.metadata_address(url) == expected


def test_a_url_becomes_the_connection_that_ml_metadata_takes() -> None:
    mysql = folders.metadata_connection("mysql://me:a%20b@db/meta").mysql
    assert (mysql.host, mysql.port, mysql.database) == ("db", 3306, "meta")
    assert (mysql.user, mysql.password) == ("me", "a b")
    postgresql = folders.metadata_connection("postgresql://me:pw@db:5433/meta").postgresql
    assert (postgresql.host, postgresql.port, postgresql.dbname) == ("db", "5433", "meta")
    assert (postgresql.user, postgresql.password) == ("me", "pw")
    sqlite = folders.metadata_connection("sqlite:///mnt/metadata.db").sqlite
    assert sqlite.filename_uri == "/mnt/metadata.db"
    client = folders.metadata_connection("grpc://mlmd:8080")
    assert (client.host, client.port, client.HasField("ssl_config")) == ("mlmd", 8080, False)


@pytest.mark.parametrize("password", [f"a{RESERVED}b", *RESERVED, "://", "p@h:1/x"])
@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_a_password_has_any_reserved_character_raw_or_encoded(scheme: str, password: str) -> None:
    for written in (password, quote(password, safe="")):
        found = folders.metadata_address(f"{scheme}://me:{written}@db:3307/meta")
        assert found == folders.MetadataAddress(scheme, "db", 3307, "/meta", "me", password)


@hypothesis.given(printable)
def test_a_printable_password_comes_back_as_it_was_written(password: str) -> None:
    found = folders.metadata_address(f"mysql://me:{password}@db/meta")
    assert found == folders.MetadataAddress("mysql", "db", 3306, "/meta", "me", password)


@hypothesis.given(st.text(), st.text())
def test_any_text_comes_back_from_its_encoding(user: str, password: str) -> None:
    found = folders.metadata_connection(f"mysql://{quote(user, safe='')}:{quote(password, safe='')}@db/meta")
    assert (found.mysql.user, found.mysql.password) == (user, password)


def test_an_ipv6_address_is_one_that_grpc_takes() -> None:
    assert folders.metadata_connection("grpc://[::1]:8080").host == "[::1]"
    assert folders.metadata_connection("mysql://me:pw@[::1]/meta").mysql.host == "::1"


def test_a_file_may_be_called_anything() -> None:
    assert folders.metadata_connection("sqlite:///mnt/a#b?c.db").sqlite.filename_uri == "/mnt/a#b?c.db"


def test_a_service_that_accepts_and_keeps_silent_is_not_waited_for_for_ever() -> None:
    assert 0 < folders.metadata_connection("grpc://mlmd:8080").client_timeout_sec <= 600


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", "this"),
        ("db:3306/meta", "this"),
        ("me:s3cr3t@db/meta", "this"),
        ("mysql:me:s3cr3t@db/meta", "this"),
        ("mysql://me:s3cr3t@db", "mysql://"),
        ("mysql://me:s3cr3t@db/", "mysql://"),
        ("mysql://me:s3cr3t@/meta", "mysql://"),
        ("mysql://me:s3cr3t@db:port/meta", "mysql://"),
        ("mysql://me:s3cr3t@db:99999/meta", "mysql://"),
        ("mysql://me:s3cr3t@[db/meta", "mysql://"),
        ("postgresql://me:s3cr3t@db", "postgresql://"),
        ("sqlite://", "sqlite://"),
        ("sqlite://me:s3cr3t@/mnt/metadata.db", "sqlite://"),
        ("grpc://mlmd", "grpc://"),
        ("grpc://me:s3cr3t@mlmd:8080", "grpc://"),
        ("grpcs://:443", "grpcs://"),
        ("oracle://me:s3cr3t@db/meta", "this"),
        ("me:sec://ret@db/meta", "this"),
        ("sqlite://mnt/metadata.db", "sqlite://"),
        ("sqlite:///", "sqlite://"),
        ("mysql://me:s3cr3t@db/meta?ssl-mode=REQUIRED", "mysql://"),
        ("mysql://me:s3cr3t@db/meta#part", "mysql://"),
    ],
)
def test_what_is_no_metadata_store_is_refused_with_what_one_is(url: str, shown: str) -> None:
    with pytest.raises(ValueError, match=r"expected mysql://USER:PASSWORD@HOST:PORT/DATABASE") as error:
        folders.metadata_connection(url)
    assert str(error.value) == f"{shown} is no metadata store's URL; expected {folders.METADATA_URLS}"
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


@hypothesis.given(printable, printable, st.sampled_from(["", "/", ":x/meta", ":99999/meta", "[/meta"]))
def test_a_refusal_never_depends_on_user_and_password(user: str, password: str, rest: str) -> None:
    with pytest.raises(ValueError, match="mysql:// is no metadata store") as error:
        folders.metadata_address(f"mysql://{user}:{password}@db{rest}")
    assert str(error.value) == f"mysql:// is no metadata store's URL; expected {folders.METADATA_URLS}"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((None, None, None, None), ("metadata-grpc-service.kubeflow", 8080)),
        (("mlmd", "9000", "10.0.0.7", "9001"), ("mlmd", 9000)),
        (("mlmd", None, "10.0.0.7", "9001"), ("mlmd", 8080)),
        ((None, None, "10.0.0.7", "9001"), ("10.0.0.7", 9001)),
        ((None, None, "10.0.0.7", None), ("10.0.0.7", 8080)),
        ((None, "9000", "10.0.0.7", "9001"), ("10.0.0.7", 9001)),
    ],
)
def test_without_a_url_it_is_what_kubeflow_says_then_kubernetes_then_the_default(
    values: tuple[str | None, ...], expected: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert of_service(monkeypatch, *values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("10.0.0.8", "tcp://10.0.0.8:8080", "10.0.0.7", "9001"), ("10.0.0.7", 9001)),
        (("10.0.0.8", "tcp://10.0.0.8:8080", None, None), folders.SERVICE),
        ((None, "tcp://10.0.0.8:8080", None, None), folders.SERVICE),
        ((None, None, "10.0.0.7", "tcp://10.0.0.7:9001"), folders.SERVICE),
    ],
)
def test_what_kubernetes_says_of_another_service_of_that_name_is_passed_over(
    values: tuple[str | None, ...], expected: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert of_service(monkeypatch, *values) == expected


def test_a_url_goes_before_what_the_cluster_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METADATA_GRPC_SERVICE_HOST", "mlmd")
    assert folders.metadata_connection("grpc://other:1").host == "other"


def test_with_tls_the_well_known_authorities_vouch_unless_a_file_names_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    well_known = folders.metadata_connection("grpcs://mlmd:443")
    assert well_known.HasField("ssl_config")
    assert not well_known.ssl_config.HasField("custom_ca")
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    monkeypatch.setenv(folders.METADATA_CA_VARIABLE, str(tmp_path / "ca.pem"))
    assert folders.metadata_connection("grpcs://mlmd:443").ssl_config.custom_ca == "-----BEGIN CERTIFICATE-----\n"
    assert not folders.metadata_connection("grpc://mlmd:443").HasField("ssl_config")


def test_a_file_of_authorities_that_can_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, binary = tmp_path / "missing.pem", tmp_path / "ca.der"
    binary.write_bytes(b"\x30\x82\xff")
    for path, why in ((missing, "No such file or directory"), (tmp_path, "Is a directory"), (binary, "'ascii' codec")):
        monkeypatch.setenv(folders.METADATA_CA_VARIABLE, str(path))
        with pytest.raises(ValueError, match="FINETUNE_METADATA_CA = ") as error:
            folders.metadata_connection("grpcs://mlmd:443")
        assert str(error.value).startswith(f"FINETUNE_METADATA_CA = {path}: {why}")
        # Whoever needs no authorities needs no file.
        folders.metadata_connection("grpc://mlmd:443")
