"""Parts that YAML names by their `kind`: a decorator registers a class, and a scenario's schema follows from the register.

A user's own class works in the same place by `{kind: import, path: "package.module:Class", ...its settings}`.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar, Union

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    model_serializer,
)
from pydantic_core.core_schema import SerializerFunctionWrapHandler

from scarcity_ray.core.importing import PATTERN, load_object
from scarcity_ray.core.spec import Spec, SpecError


def class_title(name: str) -> str:
    """A class's name in snake case: `FedProx` is fed_prox."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Part(Spec):
    """A settings class that YAML names by `kind`. A class that is imported needs no `kind` of its own."""

    kind: str = "import"
    _path: str | None = PrivateAttr(None)

    @property
    def kind_title(self) -> str:
        """Its kind; for an imported class the class's name in snake case."""
        return self.kind if self._path is None else class_title(type(self).__name__)

    @model_serializer(mode="wrap")
    def _with_path(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return content if self._path is None else {**content, "kind": "import", "path": self._path}


class _Import(Spec):
    model_config = ConfigDict(extra="allow")


T = TypeVar("T", bound=Part)


class Registry(Generic[T]):
    """The classes of one sort, by kind, in the order of their names.

    sort: what a class is called in messages, as "strategy". base: what every one of them derives from.
    """

    def __init__(self, sort: str, base: type[T]) -> None:
        self.sort, self.base = sort, base
        self._classes: dict[str, type[T]] = {}

    def register(self, cls: type[T]) -> type[T]:
        """The decorator. Raises ValueError where the class has no kind of its own, or another class has it."""
        kind = cls.model_fields["kind"].default
        known = self._classes.get(kind, cls)
        if kind == "import" or known.__qualname__ != cls.__qualname__:
            raise ValueError(f"{cls.__name__} needs a `kind` of its own: {kind} is taken")
        self._classes[kind] = cls
        return cls

    def collect(self, package: str) -> None:
        """Imports every module of a package, so that its classes are registered."""
        found = importlib.import_module(package)
        for module in sorted(pkgutil.iter_modules(found.__path__), key=lambda one: one.name):
            importlib.import_module(f"{package}.{module.name}")

    @property
    def classes(self) -> dict[str, type[T]]:
        """Kind to class, by rising kind."""
        return dict(sorted(self._classes.items()))

    def find(self, settings: Mapping[str, Any]) -> type[T] | None:
        """The class that plain settings mean; None where there is none, or it cannot be imported."""
        if settings.get("kind") != "import":
            return self._classes.get(str(settings.get("kind")))
        try:
            return self._imported(str(settings.get("path")))
        except SpecError:
            return None

    def annotation(self) -> Any:
        """The type of a field that takes any of them, for pydantic: by `kind`, or a user's own class by its import path."""
        imported: Any = Annotated[self._import_settings(), AfterValidator(self._load)]
        members: Any = (*self.classes.values(), imported)
        chosen: Any = Annotated[Union[members], Field(discriminator="kind")] if len(members) > 1 else imported  # noqa: UP007 - a tuple
        serialized: Any = SerializeAsAny  # an imported class is no member of the union
        return serialized[Annotated[chosen, WrapValidator(self._or_made)]]

    def _or_made(self, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        """In Python an instance of a user's own class may be given as it is."""
        return value if isinstance(value, self.base) else validate(value)

    def _import_settings(self) -> type[BaseModel]:
        path = Annotated[str, Field(pattern=PATTERN, description="package.module:Class; its other settings stand beside")]
        fields: dict[str, Any] = {"kind": (Literal["import"], "import"), "path": (path, ...)}
        words = f"A {self.sort} of the user's own: a class in a module that can be imported, and its settings."
        return create_model(f"Import{self.base.__name__}", __base__=_Import, __doc__=words, **fields)

    def _load(self, settings: Any) -> T:
        cls = self._imported(settings.path)
        try:
            made = cls.model_validate_json(json.dumps(settings.model_extra))  # strict models take lists for tuples from JSON alone
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise SpecError(first["loc"] or ("path",), first.get("input"), f"{settings.path}: {first['msg']}") from error
        made._path = settings.path
        return made

    def _imported(self, path: str) -> type[T]:
        found = load_object(path, ("path",))
        if not (isinstance(found, type) and issubclass(found, self.base)):
            name = f"{self.base.__module__}.{self.base.__name__}"
            raise SpecError(("path",), path, f"that is no {self.sort}: give a class that derives from {name}")
        return found
