"""What a deployment does to the configuration of its components: previews, defaults, updates, refusals. No I/O.

A deployment configures its root components only (nucleus, KernelConfigResolver). When it is begun a second time after
the core's death, nothing is reset again, and its values keep their first timestamp: what components wrote since is
newer and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from typing import NamedTuple

from foreshore.errors import UserError
from foreshore.greengrass.components import Profile
from foreshore.greengrass.configuration import DEFAULT_TIMESTAMP, Configuration, Leaf, lite_scalars
from foreshore.greengrass.deployments import ConfigurationUpdate, DeploymentDocument, malformed_resources
from foreshore.greengrass.provided import CLI, DEFAULTS, NUCLEUS, PROVIDED
from foreshore.greengrass.recipe_store import RecipeStore
from foreshore.greengrass.recipes import Recipe


class Moment(NamedTuple):
    """When a deployment's values were written (ms), and whether they are written for a second time."""

    timestamp: int
    again: bool


class DeploymentConfiguration:
    """The configuration of one core, as deployments change it."""

    def __init__(
        self, configuration: Configuration, recipes: RecipeStore, profile: Profile, say: Callable[[str, str], None]
    ) -> None:
        self._configuration = configuration
        self._recipes = recipes
        self._profile = profile
        self._say = say

    def _update_of(self, name: str, document: DeploymentDocument) -> ConfigurationUpdate:
        update = document.updates.get(name)
        return update if update is not None and name in document.components else ConfigurationUpdate()

    def _defaults(self, recipe: Recipe) -> Mapping[str, object]:
        wish = self._configuration.document(NUCLEUS).get("interpolateComponentConfiguration")
        defaults = self._recipes.defaults(recipe, interpolated=wish in (True, "true"))
        if self._profile == "lite":
            as_text = lite_scalars(defaults)
            return as_text if isinstance(as_text, Mapping) else {}
        return defaults

    def preview(self, recipe: Recipe, document: DeploymentDocument, moment: Moment) -> dict[str, object]:
        """What `apply` would leave of a component's configuration."""
        update = self._update_of(recipe.name, document)
        reset = () if moment.again else update.reset
        return self._configuration.preview(
            recipe.name, defaults=self._defaults(recipe), reset=reset, merge=update.merge, timestamp=moment.timestamp
        )

    def apply(
        self,
        recipes: Mapping[str, Recipe],
        document: DeploymentDocument,
        moment: Moment,
        used: Set[str],
        before: Set[str],
    ) -> None:
        """Reset, take defaults and merge, for every component of the deployment. `used` and `before` are the
        components of AWS's that the core stands for: in use now, and until now."""
        for recipe in recipes.values():
            update = self._update_of(recipe.name, document)
            defaults = self._defaults(recipe)
            self._apply_one(recipe.name, defaults, update, moment)
            self._warn_of_kept_defaults(recipe.name, defaults)
        for name in document.updates:
            if name not in document.components and name in recipes:
                self._say("WARN", f"{name} is no root component of the deployment: its configuration update is ignored")
        named = {name for name in document.updates if name in PROVIDED and name not in recipes}
        for name in sorted(used | named):
            update = document.updates.get(name, ConfigurationUpdate())
            self._apply_one(name, DEFAULTS.get(name, {}), update, moment)
        for name in before - used - named - {NUCLEUS, CLI}:
            self._configuration.remove(name)

    def _apply_one(
        self, name: str, defaults: Mapping[str, object], update: ConfigurationUpdate, moment: Moment
    ) -> None:
        reset = () if moment.again else update.reset
        self._configuration.apply(name, defaults=defaults, reset=reset, merge=update.merge, timestamp=moment.timestamp)

    def refuse_policies(self, previews: Mapping[str, Mapping[str, object]]) -> None:
        """On lite, a malformed policy resource fails the deployment. Raises UserError."""
        for name, configuration in previews.items() if self._profile == "lite" else ():
            bad = malformed_resources(configuration)
            if bad:
                raise UserError(
                    f"accessControl of {name} has a malformed resource: {bad[0]!r}",
                    code="bad-policy",
                    mend="write ${?} for a question mark, ${$} for a dollar sign",
                )

    def _warn_of_kept_defaults(self, name: str, defaults: Mapping[str, object]) -> None:
        """Tell of a default that this recipe changed and that is not taken, because an older default is there."""
        for path, value in _leaves(defaults):
            node = self._configuration.find(name, path)
            if isinstance(node, Leaf) and node.timestamp == DEFAULT_TIMESTAMP and node.value != value:
                pointer = "/" + "/".join(key.replace("~", "~0").replace("/", "~1") for key in path)
                text = f"{name}: the recipe's default of {pointer} is now {value!r}, but the core keeps {node.value!r}"
                self._say("WARN", f"{text}, as AWS does; RESET {pointer} to take it")


def _leaves(value: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, child in value.items():
        if isinstance(child, Mapping):
            yield from _leaves(child, (*path, key))
        else:
            yield (*path, key), child
