"""The OpenSearch (and Elasticsearch) action: one document at the endpoint that the rule names."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed


async def run_open_search(call: Call, parameters: dict[str, Any]) -> None:
    """PUT <endpoint>/<index>/<type>/<id>, signed for the service `es`."""
    call.text()
    endpoint = parameters["endpoint"]
    if not endpoint.startswith(("http://", "https://")):
        raise ActionFailed(f"the endpoint {endpoint!r} is no URL")
    target = "/" + "/".join(quote(parameters[name], safe="") for name in ("index", "type", "id"))
    headers = [("Content-Type", "application/json")]
    await call.world.aws.send("es", "PUT", target, headers=headers, body=call.payload, base=endpoint)


run_elasticsearch = run_open_search
