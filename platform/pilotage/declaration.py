"""The base of everything a person declares: frozen, checked when constructed, with errors that name the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pilotage.errors import DeclarationError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
"""A name that is valid as a Dagster asset key, an MLflow model, a lake table and a URL: ``lower_snake_case``."""


Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number. Nothing is above or below NaN, so a bound that is NaN would bound nothing."""


class Declaration(BaseModel):
    """Base class of specs and their parts."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, strict=False)

    if not TYPE_CHECKING:  # A typed __init__ here would hide the fields from the type checker.

        def __init__(self, **data: Any) -> None:
            """Raises ``DeclarationError`` with the field, the value and the fix, for the first thing that is wrong."""
            try:
                super().__init__(**data)
            except ValidationError as error:
                raise _explain(type(self), data, error) from None


def within(title: str) -> str:
    """A title as it stands within a sentence: without its capital, unless it begins with an abbreviation."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def _explain(kind: type[Declaration], data: dict[str, Any], error: ValidationError) -> DeclarationError:
    found = error.errors(include_url=False)
    # A field with its name misspelt is missing too, and the misspelt name says more.
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    field = ".".join(str(part) for part in first["loc"]) or kind.__name__
    label = f"{kind.__name__}({data['name']!r})" if isinstance(data.get("name"), str) else kind.__name__
    value = first["input"]
    match first["type"]:
        case "missing":
            message, fix = f"{label}: {field} is missing.", f"Give {field}."
        case "extra_forbidden":
            known = ", ".join(kind.model_fields)
            message, fix = f"{label}: there is no field {field}.", f"Use one of: {known}."
        case "value_error" if isinstance(first.get("ctx", {}).get("error"), DeclarationProblem):
            problem = first["ctx"]["error"]
            message, fix = f"{label}: {problem}.", problem.fix
        case _:
            message, fix = f"{label}: {field}={value!r} does not fit.", f"{first['msg']}."
    return DeclarationError(message, fix=fix, kind=kind.__name__, field=field)


class DeclarationProblem(ValueError):
    """Raised by a validator of a declaration; becomes the ``DeclarationError`` of the whole."""

    def __init__(self, message: str, *, fix: str) -> None:
        self.fix = fix
        super().__init__(message)
