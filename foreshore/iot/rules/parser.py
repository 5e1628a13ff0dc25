"""AWS IoT SQL read into a tree by recursive descent with operator precedence.

AWS publishes no formal grammar; this one is put together from the developer guide's pages "SQL reference", "SELECT",
"FROM", "WHERE", "SET", "Operators", "Literals", "Case statements", "Nested queries" and "JSON extensions". Words may
be written in any case; field names keep theirs.

Depth is bounded (`MAX_NESTING` brackets here, `MAX_DEPTH` nodes in the compiler), so no text can exhaust the stack.
"""

from __future__ import annotations

from decimal import Decimal
from difflib import get_close_matches

from foreshore.iot.rules import syntax
from foreshore.iot.rules.lexer import MAX_SQL, Lexer, Token
from foreshore.iot.rules.problems import SqlParseError
from foreshore.iot.rules.values import ARITHMETIC, normal_decimal, normal_int_text

MAX_NESTING = 48
MAX_VARIABLES = 10
MAX_SPELLING = 1024

_COMPARISONS = frozenset({"=", "<>", "<", "<=", ">", ">="})
_BINDING = {"+": 5, "-": 5, "*": 6, "/": 6, "%": 6, **dict.fromkeys(_COMPARISONS, 4)}
_OR, _AND, _NOT, _COMPARE = 1, 2, 3, 4
_CLAUSES = frozenset({"FROM", "WHERE", "AS"})
_NOT_OURS = {
    "LIKE": "use regexp_matches(text, 'pattern'), startswith() or endswith()",
    "BETWEEN": "use x >= low AND x <= high",
    "IS": "use isNull(x) or isUndefined(x)",
    "NOT": "NOT stands before the whole comparison: NOT a IN [1, 2]",
    "GROUP": "a rule sees one message at a time; aggregate in a component or a function",
    "ORDER": "a rule sees one message at a time",
    "JOIN": "a rule reads one topic filter; several topics need several rules or a wildcard",
    "LIMIT": "a rule sees one message at a time",
}


