"""CloudFormation's AWS::IoT types, made twice."""

import json

DOCUMENT = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


def test_types_are_made_and_made_anew(edge):
    iot = edge.client()
    principal = iot.create_keys_and_certificate(setAsActive=True)["certificateArn"]
    role = "arn:aws:iam::000000000000:role/role"
    function = "arn:aws:lambda:us-east-1:000000000000:function:f"

    def template(floor):
        return [
            ("AWS::IoT::ThingType", "k", {"ThingTypeProperties": {"ThingTypeDescription": str(floor)}}),
            ("AWS::IoT::Thing", "t", {"AttributePayload": {"Attributes": {"floor": floor}}}),
            ("AWS::IoT::ThingGroup", "g", {"ThingGroupProperties": {"ThingGroupDescription": str(floor)}}),
            ("AWS::IoT::ThingGroup", "d", {"QueryString": f"attributes.floor:{floor}"}),
            ("AWS::IoT::BillingGroup", "b", {}),
            ("AWS::IoT::Policy", "p", {"PolicyDocument": DOCUMENT}),
            ("AWS::IoT::RoleAlias", "r", {"RoleArn": role, "CredentialDurationSeconds": "900"}),
            ("AWS::IoT::Authorizer", "a", {"AuthorizerFunctionArn": function, "SigningDisabled": True}),
            ("AWS::IoT::PolicyPrincipalAttachment", "x", {"PolicyName": "p", "Principal": principal}),
            ("AWS::IoT::ThingPrincipalAttachment", "y", {"ThingName": "t", "Principal": principal}),
        ]

    async def make(floor):
        for kind, name, properties in template(floor):
            edge.iot.resources.make(kind, name, properties)

    async def make_one(kind, name, properties):
        edge.iot.resources.make(kind, name, properties)

    assert {kind for kind, _, _ in template(1)} == set(edge.iot.resources.types())
    for floor in (1, 2):
        edge.run(make(floor))
    assert iot.describe_thing(thingName="t")["attributes"] == {"floor": "2"}
    assert iot.describe_thing_group(thingGroupName="d")["queryString"] == "attributes.floor:2"
    assert iot.list_things_in_thing_group(thingGroupName="d")["things"] == ["t"]
    assert json.loads(iot.get_policy(policyName="p")["policyDocument"]) == DOCUMENT
    assert iot.list_thing_principals(thingName="t")["principals"] == [principal]
    for deprecated in (True, False):
        edge.run(make_one("AWS::IoT::ThingType", "k", {"DeprecateThingType": deprecated}))
        assert iot.describe_thing_type(thingTypeName="k")["thingTypeMetadata"]["deprecated"] is deprecated
    assert iot.describe_role_alias(roleAlias="r")["roleAliasDescription"]["credentialDurationSeconds"] == 900
