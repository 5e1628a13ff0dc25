"""Settings, names and environment variables, as values."""

from pathlib import Path

import pytest

from foreshore.errors import AwsError, UserError
from foreshore.functions.registry import Alias, Function, Registry, Version
from foreshore.functions.spec import FunctionName, FunctionSpec, parse_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("fn", FunctionName("fn")),
        ("fn:live", FunctionName("fn", "live")),
        ("fn:$LATEST", FunctionName("fn", "$LATEST")),
        ("123456789012:function:fn:7", FunctionName("fn", "7", "", "123456789012")),
        ("function:fn", FunctionName("fn")),
        ("arn:aws:lambda:eu-west-1:123456789012:function:fn", FunctionName("fn", "", "eu-west-1", "123456789012")),
        (
            "arn:aws-cn:lambda:cn-north-1:123456789012:function:fn:2",
            FunctionName("fn", "2", "cn-north-1", "123456789012"),
        ),
    ],
)
def test_names(text, name):
    assert parse_name(text) == name


@pytest.mark.parametrize("text", ["", "a b", "fn:", "a/b", "x" * 65, "arn:aws:s3:::b"])
def test_what_is_no_name(text):
    with pytest.raises(AwsError, match="functionName"):
        parse_name(text)


def test_a_function_of_a_template(tmp_path):
    spec = FunctionSpec.from_cloudformation(
        "Fn",
        {
            "Code": "fn/", "Handler": "app.h", "Runtime": "python3.13", "Timeout": 5, "MemorySize": 512,
            "Role": "arn:r",
            "Environment": {"Variables": {"A": True, "N": 3}}, "Layers": ["layer/"],
            "Tags": [{"Key": "k", "Value": "v"}],
            "ReservedConcurrentExecutions": 2, "LoggingConfig": {"LogFormat": "JSON"},
            "DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:000000000000:q"},
        },
        tmp_path,
    )  # fmt: skip
    assert (spec.name, spec.code, spec.timeout_s, spec.memory_mb) == ("Fn", tmp_path / "fn", 5, 512)
    assert spec.environment == {"A": "true", "N": "3"}
    assert spec.tags == {"k": "v"}
    assert (spec.reserved_concurrency, spec.log_format) == (2, "JSON")
    assert spec.import_path() == [
        str(tmp_path / "layer/python"),
        str(tmp_path / "layer/python/lib/python3.13/site-packages"),
    ]


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"Code": {"S3Bucket": "b", "S3Key": "k"}}, "Code must be a local folder"),
        (
            {"Code": "x", "Runtime": "python3.12", "Handler": "a.b", "Layers": ["arn:aws:lambda:x"]},
            "not a local folder",
        ),
        ({"Code": "x", "Runtime": "python3.12", "Handler": "a.b", "Timeout": 1000}, "less than or equal to 900"),
        ({"Code": "x", "Runtime": "java21", "Handler": "a.b"}, "does not emulate the runtime java21"),
        ({"Code": "x", "PackageType": "Image"}, "container images"),
    ],
)
def test_what_a_template_can_not_ask_for(properties, message, tmp_path):
    with pytest.raises(UserError, match=message) as raised:
        FunctionSpec.from_cloudformation("Fn", properties, tmp_path)
    assert raised.value.where == "resource Fn"


def test_the_users_variables_do_not_win_over_awss_own():
    spec = FunctionSpec("fn", Path("/code"), environment={"AWS_ENDPOINT_URL": "mine", "PATH": "p"})
    values = spec.variables(region="r", log_stream="s", runtime_api="a",
                            outer={"AWS_ENDPOINT_URL": "outer", "AWS_REGION": "x"},
                            path="sys", initialization="on-demand")  # fmt: skip
    assert (values["AWS_ENDPOINT_URL"], values["PATH"], values["AWS_REGION"]) == ("mine", "p", "r")
    assert values["LAMBDA_TASK_ROOT"] == "/code"


@pytest.fixture
def registry():
    registry = Registry("us-east-1", "000000000000")
    spec = FunctionSpec("fn", Path("/code"))
    registry.functions["fn"] = Function("fn", Version(spec, 0.0, "r", "sha"))
    return registry


def test_a_weighted_alias(registry):
    function = registry.functions["fn"]
    registry.publish(function, 0.0, "a")
    function.latest = Version(FunctionSpec("fn", Path("/new")), 1.0, "r2", "sha2")
    registry.publish(function, 0.0, "b")
    function.aliases["live"] = Alias("live", "1", extra_version="2", extra_weight=0.25)

    def reached(chance):
        return registry.resolve(FunctionName("fn", "live"), chance)[1].spec.version

    assert [reached(chance) for chance in (0.0, 0.24, 0.25, 0.99)] == ["2", "2", "1", "1"]


def test_publishing_the_same_gives_the_same(registry):
    function = registry.functions["fn"]
    assert registry.publish(function, 0.0, "a") is registry.publish(function, 9.0, "b")


def test_a_function_of_another_region_or_account(registry):
    with pytest.raises(AwsError, match="not reachable in this region"):
        registry.name_of("arn:aws:lambda:eu-west-1:000000000000:function:fn")
    with pytest.raises(AwsError, match="Function not found"):
        registry.get(registry.name_of("arn:aws:lambda:us-east-1:111111111111:function:fn"))
    with pytest.raises(AwsError, match="does not match"):
        registry.name_of("fn:1", "2")


def test_inline_code_and_layers_run(edge, tmp_path):
    layer = tmp_path / "layer" / "python"
    layer.mkdir(parents=True)
    (layer / "shared.py").write_text("VALUE = 42\n")
    source = "import shared\ndef handler(event, context): return shared.VALUE\n"
    properties = {"Code": {"ZipFile": source}, "Handler": "index.handler", "Runtime": "python3.12", "Layers": ["layer"],
                  "Timeout": 10}  # fmt: skip

    async def run():
        edge.functions.create(FunctionSpec.from_cloudformation("Inline", properties, tmp_path))
        return await edge.functions.invoke("Inline", b"")

    assert edge.run(run()).payload == b"42"
