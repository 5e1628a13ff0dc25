"""Which version of which component: dependency resolution, and the order of starting. Pure.

Follows the core device: breadth first from the root components; of the versions at hand the highest that satisfies
every requirement so far; when a choice changes, what it had asked of others is taken back (nucleus,
DependencyResolver). A conflict names every party and what it asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from foreshore.errors import NotEmulated, UserError
from foreshore.greengrass.provided import HINTS
from foreshore.greengrass.recipes import Dependency
from foreshore.greengrass.versions import Range, Version

Available = Mapping[str, Mapping[Version, Mapping[str, Dependency]]]
MAX_STEPS = 10_000


@dataclass(slots=True)
class Resolution:
    """The chosen `versions`, by component; `notes` are for the log (an emulated component of another version)."""

    versions: dict[str, Version] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def resolve(
    roots: Mapping[str, Mapping[str, Range]],
    available: Available,
    provided: Mapping[str, Version],
) -> Resolution:
    """Choose versions for the roots and all they depend on.

    `roots` is {component: {who asks: range}}, `available` every recipe at hand, `provided` the components the core
    itself is (aws.greengrass.Nucleus and its kind), which satisfy any requirement. Raises UserError
    (`component-not-found`, `dependency-conflict`, `dependency-cycle`).
    """
    asked = {name: dict(ranges) for name, ranges in roots.items()}
    chosen: dict[str, Version] = {}
    notes: list[str] = []
    queue = deque(roots)
    for _ in range(MAX_STEPS):
        if not queue:
            break
        name = queue.popleft()
        ranges = asked.get(name, {})
        if name not in available and name in provided:
            notes += _provided_notes(name, provided[name], ranges)
            continue
        version = _choose(name, ranges, available) if ranges else None
        before = chosen.get(name)
        if version == before:
            continue
        if before is not None:
            queue.extend(_take_back(name, available[name][before], asked))
        if version is None:
            del chosen[name]
            continue
        chosen[name] = version
        for dependency, wish in available[name][version].items():
            asked.setdefault(dependency, {})[name] = wish.requirement
            queue.append(dependency)
    else:
        raise UserError(
            "the requirements of these components never settle: " + ", ".join(sorted(chosen)),
            code="dependency-conflict",
            mend="pin one of them to an exact version",
        )
    start_order({name: available[name][version].keys() & chosen.keys() for name, version in chosen.items()})
    return Resolution(chosen, list(dict.fromkeys(notes)))


def _choose(name: str, ranges: Mapping[str, Range], available: Available) -> Version:
    versions = sorted(available.get(name, ()), reverse=True)
    for version in versions:
        if all(wanted.accepts(version) for wanted in ranges.values()):
            return version
    wishes = "; ".join(f"{who} asks {wanted.text or '*'}" for who, wanted in sorted(ranges.items()))
    if not versions and name.startswith("aws.greengrass."):
        raise NotEmulated(f"the component {name} ({wishes})", HINTS.get(name, ""))
    if not versions:
        raise UserError(
            f"there is no recipe of component {name} ({wishes})",
            code="component-not-found",
            mend=f"add a recipe named {name} to the recipes folder, or take the dependency out",
        )
    have = ", ".join(map(str, versions))
    raise UserError(
        f"no version of {name} satisfies all: {wishes}; at hand: {have}",
        code="dependency-conflict",
        mend="change a VersionRequirement, or add a recipe of a version that satisfies all of them",
    )


def _take_back(name: str, wishes: Mapping[str, Dependency], asked: dict[str, dict[str, Range]]) -> list[str]:
    """Withdraw what an abandoned choice had asked; give the components to look at again."""
    for dependency in wishes:
        asked.get(dependency, {}).pop(name, None)
    return list(wishes)


def _provided_notes(name: str, version: Version, ranges: Mapping[str, Range]) -> list[str]:
    return [
        f"{who} asks {name} {wanted.text}; Foreshore emulates {version}"
        for who, wanted in sorted(ranges.items())
        if not wanted.accepts(version)
    ]


def start_order(dependencies: Mapping[str, Iterable[str]]) -> list[str]:
    """Components with those they depend on first, else by name. Raises UserError(`dependency-cycle`)."""
    order: list[str] = []
    done: set[str] = set()
    for root in sorted(dependencies):
        _visit(root, dependencies, done, order)
    return order


def _visit(root: str, dependencies: Mapping[str, Iterable[str]], done: set[str], order: list[str]) -> None:
    """Depth first without recursion; `trail` is the way from the root to where we are."""
    if root in done:
        return
    trail = [root]
    waiting = [sorted(set(dependencies.get(root, ())) & dependencies.keys())]
    while trail:
        if waiting[-1]:
            name = waiting[-1].pop(0)
            if name in trail:
                loop = [*trail[trail.index(name) :], name]
                raise UserError(
                    "these components depend on one another in a circle: " + " -> ".join(loop),
                    code="dependency-cycle",
                    mend="take one of the dependencies out",
                )
            if name not in done:
                trail.append(name)
                waiting.append(sorted(set(dependencies.get(name, ())) & dependencies.keys()))
            continue
        waiting.pop()
        done.add(trail[-1])
        order.append(trail.pop())
