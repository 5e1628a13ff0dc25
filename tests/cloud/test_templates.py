"""Intrinsic functions, conditions and the split between what is known and what the backend will know."""

import pytest

from foreshore.cloud.templates import Resolver, Unknown, load
from foreshore.errors import UserError

PSEUDO = {"AWS::Region": "eu-west-1", "AWS::AccountId": "000000000000", "AWS::Partition": "aws", "AWS::StackName": "s"}
TEMPLATE = """
Parameters:
  Stage: {Type: String, Default: dev, AllowedValues: [dev, prod]}
  Zones: {Type: CommaDelimitedList, Default: "a, b,c"}
Mappings:
  Sizes: {dev: {memory: 128}, prod: {memory: 1024}}
Conditions:
  IsProd: !Equals [!Ref Stage, prod]
  IsDev: !Not [!Condition IsProd]
Resources:
  Ours: {Type: "AWS::Lambda::Function"}
  Theirs: {Type: "AWS::S3::Bucket"}
  OnlyProd: {Type: "AWS::SQS::Queue", Condition: IsProd}
"""


def lookup(logical_id, attribute):
    if logical_id == "Ours":
        return {None: "ours", "Arn": "arn:ours"}[attribute]
    raise Unknown(logical_id)


def resolver(parameters=None):
    return Resolver(load(TEMPLATE, "t.yaml"), where="t.yaml", parameters=parameters or {}, pseudo=PSEUDO, lookup=lookup)


def value(text):
    return load(f"Resources: {{}}\nValue: {text}", "v")["Value"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!Ref Stage", "dev"),
        ("!Ref AWS::Region", "eu-west-1"),
        ("!Ref Ours", "ours"),
        ("!GetAtt Ours.Arn", "arn:ours"),
        ("{'Fn::GetAtt': [Ours, Arn]}", "arn:ours"),
        ("!Sub '${Ours.Arn}:${Stage}:${!Literal}'", "arn:ours:dev:${Literal}"),
        ("!Sub ['${x}-${Stage}', {x: !Ref Ours}]", "ours-dev"),
        ("!Join ['-', [a, !Ref Stage, 1]]", "a-dev-1"),
        ("!Select [1, !Ref Zones]", "b"),
        ("!Split [':', 'a:b']", ["a", "b"]),
        ("!If [IsProd, 1, 2]", 2),
        ("!If [IsDev, {a: !Ref Stage}, 2]", {"a": "dev"}),
        ("[1, !Ref 'AWS::NoValue', 3]", [1, 3]),
        ("{a: !If [IsProd, 1, !Ref 'AWS::NoValue'], b: 2}", {"b": 2}),
        ("!FindInMap [Sizes, !Ref Stage, memory]", 128),
        ("!Base64 hi", "aGk="),
        ("!Cidr ['10.0.0.0/16', 2, 8]", ["10.0.0.0/24", "10.0.1.0/24"]),
        ("{'Fn::ToJsonString': {a: !Ref Stage}}", '{"a":"dev"}'),
        ("!GetAZs ''", ["eu-west-1a", "eu-west-1b", "eu-west-1c"]),
        ("2024-01-01", "2024-01-01"),
    ],
)
def test_intrinsics(text, expected):
    assert resolver().resolve(value(text)) == expected


def test_what_the_backend_will_know_is_left_and_the_rest_is_filled_in():
    left = resolver().resolve_known(value("!Sub '${Theirs.Arn}/${Stage}/${Ours}'"))
    (text, names) = left["Fn::Sub"]
    assert names == {"Stage": "dev", "Ours": "ours"}
    assert text == "${Theirs.Arn}/${Stage}/${Ours}"
    assert resolver().resolve_known(value("!Join ['', [!Ref Ours, !Ref Theirs]]")) == {
        "Fn::Join": ["", ["ours", {"Ref": "Theirs"}]]
    }
    with pytest.raises(Unknown):
        resolver().resolve(value("!Ref Theirs"))


def test_conditions_choose_resources():
    assert not resolver().is_wanted("OnlyProd")
    assert resolver({"Stage": "prod"}).is_wanted("OnlyProd")
    assert resolver().is_wanted("Ours")


def test_references_are_found_in_every_form():
    text = "[!Ref Ours, !GetAtt Theirs.Arn, !Sub 'x${OnlyProd}', !Ref Stage, {'Fn::GetAtt': [Ours, Arn]}]"
    assert resolver().references(value(text)) == {"Ours", "Theirs", "OnlyProd"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!Ref Nobody", "Nobody is neither"),
        ("!GetAtt Nobody.Arn", "Nobody"),
        ("!Select [9, [1]]", "no item 9"),
        ("!FindInMap [Sizes, nope, memory]", "nope"),
        ("{'Fn::ImportValue': x}", "no stack deployed before exports x"),
        ("{'Fn::Nope': x}", "Fn::Nope is not supported"),
    ],
)
def test_mistakes_are_named(text, words):
    with pytest.raises(UserError, match=words) as caught:
        resolver().resolve(value(text))
    assert caught.value.where == "t.yaml"


def test_a_value_outside_allowed_values_is_refused():
    with pytest.raises(UserError, match="Stage is 'test'"):
        resolver({"Stage": "test"})


def test_a_yaml_error_has_line_and_column():
    with pytest.raises(UserError) as caught:
        load("Resources:\n  A: [\n", "t.yaml")
    assert caught.value.where.startswith("t.yaml:3:")
    with pytest.raises(UserError, match="Resources"):
        load("a: 1", "t.yaml")
    with pytest.raises(UserError, match="!Nope"):
        load("Resources: {A: !Nope x}", "t.yaml")