class Parser:
    """One statement, or the expression of one `${…}`."""

    def __init__(self, text: str, position: int = 0, *, strict_live: bool = False) -> None:
        if len(text) > MAX_SQL:
            raise SqlParseError(f"The SQL is longer than {MAX_SQL} characters", text[:200], 0)
        self.text = text
        self.strict_live = strict_live
        self._lexer = Lexer(text)
        self._nesting = 0
        self._in_where = False
        self._last_end = position
        self.token = self._lexer.read(position)

    # tokens

    def _advance(self) -> Token:
        token = self.token
        self._last_end = token.end
        self.token = self._lexer.read(token.end)
        return token

    def _peek(self, after: Token | None = None) -> Token:
        return self._lexer.read((after or self.token).end)

    def _is(self, symbol: str) -> bool:
        return self.token.kind == "symbol" and self.token.text == symbol

    def _take(self, symbol: str) -> bool:
        if self._is(symbol):
            self._advance()
            return True
        return False

    def _take_word(self, word: str) -> bool:
        if self.token.word == word:
            self._advance()
            return True
        return False

    def _expect(self, symbol: str, meaning: str) -> Token:
        if not self._is(symbol):
            raise self._unexpected(f"expected {symbol} {meaning}")
        return self._advance()

    def _expect_word(self, word: str, suggestion: str = "") -> Token:
        if self.token.word != word:
            close = get_close_matches(self.token.word, [word], 1, 0.6) if self.token.word else []
            raise self._unexpected(f"did you mean {word}?" if close else suggestion or f"expected {word}")
        return self._advance()

    def _unexpected(self, suggestion: str = "") -> SqlParseError:
        token = self.token
        if token.kind == "end":
            return SqlParseError("Unexpected end of the statement", self.text, token.start, suggestion)
        advice = _NOT_OURS.get(token.word, suggestion)
        return SqlParseError(f"Unexpected token, '{token.text[:80]}'", self.text, token.start, advice)

    # statement

    def statement(self) -> syntax.Statement:
        """Read a whole rule statement."""
        variables = self._variables() if self.token.word == "SET" else ()
        self._expect_word("SELECT", "a rule begins with SELECT (or SET @name = …)")
        is_value, items = self._items()
        topic_filter = self._from()
        where = None
        if self._take_word("WHERE"):
            self._in_where = True
            where = self.expression()
        if self.token.kind != "end":
            raise self._unexpected(self._misspelt())
        return syntax.Statement(self.text, variables, is_value, items, topic_filter, where)

    def _misspelt(self) -> str:
        close = get_close_matches(self.token.word, ["FROM", "WHERE", "AND", "OR", "AS"], 1, 0.6)
        if close:
            return f"did you mean {close[0]}?"
        return "two items are separated by a comma" if self.token.kind in ("word", "string", "number") else ""

    def _variables(self) -> tuple[tuple[str, syntax.Node], ...]:
        self._advance()
        found: dict[str, syntax.Node] = {}
        while True:
            token = self.token
            if token.kind != "variable":
                raise self._unexpected("a variable's name begins with @")
            name = token.text[1:]
            if name in found:
                raise SqlParseError(f"Variable @{name} is already set", self.text, token.start, "use another name")
            if len(found) == MAX_VARIABLES:
                raise SqlParseError(f"More than {MAX_VARIABLES} variables", self.text, token.start)
            self._advance()
            self._expect("=", "and the variable's value")
            found[name] = self.expression()
            if not self._take(","):
                break
        if self.token.word == "SET":
            raise self._unexpected("one SET sets all variables: SET @a = 1, @b = 2")
        return tuple(found.items())

    def _from(self) -> str | None:
        if not self._take_word("FROM"):
            return None
        token = self.token
        if token.kind != "string" or token.text[0] != "'":
            raise self._unexpected("the topic filter stands in single quotes: FROM 'topic/#'")
        self._advance()
        _check_filter(token, self.text)
        return token.value

    def _items(self) -> tuple[bool, tuple[syntax.Item, ...]]:
        """What follows SELECT, up to FROM, WHERE or the end."""
        if self._is_value_keyword():
            self._advance()
            item = self._item(named=False)
            if self._is(","):
                raise self._unexpected("SELECT VALUE takes one expression")
            return True, (item,)
        items = [self._item()]
        while self._take(","):
            # AWS's own DynamoDB tutorial ships a trailing comma before FROM.
            if self.token.word in ("FROM", "WHERE") and self._ends_items():
                break
            items.append(self._item())
        return False, tuple(items)

    def _ends_items(self) -> bool:
        following = self._peek()
        return following.kind in ("string", "word", "variable") or following.text in ("(", "*")

    def _is_value_keyword(self) -> bool:
        """`SELECT VALUE x` against `SELECT value, …`: VALUE is a keyword when an expression follows it."""
        if self.token.word != "VALUE":
            return False
        following = self._peek()
        if following.kind in ("string", "number", "variable"):
            return True
        if following.kind == "word":
            return following.word not in _CLAUSES or self._peek(following).text in (".", "(")
        if following.text == "*":
            after = self._peek(following)
            return after.kind == "end" or after.word in _CLAUSES or after.text in (".", ",", ")")
        if following.text == "-":
            # `SELECT VALUE -x` against `SELECT value - x`: the spaces tell.
            return self.token.end < following.start and not self.text[following.end : following.end + 1].isspace()
        return following.text in ("(", "[", "{")

    def _item(self, *, named: bool = True) -> syntax.Item:
        value = self.expression()
        key: tuple[str, ...] = ()
        if self._take_word("AS"):
            key = self._alias()
        elif named and not isinstance(value, syntax.Star):
            key = (_default_key(value, self.text),)
        return syntax.Item(key, value)

    def _alias(self) -> tuple[str, ...]:
        names = [self._name("a name after AS")]
        while self._take("."):
            names.append(self._name("a name after the point"))
        if len(names) > MAX_NESTING:
            raise SqlParseError("The alias nests too deep", self.text, self.token.start)
        return tuple(names)

    def _name(self, meaning: str) -> str:
        if self.token.kind != "word":
            raise self._unexpected(f"expected {meaning}: letters, digits and _, not beginning with a digit")
        return self._advance().text

    # expressions

    def expression(self, binding: int = 0) -> syntax.Node:
        """Read an expression whose operators bind tighter than `binding`."""
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise SqlParseError("The expression nests too deep", self.text, self.token.start)
        left = self._not() if self.token.word == "NOT" and binding < _COMPARE else self._postfix()
        while True:
            token = self.token
            if token.kind == "symbol":
                power = _BINDING.get(token.text, 0)
                if power <= binding:
                    break
                self._advance()
                right = self.expression(power)
                left = syntax.Binary(left.start, right.end, token.text, left, right)
            elif token.kind == "word":
                if token.word == "IN" and binding < _COMPARE:
                    self._advance()
                    right = self.expression(_COMPARE)
                    left = syntax.Binary(left.start, right.end, "IN", left, right)
                elif token.word == "AND" and binding < _AND:
                    left = self._chain("AND", _AND, left)
                elif token.word == "OR" and binding < _OR:
                    left = self._chain("OR", _OR, left)
                else:
                    break
            else:
                break
        self._nesting -= 1
        return left

    def _chain(self, word: str, binding: int, first: syntax.Node) -> syntax.Node:
        operands = [first]
        while self._take_word(word):
            operands.append(self.expression(binding))
        return syntax.Logic(first.start, operands[-1].end, word, tuple(operands))

    def _not(self) -> syntax.Node:
        start = self._advance().start
        operand = self.expression(_NOT)
        return syntax.Not(start, operand.end, operand)

    def _postfix(self) -> syntax.Node:
        if self._is("-"):
            return self._negative()
        node = self._primary()
        while self.token.kind == "symbol":
            if self.token.text == ".":
                self._advance()
                name = self._member_name()
                node = syntax.Member(node.start, self._last_end, node, name)
            elif self.token.text == "[" and not isinstance(node, syntax.Literal):
                self._advance()
                index = self.expression()
                end = self._expect("]", "to close the index").end
                node = syntax.Index(node.start, end, node, index)
            else:
                break
        return node

    def _member_name(self) -> str:
        token = self.token
        if token.kind != "word":
            raise self._unexpected('a key with other characters is read with get(object, "key")')
        return self._advance().text

    def _negative(self) -> syntax.Node:
        start = self._advance().start
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise SqlParseError("The expression nests too deep", self.text, start)
        operand = self._postfix()
        self._nesting -= 1
        if isinstance(operand, syntax.Literal) and type(operand.value) in (int, Decimal):
            negative = -operand.value if type(operand.value) is int else operand.value.copy_negate()
            return syntax.Literal(start, operand.end, negative if negative else operand.value)
        return syntax.Negate(start, operand.end, operand)

    def _primary(self) -> syntax.Node:
        token = self.token
        if token.kind == "word":
            return self._word(token)
        if token.kind == "string":
            self._advance()
            return syntax.Literal(token.start, token.end, token.value)
        if token.kind == "number":
            return self._number()
        if token.kind == "variable":
            self._advance()
            return syntax.Variable(token.start, token.end, token.text[1:])
        if token.text == "*":
            self._advance()
            return syntax.Star(token.start, token.end)
        if token.text == "(":
            return self._bracketed()
        if token.text == "[":
            return self._array()
        if token.text == "{":
            return self._object()
        raise self._unexpected("expected an expression")

    def _number(self) -> syntax.Node:
        token = self._advance()
        text = token.text
        if len(text) > MAX_SPELLING:
            raise SqlParseError("The number is too long", self.text, token.start)
        value = normal_int_text(text) if text.isdigit() else normal_decimal(_decimal_literal(text))
        if value is not None and type(value) not in (int, Decimal):
            raise SqlParseError(
                "The number is out of the range of a Decimal", self.text, token.start, "1E-999 to 9.9E999 fits"
            )
        return syntax.Literal(token.start, token.end, value)

    def _word(self, token: Token) -> syntax.Node:
        word = token.word
        if word in ("TRUE", "FALSE", "NULL"):
            self._advance()
            return syntax.Literal(token.start, token.end, {"TRUE": True, "FALSE": False, "NULL": None}[word])
        if word == "SELECT":
            raise self._unexpected("a nested query stands in brackets: (SELECT …)")
        if word == "NOT":
            raise SqlParseError(
                "Unexpected token, 'NOT'", self.text, token.start, "NOT binds looser than that: put it in brackets"
            )
        following = self._peek()
        is_call = following.text == "(" and following.kind == "symbol"
        if word == "CASE" and following.text not in (".", ",") and following.kind != "end":
            return self._case()
        if word in _CLAUSES and not (is_call or following.text == "."):
            raise self._unexpected("expected an expression")
        if word == "EXISTS" and is_call:
            return self._exists()
        if word == "CAST" and is_call:
            return self._cast()
        self._advance()
        if not is_call:
            return syntax.Field(token.start, token.end, token.text)
        self._advance()
        arguments = self._list(")", "to close the arguments")
        return syntax.Call(token.start, self._last_end, token.text, arguments)

    def _list(self, close: str, meaning: str) -> tuple[syntax.Node, ...]:
        found: list[syntax.Node] = []
        if self._take(close):
            return ()
        while True:
            found.append(self._element())
            if not self._take(","):
                break
        self._expect(close, meaning)
        return tuple(found)

    def _element(self) -> syntax.Node:
        """An argument: an expression, or a nested SELECT that may lack brackets of its own."""
        return self._select() if self._is_select() else self.expression()

    def _is_select(self) -> bool:
        if self.token.word != "SELECT":
            return False
        following = self._peek()
        return following.kind != "end" and following.text not in (",", ")", "]", ".")

    def _bracketed(self) -> syntax.Node:
        start = self._advance().start
        inner = self._element()
        if self._is(","):
            raise self._unexpected("an array is written in square brackets: a IN [1, 2]")
        end = self._expect(")", "to close the bracket").end
        if isinstance(inner, syntax.Subquery):
            return syntax.Subquery(start, end, inner.is_value, inner.items, inner.source, inner.alias, inner.where)
        return inner

    def _array(self) -> syntax.Node:
        start = self._advance().start
        items = self._list("]", "to close the array")
        return syntax.ArrayLiteral(start, self._last_end, items)

    def _object(self) -> syntax.Node:
        start = self._advance().start
        pairs: list[tuple[str, syntax.Node]] = []
        if not self._is("}"):
            while True:
                key = self._advance().value if self.token.kind == "string" else self._name("a key")
                self._expect(":", "after the key")
                pairs.append((key, self._element()))
                if not self._take(","):
                    break
        end = self._expect("}", "to close the object").end
        return syntax.ObjectLiteral(start, end, tuple(pairs))

    def _cast(self) -> syntax.Node:
        start = self._advance().start
        self._advance()
        operand = self._element()
        self._expect_word("AS", "cast(value AS Int)")
        target = self._name("a type").lower()
        end = self._expect(")", "to close cast").end
        return syntax.Cast(start, end, operand, target)

    def _case(self) -> syntax.Node:
        start = self._advance().start
        if self.token.word == "WHEN":
            raise self._unexpected("CASE compares a value: CASE color WHEN 'red' THEN 1 ELSE 0 END")
        subject = self.expression()
        branches: list[tuple[syntax.Node, syntax.Node]] = []
        while self._take_word("WHEN"):
            test = self.expression()
            self._expect_word("THEN")
            branches.append((test, self._element()))
        if not branches:
            raise self._unexpected("expected WHEN")
        otherwise = self._element() if self._take_word("ELSE") else None
        end = self._expect_word("END", "a CASE ends with END").end
        return syntax.Case(start, end, subject, tuple(branches), otherwise)

    def _exists(self) -> syntax.Node:
        start = self._advance().start
        self._advance()
        if not self._is_select():
            raise self._unexpected("EXISTS takes a nested query: EXISTS (SELECT * FROM items AS i WHERE i.n = 1)")
        query = self._select()
        end = self._expect(")", "to close EXISTS").end
        return syntax.Exists(start, end, query)

    def _select(self) -> syntax.Subquery:
        if self._in_where and self.strict_live:
            raise SqlParseError(
                "Unexpected token, 'SELECT'", self.text, self.token.start,
                "the live service refuses a nested query in WHERE, though it is documented",
            )  # fmt: skip
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise SqlParseError("The nested queries nest too deep", self.text, self.token.start)
        start = self._advance().start
        is_value, items = self._items()
        self._expect_word("FROM", "a nested query reads FROM an array or an object")
        source = self.expression(_COMPARE)
        alias = self._name("a name after AS") if self._take_word("AS") else ""
        where = self.expression() if self._take_word("WHERE") else None
        self._nesting -= 1
        return syntax.Subquery(start, self._last_end, is_value, items, source, alias, where)


