"""Lambda behind two IoT rules: stores each window and each alert in DynamoDB."""

from __future__ import annotations

import logging
import os
from typing import Any

import boto3
from logic import BadEvent, to_item

logger = logging.getLogger()
logger.setLevel(os.environ.get("LOG_LEVEL", "INFO"))
table = boto3.resource("dynamodb").Table(os.environ["READINGS_TABLE"])


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Store one event. A malformed one is logged and dropped; anything else that fails is raised, to be retried."""
    try:
        item = to_item(event)
    except BadEvent as error:
        logger.warning("dropped: %s", error)
        return {"stored": 0, "reason": str(error)}
    table.put_item(Item=item)
    logger.info("stored %s %s", item["pk"], item["sk"])
    return {"stored": 1}
