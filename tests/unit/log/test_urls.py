"""URLs are read strictly: what could lead to another database, or another host, is refused and says why."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.log.urls import (
    Address,
    _tell_of_unused,
    place_of,
    shown,
    url_in,
    with_password_file,
    wrong,
)


def why_not(url: object) -> str:
    with pytest.raises(ConfigError) as raised:
        place_of(url)  # type: ignore[arg-type]
    assert raised.value.fields["setting"] == "redis"
    assert str(raised.value).isprintable()
    return str(raised.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://h", {"host": "h", "port": 6379, "db": 0}),
        ("redis://h/", {"host": "h", "port": 6379, "db": 0}),
        ("redis://h:7/15", {"host": "h", "port": 7, "db": 15}),
        ("redis://h?db=3", {"host": "h", "port": 6379, "db": 3}),
        ("redis://h/3?db=3", {"host": "h", "port": 6379, "db": 3}),
        ("redis://[::1]:7/0", {"host": "::1", "port": 7, "db": 0}),
        ("redis://an:%40%2F%23%3F%25@h:7/1", {"host": "h", "port": 7, "username": "an", "password": "@/#?%", "db": 1}),
        ("redis://:pw:with:colons@h", {"host": "h", "port": 6379, "password": "pw:with:colons", "db": 0}),
        ("unix:///tmp/a%20b.sock?db=2", {"path": "/tmp/a b.sock", "db": 2}),
        ("unix://ann:pw@/tmp/x.sock", {"path": "/tmp/x.sock", "username": "ann", "password": "pw"}),
    ],
)  # fmt: skip
def test_what_a_url_of_one_server_says(url: str, options: dict[str, object]) -> None:
    assert place_of(url).options == options


@pytest.mark.parametrize(
    "path", ["/abc", "/O", "/1/5", "/0/", "/-1", "/+1", "/0x1", "/1_0", "/ 1", "/\u0661", "/1234567"]
)
def test_a_database_is_a_number_and_nothing_else(path: str) -> None:
    for url in (f"redis://h{path}", f"redis+sentinel://h/main{path}", f"redis+cluster://h{path}"):
        why_not(url)
    if " " not in path:
        assert "the database is a number" in why_not(f"redis://h{path}")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://", "it has no host"),
        ("redis:///0", "it has no host"),
        ("redis://:6379", "it has no host"),
        ("redis://ann:pw@:6379", "it has no host"),
        ("redis://h:", "HOST or HOST:PORT"),
        ("redis://h:0", "HOST or HOST:PORT"),
        ("redis://h:65536", "HOST or HOST:PORT"),
        ("redis://h1,h2", "redis+sentinel:// or redis+cluster://"),
        ("redis://h\n", "a line break"),
        (" redis://h", "a space"),
        ("redis://h\ud800", "another such character"),
        ("redis://h/1?db=2", "two databases"),
        ("redis://h?db=x", "db cannot be what it is there"),
        ("redis://h?db=1&db=2", "db stands there twice"),
        ("redis://h?password=", "password stands there without a value"),
        ("redis://h?socket_timout=1", "did you mean socket_timeout"),
        ("redis://h?sentinel_password=x", "sentinel_password is no option"),
        ("redis://h?ssl_check_hostname=no", "ssl_check_hostname needs TLS: rediss://"),
        ("rediss://h?ssl_check_hostname=perhaps", "ssl_check_hostname cannot be"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs cannot be"),
        ("rediss://h?ssl_min_version=1.2", "ssl_min_version cannot be"),
        ("rediss://h?ssl_ca_certs=/nowhere/ca.pem", "there is no '/nowhere/ca.pem'"),
        ("unix://tmp/x.sock", "begins at the root"),
        ("unix://", "begins at the root"),
        ("unix+cluster:///tmp/x", "a unix socket leads to one server"),
        ("redis+cluster://", "it has no host"),
        ("localhost:6379", "does not begin with redis://"),
        ("", "it is empty"),
    ],
)
def test_what_could_mean_something_else_is_refused(url: str, why: str) -> None:
    assert why in why_not(url)


@pytest.mark.parametrize("url", [None, 5, b"redis://h"])
def test_a_url_is_a_text(url: object) -> None:
    assert "is not a Redis URL" in why_not(url)


@pytest.mark.parametrize(
    "secret",
    ["x@Secret/y", "a#Secret", "12#Secret", "a?Secret", "a/Secret", "12/Secret", "p@Secret", "Secret%", "%Secret/"],
)
@pytest.mark.parametrize(
    "form",
    ["redis://:{}@h:1/0", "redis://ann:{}@h", "unix://:{}@/tmp/x", "redis+sentinel://:{}@h/main", "redis://{}/@h"],
)
def test_a_password_that_was_not_encoded_is_hidden_and_the_error_says_how_to_write_it(form: str, secret: str) -> None:
    text = why_not(form.format(secret))
    assert "Secret" not in text
    assert "%2F for /" in text


def test_a_password_that_was_encoded_is_not_told_to_be() -> None:
    assert "%2F for /" not in why_not("redis://ann:%40pw@h/abc")


def test_an_address_with_an_at_in_its_path_is_shown() -> None:
    assert shown("unix:///tmp/a@b.sock") == "unix:///tmp/a@b.sock"
    assert place_of("unix:///tmp/a@b.sock").options["path"] == "/tmp/a@b.sock"


def test_options_of_tls_are_read_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    place = place_of(
        f"rediss://h?ssl_ca_certs={tmp_path}/ca.pem&ssl_check_hostname=false&ssl_cert_reqs=none&ssl_min_version=771"
        "&ssl_validate_ocsp=no&ssl_include_verify_flags=VERIFY_X509_STRICT"
    )
    assert place.tls
    assert place.options["ssl_ca_certs"] == f"{tmp_path}/ca.pem"
    assert (place.options["ssl_check_hostname"], place.options["ssl_validate_ocsp"]) == (False, False)


@pytest.mark.parametrize("value", ["0.05", "0", "60"])
def test_timeouts_of_other_programs_are_not_used_and_one_warning_says_so(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    _tell_of_unused.cache_clear()
    for _ in range(3):
        place = place_of(f"redis://h?socket_timeout={value}&socket_connect_timeout={value}&max_connections=5")
        assert place.options == {"host": "h", "port": 6379, "db": 0}
    assert len(caplog.records) == 1
    assert "socket_timeout, socket_connect_timeout, max_connections, which is not used" in caplog.text


def test_the_hosts_of_many_are_told_once() -> None:
    assert place_of("redis+cluster://a,a:6379,b:1").hosts == (Address("a", 6379), Address("b", 1))


@given(st.text(st.characters(max_codepoint=0x3000), max_size=30))
def test_whatever_it_is_it_is_read_or_refused(text: str) -> None:
    for url in (text, f"redis://{text}", f"redis://h/{text}", f"rediss://h?{text}", f"redis+sentinel://{text}/x"):
        with suppress(ConfigError):
            place_of(url)
        assert str(wrong(url, "")).isprintable()


@pytest.mark.parametrize("text", ["p%40ss: @/w\n", "p%40ss: @/w\r\n", "p%40ss: @/w"])
def test_a_password_in_a_file_is_taken_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "password").write_bytes(text.encode())
    for url in ("redis://ann@h/0", "redis+sentinel://ann@h/main", "redis+cluster://ann@h", "unix://ann@/tmp/x.sock"):
        place = place_of(f"{url}?password_file={tmp_path}/password")
        assert place.options["credential_provider"].get_credentials() == ("ann", "p%40ss: @/w")
        assert not {"username", "password", "password_file"} & set(place.options)
        assert (place.user, place.has_password, place.secret_files) == ("ann", True, (f"{tmp_path}/password",))


def test_sentinels_and_the_key_of_a_certificate_have_files_of_their_own(tmp_path: Path) -> None:
    for name in ("sentinel", "key"):
        (tmp_path / name).write_text(f"of the {name}\n")
    of_sentinels = f"sentinel_username=sue&sentinel_password_file={tmp_path}/sentinel"
    place = place_of(f"rediss+sentinel://:pw@h/main?{of_sentinels}&ssl_password_file={tmp_path}/key")
    assert place.asking["credential_provider"].get_credentials() == ("sue", "of the sentinel")
    assert (place.asking["username"], place.asking["password"]) == (None, None)
    assert (place.options["password"], place.options["ssl_password"]) == ("pw", "of the key")
    assert "of the" not in shown(f"rediss+sentinel://h/main?{of_sentinels}")
    assert "and the file of another one" in why_not(f"redis+sentinel://h/main?{of_sentinels}&sentinel_password=x")


def test_a_url_and_the_file_of_its_password_are_put_together(tmp_path: Path) -> None:
    path = tmp_path / "the password of ann & bob"
    path.write_text("pw\n")
    for url in ("redis://ann@h/0", "redis://ann@h/0?db=0", "unix:///tmp/x.sock"):
        found = place_of(with_password_file(url, path, setting="x"))
        assert found.options["credential_provider"].get_credentials()[-1] == "pw"
        assert url_in({"REPLICATOR_REDIS": url, "REPLICATOR_REDIS_PASSWORD_FILE": str(path)}).startswith(url)
    assert url_in({"REPLICATOR_REDIS_PASSWORD_FILE": str(path)}) == ""
    with pytest.raises(ConfigError, match="x: the URL of Redis has a password already"):
        with_password_file("redis://:pw@h", path, setting="x")
    with pytest.raises(ConfigError, match="No such file"):
        with_password_file("redis://h", tmp_path / "none", setting="x")


def test_a_file_that_has_no_password_is_told_by_its_name(tmp_path: Path) -> None:
    for name, data in {"empty": b"", "lines": b"a\nb\n", "odd": b"\xff", "large": b"x" * 5000}.items():
        (tmp_path / name).write_bytes(data)
        assert name in why_not(f"redis://h?password_file={tmp_path}/{name}")
    assert "No such file" in why_not(f"redis://h?password_file={tmp_path}/none")
    (tmp_path / "password").write_text("x")
    for url in ("redis://:pw@h?", "redis://h?password=pw&"):
        assert "and the file of another one" in why_not(f"{url}password_file={tmp_path}/password")
