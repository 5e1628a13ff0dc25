"""Every operation of the three IoT models, walked: each is emulated or says NotEmulated, nothing answers a bare 500,
and every list is paged."""

import json

import pytest

from foreshore.http import Request
from foreshore.parity import rows
from foreshore.shapes.service_model import Service, ServiceModel

MODELS = {name: ServiceModel.load(name) for name in ("iot", "iot-data", "iot-jobs-data")}
OPERATIONS = [(name, operation) for name, model in MODELS.items() for operation in sorted(model.operations)]
TEXTS = {
    "AwsArn": "arn:aws:iot:us-east-1:000000000000:thing/none",
    "CertificateId": "a" * 64,
    "RoleArn": "arn:aws:iam::000000000000:role/none",
}


def sample(model, name, depth=0):
    """The least valid value of a shape."""
    shape = model.shapes[name]
    kind = shape["type"]
    if kind == "structure":
        members = shape.get("required", [])
        return {each: sample(model, shape["members"][each]["shape"], depth + 1) for each in members}
    if kind == "list":
        return [sample(model, shape["member"]["shape"], depth + 1) for _ in range(shape.get("min", 0))]
    if kind == "map":
        return {}
    if kind == "blob":
        return "e30="
    if kind in ("integer", "long"):
        return max(1, shape.get("min", 1))
    if kind in ("float", "double"):
        return max(1.0, shape.get("min", 1.0))
    if kind == "boolean":
        return False
    if kind == "timestamp":
        return 1.0
    if "enum" in shape:
        return shape["enum"][0]
    return TEXTS.get(name) or text_of(shape)


def text_of(shape):
    length = max(shape.get("min", 1), 4)
    pattern = shape.get("pattern", "")
    if "fA-F0-9" in pattern:
        return "a" * max(64, shape.get("min", 0))
    if pattern.startswith("^arn") or shape.get("min", 0) >= 20:
        return "arn:aws:iot:us-east-1:000000000000:thing/none"
    if pattern in ("[0-9]+", "^[0-9]+$", "[0-9]{12}"):
        return "0" * 12
    return "none"[:length] if shape.get("max", length) >= length else "n" * shape["max"]


def request_of(model, operation):
    """A request with the least an operation takes."""
    shape = model.shapes[operation.input] if operation.input else {"members": {}}
    given = sample(model, operation.input) if operation.input else {}
    path = "/" + "/".join(operation.labels)
    query, body, headers = [], {}, []
    raw = None
    for name, value in given.items():
        traits = shape["members"][name]
        key = traits.get("locationName", name)
        if traits.get("location") == "uri":
            path = path.replace("{" + key + "}", str(value)).replace("{" + key + "+}", str(value))
        elif traits.get("location") == "querystring":
            query.append(f"{key}={value}")
        elif traits.get("location") == "header":
            headers.append((key.encode(), str(value).encode()))
        elif shape.get("payload") == name and isinstance(value, str):
            raw = value.encode()
        else:
            body[key] = value
    target = path + ("?" + "&".join(query) if query else "")
    content = raw if raw is not None else json.dumps(body).encode() if body or operation.method != "GET" else b""
    return Request(operation.method, target, headers, content)


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    from tests.iot.conftest import Edge

    edge = Edge(tmp_path_factory.mktemp("walk"))
    found = {"iot": edge.iot.control, "iot-data": edge.iot.data, "iot-jobs-data": edge.iot.jobs_data}
    yield edge, found
    edge.stop()


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_every_operation_is_emulated_or_says_that_it_is_not(services, name, operation):
    edge, found = services
    service, model = found[name], MODELS[name]
    request = request_of(model, model.operations[operation])
    assert model.route(request).name == operation
    response = edge.run(service.handle(request))
    assert isinstance(service, Service)
    code = response.header("x-amzn-errortype")
    if operation in service.not_emulated():
        assert (response.status, code) == (501, "NotEmulated")
        return
    assert response.status < 500, response.body
    if response.status >= 400:
        assert code in model.operations[operation].errors
        assert json.loads(response.body)


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_members_of_the_wrong_kind_are_refused_as_the_operation_declares(services, name, operation):
    edge, found = services
    service, model = found[name], MODELS[name]
    declared = model.operations[operation]
    shape = model.shapes[declared.input] if declared.input else {"members": {}}
    if operation in service.not_emulated() or shape.get("payload"):
        return
    request = request_of(model, declared)
    body = json.loads(request.body or b"{}")
    for member, traits in shape["members"].items():
        for wrong in () if traits.get("location") else (1, "x", [], {"a": 1}, 10**20, "\0"):
            content = json.dumps({**body, traits.get("locationName", member): wrong}).encode()
            response = edge.run(service.handle(Request(request.method, request.target, request.headers, content)))
            code = response.header("x-amzn-errortype")
            known = (*declared.errors, "SerializationException", "NotEmulated")
            assert response.status < 400 or code in known, (member, wrong, response.body)


def test_what_is_not_emulated_stands_in_the_parity_table(services):
    _, found = services
    words = {
        "AuditSuppression": "Device Defender", "SecurityProfile": "Device Defender", "Stream": "streams",
        "OTAUpdate": "OTA", "Package": "software packages", "FleetMetric": "Fleet metrics",
        "EncryptionConfiguration": "encryption",
    }  # fmt: skip
    refused = " ".join(row.feature for row in rows() if row.state == "no")
    missing = found["iot"].not_emulated()
    for name, said in words.items():
        if any(name in operation for operation in missing):
            assert said in refused


def paged(model):
    """The list operations: name, the token's and the limit's members, the answer's token and list."""
    for name, operation in sorted(model.operations.items()):
        if not operation.input or not operation.output:
            continue
        asked, given = model.shapes[operation.input]["members"], model.shapes[operation.output]["members"]
        lists = [each for each in given if model.shapes[given[each]["shape"]]["type"] == "list"]
        for token, limit, following in (("nextToken", "maxResults", "nextToken"), ("marker", "pageSize", "nextMarker")):
            if token in asked and limit in asked and following in given and len(lists) == 1:
                yield name, token, limit


@pytest.mark.parametrize(("name", "token", "limit"), list(paged(MODELS["iot"])))
def test_a_token_that_is_not_ours_is_refused(services, name, token, limit):
    edge, found = services
    service, model = found["iot"], MODELS["iot"]
    if name in service.not_emulated():
        return
    operation = model.operations[name]
    traits = model.shapes[operation.input]["members"][token]
    request = request_of(model, operation)
    key = traits.get("locationName", token)
    if traits.get("location") == "querystring":
        target = request.target + ("&" if "?" in request.target else "?") + f"{key}=bogus"
        request = Request(request.method, target, request.headers, request.body)
    else:
        request = Request(request.method, request.target, request.headers, json.dumps({**json.loads(request.body), key: "bogus"}).encode())  # fmt: skip  # noqa: E501
    response = edge.run(service.handle(request))
    assert 400 <= response.status < 500, response.body
