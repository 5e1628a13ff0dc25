"""The local certificate authority."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from foreshore.errors import AwsError, UserError
from foreshore.iot.authority import Authority, certificate_id, der_of, is_issued_by, read_certificate

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_it_is_made_once_and_kept(tmp_path):
    first = Authority(tmp_path, region="us-east-1", now=NOW)
    server = (tmp_path / "server.pem").read_text()
    second = Authority(tmp_path, region="us-east-1", now=NOW)
    assert first.ca == second.ca
    assert (tmp_path / "server.pem").read_text() == server
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")} == {
        "ca.key": 0o600,
        "server.key": 0o600,
    }
    names = read_certificate(server).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "*.iot.us-east-1.amazonaws.com" in names.get_values_for_type(x509.DNSName)
    assert {"127.0.0.1", "::1"} == {str(each) for each in names.get_values_for_type(x509.IPAddress)}


def test_the_server_certificate_is_renewed(tmp_path):
    Authority(tmp_path, region="us-east-1", now=NOW)
    first = (tmp_path / "server.pem").read_text()
    Authority(tmp_path, region="eu-west-1", now=NOW)
    second = (tmp_path / "server.pem").read_text()
    assert first != second
    Authority(tmp_path, region="eu-west-1", now=NOW + timedelta(days=790))
    assert (tmp_path / "server.pem").read_text() != second


def test_devices(tmp_path):
    authority = Authority(tmp_path, region="us-east-1", now=NOW)
    issued = authority.issue(NOW)
    certificate = read_certificate(issued.certificate)
    assert is_issued_by(certificate, authority.ca)
    assert not is_issued_by(authority.ca, certificate)
    assert issued.certificate_id == certificate_id(der_of(certificate))
    (tmp_path / "d.pem").write_text(issued.certificate)
    (tmp_path / "d.key").write_text(issued.private_key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tmp_path / "d.pem", tmp_path / "d.key")


def test_what_the_user_broke(tmp_path):
    Authority(tmp_path, region="us-east-1", now=NOW)
    (tmp_path / "ca.pem").write_text("broken")
    with pytest.raises(UserError) as caught:
        Authority(tmp_path, region="us-east-1", now=NOW)
    assert caught.value.code == "authority-unreadable"
    (tmp_path / "ca.key").unlink()
    with pytest.raises(UserError) as caught:
        Authority(tmp_path, region="us-east-1", now=NOW)
    assert caught.value.code == "authority-incomplete"


def test_what_is_no_certificate():
    with pytest.raises(AwsError):
        read_certificate("nonsense")
