import pytest

from configs import endpoints, reading, schema

GOOD = {
    "http://tfs:8501/v1/models/photos": ("http", "tfs:8501", "photos", None, None),
    "https://tfs/v1/models/photos:predict": ("https", "tfs", "photos", None, None),
    "http://me:s3%2Fcr3t@tfs:8501/v1/models/photos/": ("http", "tfs:8501", "photos", None, ("me", "s3/cr3t")),
    "grpc://[::1]:8500/photos": ("grpc", "[::1]:8500", "photos", None, None),
    "grpcs://tfs/photos/versions/3": ("grpcs", "tfs", "photos", 3, None),
}
BAD = [
    "http://tfs:8501",
    "http://tfs:8501/photos",
    "http://tfs:8501/v1/models/",
    "http://tfs:8501/v1/models/photos/versions/new",
    "http://tfs:8501/v1/models/photos/versions/\u00b2",
    "http://tfs:port/v1/models/photos",
    "http://[::1/v1/models/photos",
    "http:///v1/models/photos",
    "grpc://me:s3cr3t@tfs:8500/photos",
    "http://me:s3cr3t@tfs:8501",
    "grpc://tfs:8500",
    "ftp://tfs/photos",
    "photos",
    "",
]


@pytest.mark.parametrize("endpoint", GOOD)
def test_an_endpoint_is_read(endpoint: str) -> None:
    assert endpoints.parse(endpoint) == GOOD[endpoint]


@pytest.mark.parametrize("endpoint", BAD)
def test_what_no_client_could_ask_is_refused_before_anything_runs_and_no_password_is_shown(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"expected grpc://|gRPC knows no"):
        endpoints.parse(endpoint)
    with pytest.raises(schema.ConfigError, match=r"serving\.endpoint = ") as error:
        reading.parse("", "", {"serving": {"endpoint": endpoint}})
    assert "s3cr3t" not in str(error.value)


def test_publishing_waits_for_a_model_and_not_for_one_version() -> None:
    for endpoint, found in GOOD.items():
        settings = {"serving": {"endpoint": endpoint}}
        if found[3] is None:
            assert reading.parse("", "", settings).serving.endpoint == endpoint
        else:
            with pytest.raises(schema.ConfigError, match="expected an endpoint without /versions/N"):
                reading.parse("", "", settings)
