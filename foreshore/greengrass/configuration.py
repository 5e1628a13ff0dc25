"""The configuration of a core's components: a tree of timestamped leaves, its merge and reset rules, and watchers.

Knows: paths, timestamps (integer milliseconds since the epoch), which of two writes wins, what a deployment's `reset`
and `merge` do. Knows nothing of files, sockets or the clock: times are arguments, and a `Journal` keeps what was
accepted before anybody hears of it.

Rules (Greengrass v2 developer guide, "Update component configurations"; nucleus, package config):
- maps are merged deeply; lists and scalars are leaves and are replaced whole;
- a leaf keeps the newer of two timestamps; an older write to it changes nothing;
- a default has timestamp 1 and never overwrites what is there, even when an upgraded recipe changed it;
- classic compares names without case, lite with it.

The tree is immutable: every change builds a new one along its path, so `snapshot` and `restore` cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from foreshore.errors import UserError

KeyPath = tuple[str, ...]
DEFAULT_TIMESTAMP = 1


class Leaf(NamedTuple):
    """A scalar, list or null, and when it was written (ms)."""

    value: object
    timestamp: int


class Branch(NamedTuple):
    """A map. `children` goes from the compared name to (the name as written, node)."""

    children: dict[str, tuple[str, Node]]
    timestamp: int


Node = Leaf | Branch
EMPTY = Branch({}, 0)


class Change(NamedTuple):
    """One leaf that got another value, or one node that went away. `path` is below the component's configuration."""

    component: str
    path: KeyPath
    removed: bool
    value: object


class Journal(Protocol):
    """Keeps component trees. `save` returns only when they would survive kill -9; None forgets a component."""

    def save(self, trees: Mapping[str, Branch | None], /) -> None: ...


class Snapshot(NamedTuple):
    """All components' trees at one moment, by their names as they compare."""

    trees: dict[str, tuple[str, Branch]]

    def document(self, component: str) -> dict[str, object]:
        """The configuration that a component had; {} when it had none."""
        entry = self.trees.get(component) or self.trees.get(component.lower())
        return plain_map(entry[1]) if entry is not None else {}


Watcher = Callable[[Change], None]


