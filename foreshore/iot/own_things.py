"""Things that Foreshore makes for itself and its user: cores and simulated devices, with their files. Shell.

They go through the same registry, certificates and policies as those that a user makes by the API.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from foreshore.errors import UserError
from foreshore.iot.authority import Authority, certificate_id, write_private
from foreshore.iot.certificates import Certificates
from foreshore.iot.groups import ThingGroups
from foreshore.iot.policy_resources import PolicyResources
from foreshore.iot.registry import Registry
from foreshore.iot.store import Arns


class ThingFiles(NamedTuple):
    """A thing's certificate, private key and the CA it trusts, as PEM files."""

    cert: Path
    key: Path
    ca: Path
    certificate_id: str


class OwnThings(NamedTuple):
    """The parts of IoT Core that make a thing whole."""

    arns: Arns
    authority: Authority
    registry: Registry
    groups: ThingGroups
    certificates: Certificates
    policies: PolicyResources

    def ensure(
        self, name: str, folder: Path, policy_documents: Mapping[str, dict[str, Any]], groups: Iterable[str]
    ) -> ThingFiles:
        """Make a thing, its files in `folder`, policies, attachments and groups, as far as they are not there.

        Raises UserError when the thing's certificate is registered and its files are gone.
        """
        if name not in self.registry.things:
            self.registry.create({"thingName": name})
        files = self._ensure_files(name, folder)
        arn = self.certificates.arn(files.certificate_id)
        for policy, document in policy_documents.items():
            self.policies.ensure(policy, orjson.dumps(document).decode())
            self.policies.attach_to(policy, arn)
        if not self.registry.principals.has(name, arn):
            self.registry.attach({"thingName": name, "principal": arn})
        for group in groups:
            self.groups.ensure(group)
            if group not in self.groups.direct_of(name):
                self.groups.put_into(name, group)
        return files

    def _ensure_files(self, name: str, folder: Path) -> ThingFiles:
        cert, key, ca = folder / "certificate.pem", folder / "private.key", self.authority.ca_path
        prefix = self.arns.iot("cert/")
        if cert.is_file() and key.is_file():
            identifier = certificate_id(ssl.PEM_cert_to_DER_cert(cert.read_text()))
            document = self.certificates.kind.get(identifier)
            if document is not None and document["status"] == "ACTIVE":
                return ThingFiles(cert, key, ca, identifier)
            where, what = str(cert), f"the certificate of {name} is not registered and active"
        elif any(arn.startswith(prefix) for arn in self.registry.principals.of(name)):
            where, what = str(folder), f"the certificate of {name} is registered, but its files are missing"
        else:
            issued = self.certificates.issue(active=True, common_name="AWS IoT Certificate")
            write_private(key, issued.private_key)
            cert.write_text(issued.certificate)
            return ThingFiles(cert, key, ca, issued.certificate_id)
        raise UserError(
            what,
            code="certificate-missing",
            where=where,
            mend="restore the files, or delete the thing's certificate and files to have new ones made",
        )
