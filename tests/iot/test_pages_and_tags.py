"""Every kind of resource: boto3's own paginators see all of it page by page, and its tags come back."""

import json

import pytest

ROLE = "arn:aws:iam::000000000000:role/r"
TAGS = [{"Key": "made", "Value": "here"}]
POLICY = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}]}
)
TEMPLATE = json.dumps({"Resources": {"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": "t"}}}})
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:f"
RULE = {"sql": "SELECT * FROM 'a'", "actions": []}

# kind: paginated operation, its list and name, (create, how the arguments are made, the ARN's name in the answer)
KINDS = {
    "things": ("list_things", "things", "thingName", "create_thing", lambda n: {"thingName": n}, None),
    "types": (
        "list_thing_types", "thingTypes", "thingTypeName", "create_thing_type", lambda n: {"thingTypeName": n},
        "thingTypeArn",
    ),
    "groups": (
        "list_thing_groups", "thingGroups", "groupName", "create_thing_group", lambda n: {"thingGroupName": n},
        "thingGroupArn",
    ),
    "billing groups": (
        "list_billing_groups", "billingGroups", "groupName", "create_billing_group",
        lambda n: {"billingGroupName": n}, "billingGroupArn",
    ),
    "policies": (
        "list_policies", "policies", "policyName", "create_policy",
        lambda n: {"policyName": n, "policyDocument": POLICY}, "policyArn",
    ),
    "role aliases": (
        "list_role_aliases", "roleAliases", None, "create_role_alias",
        lambda n: {"roleAlias": n, "roleArn": ROLE}, "roleAliasArn",
    ),
    "authorizers": (
        "list_authorizers", "authorizers", "authorizerName", "create_authorizer",
        lambda n: {"authorizerName": n, "authorizerFunctionArn": FUNCTION, "signingDisabled": True}, "authorizerArn",
    ),
    "domain configurations": (
        "list_domain_configurations", "domainConfigurations", "domainConfigurationName",
        "create_domain_configuration", lambda n: {"domainConfigurationName": n}, "domainConfigurationArn",
    ),
    "provisioning templates": (
        "list_provisioning_templates", "templates", "templateName", "create_provisioning_template",
        lambda n: {"templateName": n, "templateBody": TEMPLATE, "provisioningRoleArn": ROLE}, "templateArn",
    ),
    "job templates": (
        "list_job_templates", "jobTemplates", "jobTemplateId", "create_job_template",
        lambda n: {"jobTemplateId": n, "document": "{}", "description": "d"}, "jobTemplateArn",
    ),
    "jobs": (
        "list_jobs", "jobs", "jobId", "create_job",
        lambda n: {"jobId": n, "document": "{}", "targets": ["arn:aws:iot:us-east-1:000000000000:thing/t"]}, "jobArn",
    ),
    "commands": (
        "list_commands", "commands", "commandId", "create_command",
        lambda n: {"commandId": n, "payload": {"content": b"x"}}, "commandArn",
    ),
    "rules": (
        "list_topic_rules", "rules", "ruleName", "create_topic_rule",
        lambda n: {"ruleName": n, "topicRulePayload": RULE}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(KINDS))
def test_pages_and_tags(edge, kind):
    iot = edge.client()
    operation, listed, named, create, arguments, arn = KINDS[kind]
    if kind == "jobs":
        iot.create_thing(thingName="t")
    names = [f"{kind.replace(' ', '')}{number}" for number in range(5)]
    for name in names:
        made = getattr(iot, create)(**arguments(name), **({"tags": TAGS} if arn else {}))
        if arn:
            assert iot.list_tags_for_resource(resourceArn=made[arn])["tags"] == TAGS
            iot.tag_resource(resourceArn=made[arn], tags=[{"Key": "more", "Value": name}])
            iot.untag_resource(resourceArn=made[arn], tagKeys=["made"])
            assert iot.list_tags_for_resource(resourceArn=made[arn])["tags"] == [{"Key": "more", "Value": name}]
    pages = list(iot.get_paginator(operation).paginate(PaginationConfig={"PageSize": 2}))
    assert [len(page[listed]) for page in pages][:2] == [2, 2]
    found = [each[named] if named else each for page in pages for each in page[listed]]
    assert set(names) <= set(found)
    assert len(found) == len(set(found))


def test_pages_of_what_belongs_to_something(edge):
    iot = edge.client()
    iot.create_thing_group(thingGroupName="g")
    iot.create_billing_group(billingGroupName="b")
    iot.create_policy(policyName="p", policyDocument=POLICY)
    certificate = iot.create_keys_and_certificate(setAsActive=True)["certificateArn"]
    for number in range(3):
        iot.create_thing(thingName=f"t{number}", billingGroupName="b")
        iot.add_thing_to_thing_group(thingName=f"t{number}", thingGroupName="g")
        iot.attach_thing_principal(thingName=f"t{number}", principal=certificate)
    iot.attach_policy(policyName="p", target=certificate)
    group = iot.describe_thing_group(thingGroupName="g")["thingGroupArn"]
    iot.attach_policy(policyName="p", target=group)
    targets = [f"arn:aws:iot:us-east-1:000000000000:thing/t{number}" for number in range(3)]
    iot.create_job(jobId="j", document="{}", targets=targets)
    cases = [
        ("list_things_in_thing_group", {"thingGroupName": "g"}, "things", 3),
        ("list_things_in_billing_group", {"billingGroupName": "b"}, "things", 3),
        ("list_principal_things", {"principal": certificate}, "things", 3),
        ("list_targets_for_policy", {"policyName": "p"}, "targets", 2),
        ("list_attached_policies", {"target": certificate}, "policies", 1),
        ("list_job_executions_for_job", {"jobId": "j"}, "executionSummaries", 3),
        ("list_job_executions_for_thing", {"thingName": "t0"}, "executionSummaries", 1),
        ("list_thing_groups_for_thing", {"thingName": "t0"}, "thingGroups", 1),
    ]
    for operation, arguments, listed, count in cases:
        pages = iot.get_paginator(operation).paginate(**arguments, PaginationConfig={"PageSize": 1})
        assert [len(page[listed]) for page in pages] == [1] * count, operation