class Configuration:
    """The configuration of every component of one core. Component names compare as keys do."""

    def __init__(
        self,
        *,
        case_sensitive: bool = False,
        journal: Journal | None = None,
        trees: Iterable[tuple[str, Branch]] = (),
    ) -> None:
        self._fold: Callable[[str], str] = str if case_sensitive else str.lower
        self._journal = journal
        self._trees: dict[str, tuple[str, Branch]] = {self._fold(name): (name, tree) for name, tree in trees}
        self._watchers: dict[str, list[tuple[KeyPath, Watcher]]] = {}
        self._all_watchers: list[Watcher] = []

    # reading

    def components(self) -> list[str]:
        """Names of the components that have a configuration, sorted."""
        return sorted(name for name, _ in self._trees.values())

    def __contains__(self, component: str) -> bool:
        return self._fold(component) in self._trees

    def find(self, component: str, path: Sequence[str] = ()) -> Node | None:
        """The node at a path, or None."""
        entry = self._trees.get(self._fold(component))
        if entry is None:
            return None
        node: Node = entry[1]
        for key in path:
            if not isinstance(node, Branch):
                return None
            child = node.children.get(self._fold(key))
            if child is None:
                return None
            node = child[1]
        return node

    def get(self, component: str, path: Sequence[str] = ()) -> object:
        """The plain value at a path (a dict for a map). Raises KeyError when there is none."""
        node = self.find(component, path)
        if node is None:
            raise KeyError((component, *path))
        return plain(node)

    def document(self, component: str) -> dict[str, object]:
        """The whole configuration of a component as a dict; {} when it has none."""
        node = self.find(component)
        return plain_map(node) if isinstance(node, Branch) else {}

    def timestamp(self, component: str, path: Sequence[str] = ()) -> int:
        """When the node last changed, ms; a map's is its newest leaf's. Raises KeyError when there is none."""
        node = self.find(component, path)
        if node is None:
            raise KeyError((component, *path))
        return node.timestamp

    # writing

    def merge(self, component: str, path: Sequence[str], value: object, timestamp: int) -> list[Change]:
        """Merge a value in at a path, leaf by leaf, newer timestamps winning; give what changed, kept and announced."""
        name, tree = self._trees.get(self._fold(component), (component, EMPTY))
        for key in reversed(path):
            value = {key: value}
        if not isinstance(value, Mapping):
            raise UserError("the configuration of a component is a map", code="configuration", where=component)
        changes: list[Change] = []
        tree = self._merged(tree, value, timestamp, name, (), changes)
        self._commit({name: tree}, changes)
        return changes

    def apply(
        self,
        component: str,
        *,
        defaults: Mapping[str, object],
        reset: Sequence[str] = (),
        merge: Mapping[str, object] | None = None,
        timestamp: int,
    ) -> list[Change]:
        """Do a deployment's part for one component: reset, then defaults, then merge. One durable step.

        `reset` holds JSON pointers ("" is everything). Raises UserError on a pointer into a list or without a slash.
        """
        name, tree, changes = self._applied(component, defaults, reset, merge, timestamp)
        self._commit({name: tree}, changes)
        return changes

    def preview(
        self,
        component: str,
        *,
        defaults: Mapping[str, object],
        reset: Sequence[str] = (),
        merge: Mapping[str, object] | None = None,
        timestamp: int,
    ) -> dict[str, object]:
        """What `apply` would leave, as a dict; nothing changes. Raises as `apply`."""
        return plain_map(self._applied(component, defaults, reset, merge, timestamp)[1])

    def remove(self, component: str) -> None:
        """Forget a component. Its watchers hear one removal of the whole."""
        entry = self._trees.get(self._fold(component))
        if entry is not None:
            self._commit({entry[0]: None}, [Change(entry[0], (), True, None)])

    def snapshot(self) -> Snapshot:
        """Everything as it is now, for `restore`."""
        return Snapshot(dict(self._trees))

    def restore(self, snapshot: Snapshot, components: Iterable[str] | None = None) -> list[Change]:
        """Take some components, or all, back to a snapshot in one durable step; give what changed (a rollback)."""
        trees: dict[str, Branch | None] = {}
        changes: list[Change] = []
        everything = self._trees.keys() | snapshot.trees.keys()
        for folded in everything if components is None else {self._fold(name) for name in components} & everything:
            now, then = self._trees.get(folded), snapshot.trees.get(folded)
            if now is not None and then is not None and now[1] is then[1]:
                continue
            name = (then or now or ("",))[0]
            trees[name] = then[1] if then else None
            self._differ(now[1] if now else EMPTY, then[1] if then else EMPTY, name, (), changes)
        self._commit(trees, changes)
        return changes

    def snapshot_of(self, records: Mapping[str, Sequence[object]]) -> Snapshot:
        """A snapshot from what `snapshot_records` gave. Raises ValueError on anything else."""
        trees: dict[str, tuple[str, Branch]] = {}
        for name, record in records.items():
            tree = from_record(record, case_sensitive=self._fold is str)
            if isinstance(tree, Branch):
                trees[self._fold(name)] = (name, tree)
        return Snapshot(trees)

    # watching

    def watch(self, component: str, path: Sequence[str], watcher: Watcher) -> Callable[[], None]:
        """Hear every change at or below a path, also one that removes a node above it. Gives the way to stop."""
        entry = (tuple(self._fold(key) for key in path), watcher)
        entries = self._watchers.setdefault(self._fold(component), [])
        entries.append(entry)

        def stop() -> None:
            if entry in entries:
                entries.remove(entry)

        return stop

    def watch_all(self, watcher: Watcher) -> Callable[[], None]:
        """Hear every change of every component. Gives the way to stop."""
        self._all_watchers.append(watcher)

        def stop() -> None:
            if watcher in self._all_watchers:
                self._all_watchers.remove(watcher)

        return stop

    def _commit(self, trees: Mapping[str, Branch | None], changes: Sequence[Change]) -> None:
        if self._journal is not None:
            changed = {name: tree for name, tree in trees.items() if self._differs(name, tree)}
            if changed:
                self._journal.save(changed)
        for name, tree in trees.items():
            if tree is None:
                self._trees.pop(self._fold(name), None)
            else:
                self._trees[self._fold(name)] = (name, tree)
        for change in changes:
            self._announce(change)

    def _differs(self, name: str, tree: Branch | None) -> bool:
        entry = self._trees.get(self._fold(name))
        return entry is not None if tree is None else entry is None or entry[1] is not tree

    def _announce(self, change: Change) -> None:
        for watcher in list(self._all_watchers):
            watcher(change)
        folded = tuple(self._fold(key) for key in change.path)
        for path, watcher in list(self._watchers.get(self._fold(change.component), ())):
            if folded[: len(path)] == path or (change.removed and path[: len(folded)] == folded):
                watcher(change)

    # trees

    def _merged(
        self,
        branch: Branch,
        value: Mapping[str, object],
        timestamp: int,
        component: str,
        path: KeyPath,
        changes: list[Change],
    ) -> Branch:
        children: dict[str, tuple[str, Node]] | None = None
        for key, new in value.items():
            folded = self._fold(str(key))
            name, old = branch.children.get(folded, (str(key), None))
            node = self._merged_node(old, new, timestamp, component, (*path, name), changes)
            if node is not old:
                if children is None:
                    children = dict(branch.children)
                children[folded] = (name, node)
        if children is None:
            return branch if branch is not EMPTY else Branch({}, timestamp)
        return _branch(children, timestamp)

    def _merged_node(
        self,
        old: Node | None,
        new: object,
        timestamp: int,
        component: str,
        path: KeyPath,
        changes: list[Change],
    ) -> Node:
        if isinstance(new, Mapping):
            if isinstance(old, Leaf):
                if timestamp < old.timestamp:
                    return old
                changes.append(Change(component, path, True, None))
            below = old if isinstance(old, Branch) else EMPTY
            return self._merged(below, new, timestamp, component, path, changes)
        if isinstance(old, Branch):
            if timestamp < old.timestamp:
                return old
            changes.append(Change(component, path, True, None))
        elif old is not None:
            if timestamp < old.timestamp:
                return old
            if _same(old.value, new):
                return old if timestamp == old.timestamp else Leaf(new, timestamp)
        changes.append(Change(component, path, False, new))
        return Leaf(new, timestamp)

    def _applied(
        self,
        component: str,
        defaults: Mapping[str, object],
        reset: Sequence[str],
        merge: Mapping[str, object] | None,
        timestamp: int,
    ) -> tuple[str, Branch, list[Change]]:
        name, before = self._trees.get(self._fold(component), (component, EMPTY))
        tree = before
        for pointer in reset:
            tree = self._reset(tree, split_pointer(pointer), pointer)
        tree = self._with_defaults(tree, defaults)
        if merge:
            tree = self._merged(tree, merge, timestamp, name, (), [])
        changes: list[Change] = []
        self._differ(before, tree, name, (), changes)
        return name, tree, changes

    def _reset(self, branch: Branch, path: KeyPath, pointer: str) -> Branch:
        if not path:
            return EMPTY
        folded = self._fold(path[0])
        entry = branch.children.get(folded)
        if entry is None:
            return branch
        name, node = entry
        children = dict(branch.children)
        if len(path) == 1:
            del children[folded]
        elif isinstance(node, Branch):
            children[folded] = (name, self._reset(node, path[1:], pointer))
        else:
            raise UserError(
                f"reset can't reach {pointer!r}: {name!r} is not a map",
                code="configuration",
                mend="reset the whole list or value",
            )
        return _branch(children, branch.timestamp)

    def _with_defaults(self, branch: Branch, defaults: Mapping[str, object]) -> Branch:
        children = dict(branch.children)
        for key, value in defaults.items():
            folded = self._fold(str(key))
            entry = children.get(folded)
            if entry is None:
                children[folded] = (str(key), self.tree(value, DEFAULT_TIMESTAMP))
            elif isinstance(entry[1], Branch) and isinstance(value, Mapping):
                children[folded] = (entry[0], self._with_defaults(entry[1], value))
        return _branch(children, branch.timestamp or DEFAULT_TIMESTAMP)

    def tree(self, value: object, timestamp: int) -> Node:
        """A plain value as a node, every leaf with the same timestamp."""
        if not isinstance(value, Mapping):
            return Leaf(value, timestamp)
        children = {self._fold(str(key)): (str(key), self.tree(item, timestamp)) for key, item in value.items()}
        return Branch(children, timestamp)

    def _differ(self, old: Node, new: Node, component: str, path: KeyPath, changes: list[Change]) -> None:
        if old is new:
            return
        if isinstance(old, Branch) and isinstance(new, Branch):
            for folded, (name, node) in old.children.items():
                if folded not in new.children:
                    changes.append(Change(component, (*path, name), True, None))
                else:
                    self._differ(node, new.children[folded][1], component, (*path, name), changes)
            for folded, (name, node) in new.children.items():
                if folded not in old.children:
                    _added(node, component, (*path, name), changes)
        elif isinstance(old, Leaf) and isinstance(new, Leaf):
            if not _same(old.value, new.value):
                changes.append(Change(component, path, False, new.value))
        else:
            changes.append(Change(component, path, True, None))
            _added(new, component, path, changes)


