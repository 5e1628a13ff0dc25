"""Lambda behind the HTTP API: windows and alerts, newest first."""

from __future__ import annotations

import os
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.event_handler.exceptions import BadRequestError
from boto3.dynamodb.conditions import Key
from logic import BadQuery, limit_of, page, query_of, read_token

logger = Logger(service="api")
app = APIGatewayHttpResolver()
table = boto3.resource("dynamodb").Table(os.environ["READINGS_TABLE"])


@app.get("/windows")
def list_windows() -> dict[str, Any]:
    """Windows of all devices."""
    return query("window", None)


@app.get("/windows/<device>")
def list_device_windows(device: str) -> dict[str, Any]:
    """Windows of one device."""
    return query("window", device)


@app.get("/alerts")
def list_alerts() -> dict[str, Any]:
    """Alerts of all devices, or of the one in `?device=`."""
    return query("alert", app.current_event.get_query_string_value("device"))


def query(kind: str, device: str | None) -> dict[str, Any]:
    """One page of a list. `limit` and `token` come from the query string."""
    event = app.current_event
    key, value, index = query_of(kind, device)
    options: dict[str, Any] = dict(index)
    try:
        limit = limit_of(event.get_query_string_value("limit"))
        start = read_token(event.get_query_string_value("token"), key, value)
    except BadQuery as error:
        raise BadRequestError(str(error)) from error
    if start:
        options["ExclusiveStartKey"] = start
    answer = table.query(KeyConditionExpression=Key(key).eq(value), ScanIndexForward=False, Limit=limit, **options)
    return page(answer["Items"], answer.get("LastEvaluatedKey"))


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Route one request."""
    return app.resolve(event, context)