def _decimal_literal(text: str) -> Decimal:
    return ARITHMETIC.create_decimal(text)


def _default_key(node: syntax.Node, text: str) -> str:
    """The key of an item without AS: the last segment of a path, or the function's name."""
    if isinstance(node, syntax.Field | syntax.Call | syntax.Variable):
        return node.name
    if isinstance(node, syntax.Member):
        return node.name
    if isinstance(node, syntax.Index):
        return _default_key(node.base, text)
    if isinstance(node, syntax.Cast):
        return "cast"
    return text[node.start : node.end]


def _check_filter(token: Token, text: str) -> None:
    """A FROM filter is an MQTT topic filter: `+` fills a level, `#` the last one."""
    levels = token.value.split("/")
    problem = ""
    if not token.value:
        problem = "The topic filter is empty"
    elif len(token.value.encode()) > 256 or "\0" in token.value:
        problem = "The topic filter is longer than 256 bytes or holds a null character"
    elif any("+" in level and level != "+" for level in levels):
        problem = "+ fills a whole level of a topic filter"
    elif any("#" in level and level != "#" for level in levels) or "#" in levels[:-1]:
        problem = "# is the whole last level of a topic filter"
    if problem:
        raise SqlParseError(problem, text, token.start, "FROM 'devices/+/readings' or FROM 'devices/#'")
