"""The two DynamoDB actions (developer guide, "DynamoDB", "DynamoDBv2")."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

from foreshore.iot.rules.actions.call import Call
from foreshore.iot.rules.actions.failures import ActionFailed
from foreshore.iot.rules.values import UNDEFINED, NotJson, Value, number_text, read_json, read_number

Attribute = dict[str, Any]


def attribute(value: Value) -> Attribute:
    """A value as a DynamoDB attribute. Numbers keep their digits."""
    kind = type(value)
    if kind is str:
        return {"S": value}
    if kind is bool:
        return {"BOOL": value}
    if kind is int:
        return {"N": str(value)}
    if kind is Decimal:
        return {"N": number_text(value, False)}
    if kind is list:
        return {"L": [attribute(item) for item in value]}
    if kind is dict:
        return {"M": {key: attribute(item) for key, item in value.items()}}
    if kind is bytes:
        return {"B": base64.b64encode(value).decode()}
    return {"NULL": True}


def from_attribute(found: Attribute) -> Value:
    """The value of a DynamoDB attribute; sets become arrays, binary base64 text."""
    kind, value = next(iter(found.items()))
    if kind == "N":
        number = read_number(value)
        return int(number) if number is not UNDEFINED and number == number.to_integral_value() else number
    if kind == "L":
        return [from_attribute(item) for item in value]
    if kind == "M":
        return {key: from_attribute(item) for key, item in value.items()}
    if kind == "NS":
        return [from_attribute({"N": item}) for item in value]
    return None if kind == "NULL" else value


def _document(call: Call) -> Value:
    """The result as a value: JSON text that SELECT passed through is read, other bytes stay binary."""
    if type(call.value) is not bytes:
        return call.value
    try:
        return read_json(call.value)
    except NotJson:
        return call.value


async def run_dynamo_dbv2(call: Call, parameters: dict[str, Any]) -> None:
    """PutItem with one column for each top-level key."""
    document = _document(call)
    if type(document) is not dict:
        raise ActionFailed("the result is no JSON object, of which each key would be a column")
    item = {key: attribute(value) for key, value in document.items()}
    body = {"TableName": parameters["putItem"]["tableName"], "Item": item}
    await call.world.aws.json("dynamodb", "DynamoDB_20120810.PutItem", body, "1.0")


def _key(parameters: dict[str, Any]) -> dict[str, Attribute]:
    key: dict[str, Attribute] = {}
    for part in ("hash", "range"):
        name = parameters.get(f"{part}KeyField")
        if name:
            kind = "N" if parameters.get(f"{part}KeyType") == "NUMBER" else "S"
            key[name] = {kind: str(parameters.get(f"{part}KeyValue", ""))}
    return key


async def run_dynamo_db(call: Call, parameters: dict[str, Any]) -> None:
    """Write, update or delete one item: the key from the parameters, the whole result in one column."""
    key, table = _key(parameters), parameters["tableName"]
    column = parameters.get("payloadField") or "payload"
    operation = parameters.get("operation") or "INSERT"
    aws = call.world.aws
    if operation == "DELETE":
        await aws.json("dynamodb", "DynamoDB_20120810.DeleteItem", {"TableName": table, "Key": key}, "1.0")
        return
    value = attribute(_document(call))
    if operation == "INSERT":
        item = {**key, column: value}
        await aws.json("dynamodb", "DynamoDB_20120810.PutItem", {"TableName": table, "Item": item}, "1.0")
    elif operation == "UPDATE":
        body = {
            "TableName": table,
            "Key": key,
            "UpdateExpression": "SET #p = :p",
            "ExpressionAttributeNames": {"#p": column},
            "ExpressionAttributeValues": {":p": value},
        }
        await aws.json("dynamodb", "DynamoDB_20120810.UpdateItem", body, "1.0")
    else:
        raise ActionFailed(f"unknown operation {operation!r}: INSERT, UPDATE or DELETE")