def plain(node: Node) -> object:
    """A node as plain JSON values."""
    return plain_map(node) if isinstance(node, Branch) else node.value


def plain_map(branch: Branch) -> dict[str, object]:
    """A map as a dict, names as they were written."""
    return {name: plain(node) for name, node in branch.children.values()}


def split_pointer(pointer: str) -> KeyPath:
    """The keys of a JSON pointer (RFC 6901, section 4). Raises UserError when it does not start with a slash."""
    if pointer == "":
        return ()
    if not pointer.startswith("/"):
        raise UserError(
            f"{pointer!r} is not a JSON pointer", code="configuration", mend=f"write {'/' + pointer!r}, or '' for all"
        )
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in pointer[1:].split("/"))


def to_record(node: Node) -> list[object]:
    """A node as JSON-able lists: [timestamp, value] for a leaf, [timestamp, {name: record}, null] for a map."""
    if isinstance(node, Leaf):
        return [node.timestamp, node.value]
    return [node.timestamp, {name: to_record(child) for name, child in node.children.values()}, None]


def from_record(record: Sequence[object], *, case_sensitive: bool = False) -> Node:
    """Read what `to_record` wrote. Raises ValueError on anything else."""
    if not isinstance(record, list) or len(record) not in (2, 3) or not isinstance(record[0], int):
        raise ValueError("not a configuration record")
    if len(record) == 2:
        return Leaf(record[1], record[0])
    if not isinstance(record[1], dict):
        raise ValueError("not a configuration record")
    children = {
        (name if case_sensitive else name.lower()): (name, from_record(child, case_sensitive=case_sensitive))
        for name, child in record[1].items()
    }
    return Branch(children, record[0])


