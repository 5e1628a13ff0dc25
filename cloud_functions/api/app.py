"""Lambda handler: the HTTP API over stored windows and alerts."""

import os

import boto3
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.event_handler.exceptions import BadRequestError
from boto3.dynamodb.conditions import Key
from logic import limit, plain, start_key, token

table = boto3.resource("dynamodb").Table(os.environ["TABLE_NAME"])
app = APIGatewayHttpResolver()


@app.get("/windows")
def windows():
    """The last windows of all devices, newest first."""
    return page(Key("pk").eq("window"))


@app.get("/windows/<device>")
def windows_of(device):
    """The last windows of one device, newest first."""
    return page(Key("series").eq(f"window#{device}"), IndexName="by-series")


@app.get("/alerts")
def alerts():
    """The last alerts of all devices, newest first."""
    return page(Key("pk").eq("alert"))


def page(condition, **index):
    """One page of a query, with a token for the next."""
    event = app.current_event
    try:
        query = {"Limit": limit(event.get_query_string_value("limit"))}
        after = event.get_query_string_value("next")
        if after:
            query["ExclusiveStartKey"] = start_key(after)
    except ValueError as error:
        raise BadRequestError(str(error)) from error
    found = table.query(KeyConditionExpression=condition, ScanIndexForward=False, **query, **index)
    return {"items": [plain(item) for item in found["Items"]], "next": token(found.get("LastEvaluatedKey"))}


def handler(event, context):
    """One HTTP request."""
    return app.resolve(event, context)
