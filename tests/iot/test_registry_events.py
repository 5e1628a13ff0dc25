"""Registry events, as aws-lambda-powertools' models of AWS's messages read them."""

import json

import pytest
from aws_lambda_powertools.utilities.parser.models import iot_registry_events as models

KINDS = ("THING", "THING_GROUP", "THING_TYPE", "THING_GROUP_MEMBERSHIP", "THING_GROUP_HIERARCHY", "THING_TYPE_ASSOCIATION")  # fmt: skip  # noqa: E501
MODELS = {
    "thing": models.IoTCoreThingEvent,
    "thingType": models.IoTCoreThingTypeEvent,
    "thingTypeAssociation": models.IoTCoreThingTypeAssociationEvent,
    "thingGroup": models.IoTCoreThingGroupEvent,
    "thingGroupMembership": models.IoTCoreAddOrRemoveFromThingGroupEvent,
    "thingGroupHierarchy": models.IoTCoreAddOrDeleteFromThingGroupEvent,
}


def touch_everything(iot):
    """Make, change and delete one of each kind."""
    iot.create_thing_type(thingTypeName="pump", thingTypeProperties={"searchableAttributes": ["a"]})
    iot.create_thing_group(thingGroupName="plant")
    iot.create_thing_group(thingGroupName="hall", parentGroupName="plant")
    iot.update_thing_group(thingGroupName="hall", thingGroupProperties={"thingGroupDescription": "d"})
    iot.create_thing(thingName="t", thingTypeName="pump", attributePayload={"attributes": {"a": "1"}})
    iot.update_thing(thingName="t", attributePayload={"attributes": {"a": "2"}})
    iot.add_thing_to_thing_group(thingName="t", thingGroupName="hall")
    iot.remove_thing_from_thing_group(thingName="t", thingGroupName="hall")
    iot.update_thing(thingName="t", removeThingType=True)
    iot.delete_thing(thingName="t")
    iot.delete_thing_group(thingGroupName="hall")
    iot.deprecate_thing_type(thingTypeName="pump")


@pytest.fixture
def heard(edge):
    found = []

    async def listen():
        edge.iot.broker.add_listener("$aws/events/#", lambda p: found.append((p.topic, json.loads(p.payload))))

    edge.run(listen())
    return found


def test_every_event_is_what_powertools_reads(edge, heard):
    iot = edge.client()
    iot.update_event_configurations(eventConfigurations={kind: {"Enabled": True} for kind in KINDS})
    touch_everything(iot)
    topics = [topic.removeprefix("$aws/events/") for topic, _ in heard]
    assert topics == [
        "thingType/pump/created",
        "thingGroup/plant/created",
        "thingGroup/hall/created",
        "thingGroupHierarchy/thingGroup/plant/childThingGroup/hall/added",
        "thingGroup/hall/updated",
        "thing/t/created",
        "thingTypeAssociation/thing/t/thingType/pump/added",
        "thing/t/updated",
        "thingGroupMembership/thingGroup/hall/thing/t/added",
        "thingGroupMembership/thingGroup/hall/thing/t/removed",
        "thing/t/updated",
        "thingTypeAssociation/thing/t/thingType/pump/removed",
        "thing/t/deleted",
        "thingGroupHierarchy/thingGroup/plant/childThingGroup/hall/removed",
        "thingGroup/hall/deleted",
        "thingType/pump/updated",
    ]
    for topic, event in heard:
        read = MODELS[topic.split("/")[2]].model_validate(event)
        assert read.operation.lower() == topic.rpartition("/")[2]
    assert heard[-1][1]["isDeprecated"] is True


def test_events_are_off_until_they_are_switched_on(edge, heard):
    touch_everything(edge.client())
    assert heard == []


def test_things_come_into_dynamic_groups_and_leave_them(edge, heard):
    iot = edge.client()

    async def look():
        edge.iot.dynamic_members._rest = 0.0
        edge.iot.dynamic_members.tick()

    def floor(name, number):
        iot.update_thing(thingName=name, attributePayload={"attributes": {"floor": str(number)}})

    iot.update_indexing_configuration(thingIndexingConfiguration={"thingIndexingMode": "REGISTRY"})
    iot.create_dynamic_thing_group(thingGroupName="before", queryString="attributes.floor:1")
    for name in ("a", "b"):
        iot.create_thing(thingName=name)
    floor("a", 1)
    edge.run(look())
    iot.update_event_configurations(eventConfigurations={"THING_GROUP_MEMBERSHIP": {"Enabled": True}})
    edge.run(look())
    assert heard == []
    iot.create_dynamic_thing_group(thingGroupName="after", queryString="attributes.floor:1")
    floor("b", 1)
    edge.run(look())
    floor("a", 2)
    edge.run(look())
    topics = [topic.removeprefix("$aws/events/thingGroupMembership/thingGroup/") for topic, _ in heard]
    assert topics == [
        "after/thing/a/added", "after/thing/b/added", "before/thing/b/added", "after/thing/a/removed",
        "before/thing/a/removed",
    ]  # fmt: skip
    models.IoTCoreAddOrRemoveFromThingGroupEvent.model_validate(heard[0][1])
