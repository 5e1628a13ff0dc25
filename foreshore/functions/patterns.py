"""EventBridge-style patterns, as event source mappings filter with. Pure.

Source: Lambda Developer Guide, "Control which events Lambda sends to your function" (comparison operators); EventBridge
User Guide, "Comparison operators". An operator that is not known is refused, never taken as a mismatch.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from foreshore.errors import AwsError

Json = Any

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_MISSING = object()


def check(pattern: Json) -> None:
    """Raises AwsError InvalidParameterValueException for a pattern that is not one."""
    if not isinstance(pattern, dict) or not pattern:
        raise _invalid("Filter pattern must be a JSON object with at least one key.")
    for key, wanted in pattern.items():
        if key == "$or":
            for each in wanted:
                check(each)
        elif isinstance(wanted, dict):
            check(wanted)
        elif isinstance(wanted, list) and wanted:
            for rule in wanted:
                _fits(rule, "")
        else:
            raise _invalid(f'Filter pattern value of "{key}" must be an object or a non-empty array.')


def matches(pattern: Json, value: Json) -> bool:
    """Whether a JSON value fits a pattern."""
    if not isinstance(value, dict):
        value = {}
    for key, wanted in pattern.items():
        if key == "$or":
            if not any(matches(each, value) for each in wanted):
                return False
            continue
        found = value.get(key, _MISSING)
        if isinstance(wanted, dict):
            if not matches(wanted, {} if found is _MISSING else found):
                return False
        elif not any(_fits_any(rule, found) for rule in wanted):
            return False
    return True


def _fits_any(rule: Json, found: Json) -> bool:
    """An array in the event fits when one of its items does."""
    if isinstance(found, list):
        return any(_fits(rule, item) for item in found) or (not found and _fits(rule, _MISSING))
    return _fits(rule, found)


def _fits(rule: Json, found: Json) -> bool:
    if not isinstance(rule, dict):
        return found is not _MISSING and type(found) is not dict and _equal(rule, found)
    ((name, argument),) = rule.items()
    if name == "exists":
        return bool(argument) == (found is not _MISSING)
    if name == "anything-but":
        return found is not _MISSING and not _is_one_of(argument, found)
    if name == "numeric":
        return _is_number(found) and _compares(argument, found)
    test = _TEXT_TESTS.get(name)
    if test is None:
        raise _invalid(f"Filter pattern operator {name} is not supported.")
    return isinstance(found, str) and test(argument, found)


def _equal(rule: Json, found: Json) -> bool:
    if isinstance(rule, bool) or isinstance(found, bool):
        return rule is found
    return bool(rule == found)


def _is_one_of(argument: Json, found: Json) -> bool:
    if isinstance(argument, dict):
        return _fits(argument, found)
    return any(_equal(each, found) for each in (argument if isinstance(argument, list) else [argument]))


def _is_number(found: Json) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool)


def _compares(argument: Json, found: Json) -> bool:
    try:
        return all(_COMPARE[argument[at]](found, argument[at + 1]) for at in range(0, len(argument), 2))
    except (KeyError, IndexError, TypeError):
        raise _invalid(f"Filter pattern numeric match {argument} is not valid.") from None


def _has_prefix(argument: Json, found: str) -> bool:
    if isinstance(argument, dict):
        return found.lower().startswith(str(argument["equals-ignore-case"]).lower())
    return found.startswith(argument)


def _has_suffix(argument: Json, found: str) -> bool:
    if isinstance(argument, dict):
        return found.lower().endswith(str(argument["equals-ignore-case"]).lower())
    return found.endswith(argument)


def _is_wildcard(argument: str, found: str) -> bool:
    return re.fullmatch(".*".join(re.escape(part) for part in argument.split("*")), found, re.DOTALL) is not None


_TEXT_TESTS: dict[str, Callable[[Any, str], bool]] = {
    "prefix": _has_prefix,
    "suffix": _has_suffix,
    "equals-ignore-case": lambda argument, found: found.lower() == argument.lower(),
    "wildcard": _is_wildcard,
}


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValueException", f"Invalid filter pattern definition. {message}")