def snapshot_records(snapshot: Snapshot, components: Collection[str]) -> dict[str, list[object]]:
    """Some components of a snapshot as JSON-able lists."""
    wanted = {name.lower() for name in components}
    return {name: to_record(tree) for name, tree in snapshot.trees.values() if name.lower() in wanted}


def lite_scalars(value: object) -> object:
    """A recipe's YAML value as greengrass-lite keeps it: every scalar is text (as observed)."""
    if isinstance(value, Mapping):
        return {str(key): lite_scalars(item) for key, item in value.items()}
    if isinstance(value, list):
        return [lite_scalars(item) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if value is None or isinstance(value, str) else str(value)


def _branch(children: dict[str, tuple[str, Node]], fallback: int) -> Branch:
    """A map whose timestamp is its newest child's."""
    return Branch(children, max((node.timestamp for _, node in children.values()), default=fallback))


def _same(old: object, new: object) -> bool:
    """Equal as JSON: 1 is not true, and 1 is not 1.0."""
    return type(old) is type(new) and old == new


def _added(node: Node, component: str, path: KeyPath, changes: list[Change]) -> None:
    if isinstance(node, Leaf):
        changes.append(Change(component, path, False, node.value))
        return
    for name, child in node.children.values():
        _added(child, component, (*path, name), changes)
