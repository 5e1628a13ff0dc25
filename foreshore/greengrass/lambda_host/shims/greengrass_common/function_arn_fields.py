"""Lambda function ARNs: `arn:aws:lambda:<region>:<account>:function:<name>[:<qualifier>]`."""

from __future__ import annotations

import re

_ARN = re.compile(
    r"^arn:(?P<partition>aws[a-z-]*):lambda:(?P<region>[a-z0-9-]*):(?P<account>[0-9]*):function:"
    r"(?P<name>[A-Za-z0-9_.-]+)(:(?P<qualifier>[A-Za-z0-9_$-]+))?$"
)


class FunctionArnFields:
    """The parts of one ARN. Region and account may be empty (system functions). Raises ValueError."""

    def __init__(self, function_arn_string: str) -> None:
        self.parse_function_arn(function_arn_string)

    def parse_function_arn(self, function_arn_string: str) -> None:
        """Read an ARN into the attributes. Raises ValueError."""
        match = _ARN.match(function_arn_string)
        if match is None:
            raise ValueError(f"Cannot parse given string as a function ARN: {function_arn_string}")
        self.partition = match["partition"]
        self.region = match["region"]
        self.account_id = match["account"]
        self.name = match["name"]
        self.qualifier = match["qualifier"] or ""
        self.unqualified_arn = self.build_arn_string(self.region, self.account_id, self.name, "", self.partition)

    @staticmethod
    def build_arn_string(
        region: str, account_id: str, name: str, qualifier: str | None = "", partition: str = "aws"
    ) -> str:
        """Join the parts to an ARN."""
        unqualified = f"arn:{partition}:lambda:{region}:{account_id}:function:{name}"
        return FunctionArnFields.build_function_arn(unqualified, qualifier)

    @staticmethod
    def build_function_arn(unqualified_arn: str, qualifier: str | None) -> str:
        """Add a qualifier, if there is one."""
        return f"{unqualified_arn}:{qualifier}" if qualifier else unqualified_arn

    def to_arn_string(self) -> str:
        """The ARN, qualifier included."""
        return self.build_function_arn(self.unqualified_arn, self.qualifier)
