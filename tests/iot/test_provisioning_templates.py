"""Provisioning templates: functions, parameters, refusals."""

import json

import pytest

from foreshore.errors import AwsError, NotEmulated
from foreshore.iot.provisioning_templates import MAX_TEMPLATE, parse, resolve

GIVEN = {"Serial": "7", "Place": "eu", "Path": "a/b"}


def template(value):
    return json.dumps(
        {
            "Parameters": {**{name: {"Type": "String"} for name in GIVEN}, "D": {"Type": "String", "Default": "dflt"}},
            "Mappings": {"Where": {"eu": {"Url": "https://eu"}}},
            "Resources": {"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": value}}},
        }
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ({"Ref": "Serial"}, "7"),
        ({"Ref": "D"}, "dflt"),
        ({"Fn::Join": ["-", ["a", {"Ref": "Serial"}]]}, "a-7"),
        ({"Fn::Select": ["1", ["a", "b"]]}, "b"),
        ({"Fn::Select": [1, {"Fn::Split": ["/", {"Ref": "Path"}]}]}, "b"),
        ({"Fn::Sub": "x-${Serial}-${!Serial}"}, "x-7-${Serial}"),
        ({"Fn::Sub": ["${a}-${Serial}", {"a": {"Ref": "Place"}}]}, "eu-7"),
        ({"Fn::FindInMap": ["Where", {"Ref": "Place"}, "Url"]}, "https://eu"),
    ],
)
def test_functions(value, expected):
    assert resolve(template(value), GIVEN).thing.properties["ThingName"] == expected


@pytest.mark.parametrize(
    "value",
    [
        {"Ref": "Nobody"},
        {"Fn::Select": [9, ["a"]]},
        {"Fn::Select": [-1, ["a"]]},
        {"Fn::Join": "x"},
        {"Fn::FindInMap": ["Where", "us", "Url"]},
        {"Fn::Sub": "${Nobody}"},
    ],
)
def test_malformed_functions(value):
    with pytest.raises(AwsError, match=r"malformed|parameter") as caught:
        resolve(template(value), GIVEN)
    assert caught.value.code == "InvalidRequestException"


def test_a_parameter_without_a_value():
    with pytest.raises(AwsError, match="Serial has no value"):
        resolve(template("x"), {})


def test_unknown_functions_and_types_are_loud():
    with pytest.raises(NotEmulated):
        resolve(template({"Fn::Cidr": "x"}), GIVEN)
    with pytest.raises(NotEmulated):
        parse('{"Resources": {"a": {"Type": "AWS::S3::Bucket"}}}')
    with pytest.raises(NotEmulated):
        parse('{"Resources": {"a": {"Type": []}}}')


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "{}",
        '{"Resources": []}',
        '{"Resources": {"a": 1}}',
        '{"Resources": {"a": {"Type": "AWS::IoT::Thing"}, "b": {"Type": "AWS::IoT::Thing"}}}',
        '{"Resources": {"a": {"Type": "AWS::IoT::Thing", "OverrideSettings": {"ThingTypeName": "MERGE"}}}}',
        " " * (MAX_TEMPLATE + 1),
    ],
)
def test_malformed_templates(body):
    with pytest.raises(AwsError) as caught:
        parse(body)
    assert caught.value.code == "InvalidRequestException"
