"""AWS IoT SQL: statements compiled and evaluated, with no need of the rest of Foreshore.

    from foreshore.iot.rules import Message, compile

    rule = compile("SELECT device, value FROM 'devices/+/readings' WHERE value > 30", "2016-03-23")
    result = rule.evaluate(Message("devices/d1/readings", b'{"device": "d1", "value": 31.5}'))
    assert result.fired and result.payload == b'{"device":"d1","value":31.5}'

`engine.py` is the shell that finds rules by topic and runs their actions.
"""

from foreshore.iot.rules.message import ExternalFailed, Message, Result, Services
from foreshore.iot.rules.problems import SqlParseError
from foreshore.iot.rules.rule import Rule, Template, compile
from foreshore.iot.rules.values import UNDEFINED

__all__ = [
    "UNDEFINED",
    "ExternalFailed",
    "Message",
    "Result",
    "Rule",
    "Services",
    "SqlParseError",
    "Template",
    "compile",
]
