"""Lambda handler: one window or alert from an IoT rule into DynamoDB. Writing it again changes nothing."""

import os

import boto3
from logic import item

table = boto3.resource("dynamodb").Table(os.environ["TABLE_NAME"])


def handler(event, context):
    """Store one event; gives its key."""
    stored = item(event)
    table.put_item(Item=stored)
    return {"pk": stored["pk"], "sk": stored["sk"]}
