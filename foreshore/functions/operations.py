"""What the Lambda API's operations share: finding the function a call names, pages, times.

Source: AWS Lambda API Reference, 2015-03-31.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from foreshore.errors import AwsError
from foreshore.functions.registry import Function, Version
from foreshore.functions.spec import LATEST
from foreshore.shapes.service_model import OperationHandler, paginate

if TYPE_CHECKING:
    from foreshore.functions.service import Functions

Json = dict[str, Any]


def table_of(owner: object) -> dict[str, OperationHandler]:
    """The operations of an object: each method `do_create_alias` is CreateAlias."""
    names = [name for name in dir(owner) if name.startswith("do_")]
    return {"".join(part.capitalize() for part in name[3:].split("_")): getattr(owner, name) for name in names}


class Operations:
    """A group of operations over one room's registry."""

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.registry = functions.registry

    def _kept(self, function: Function) -> None:
        self.functions.store.save_function(function)

    def _function(self, params: Json) -> Function:
        return self.registry.get(self.registry.name_of(params["FunctionName"]))

    def _version(self, params: Json) -> tuple[Function, Version]:
        return self.registry.resolve(self.registry.name_of(params["FunctionName"], params.get("Qualifier") or ""))

    def _qualified(self, params: Json, default: str = LATEST) -> tuple[Function, str]:
        name = self.registry.name_of(params["FunctionName"], params.get("Qualifier") or "")
        function, _ = self.registry.resolve(name)
        return function, name.qualifier or default

    def _check_revision(self, revision: str, params: Json) -> None:
        given = params.get("RevisionId")
        if given and given != revision:
            raise AwsError(
                "PreconditionFailedException",
                "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to "
                "retrieve the latest Revision Id", 412, {"Type": "User"},
            )  # fmt: skip


def page(keys: list[str], params: Json) -> tuple[list[str], str | None]:
    """The keys of one page, by Marker and MaxItems, and the next page's marker."""
    code = "InvalidParameterValueException"
    return paginate(keys, params.get("Marker"), params.get("MaxItems"), code=code, default=50)


def listed(name: str, items: list[Json], token: str | None) -> Json:
    """A list operation's answer."""
    return {name: items, "NextMarker": token} if token else {name: items}


def stamp(seconds: float) -> str:
    """A time as most of the API's text members have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"
