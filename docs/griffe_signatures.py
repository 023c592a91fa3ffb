"""Extension of griffe, which reads the docstrings: signatures as they are written.

Shapes in annotations, such as "n *shape", are no forward references, so strings stay strings. The fields of a
named tuple are its signature, as those of a dataclass are; they come again only where they have docstrings.
What docstrings say of fields is of the arguments then, and "x, y: ..." is of x and of y.
"""

import ast
import re
from typing import Any

from griffe import (
    Attribute,
    Class,
    Extension,
    Function,
    Module,
    Parameter,
    ParameterKind,
    Parameters,
    get_expression,
)

_FIELDS = re.compile(r"^(Fields|Attributes):$", flags=re.MULTILINE)
_SEVERAL = re.compile(r"^    (\w+(?:, \w+)+)(: .*(?:\n     +.*)*)", flags=re.MULTILINE)


class SignaturesAsWritten(Extension):
    """To be loaded after griffe's own extension for dataclasses."""

    def on_function_instance(self, *, node: Any, func: Function, **kwargs: Any) -> None:
        """Reads the annotations again."""
        given = node.args
        for argument in (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg):
            if argument is not None and argument.annotation is not None:
                func.parameters[argument.arg].annotation = as_written(argument.annotation, func.parent)
        if node.returns is not None:
            func.returns = as_written(node.returns, func.parent)

    def on_attribute_instance(self, *, node: Any, attr: Attribute, **kwargs: Any) -> None:
        """Reads the annotation again."""
        if isinstance(node, ast.AnnAssign):
            attr.annotation = as_written(node.annotation, attr.parent)

    def on_class_members(self, *, cls: Class, **kwargs: Any) -> None:
        """Gives a named tuple the signature that it has."""
        if not any(getattr(base, "canonical_path", base) == "typing.NamedTuple" for base in cls.bases):
            return
        kind = ParameterKind.positional_or_keyword
        fields = [
            Parameter(field.name, annotation=field.annotation, kind=kind, default=field.value)
            for field in cls.attributes.values()
            if field.annotation is not None and "property" not in field.labels
        ]
        itself = Parameter("self", annotation=None, kind=kind, default=None)
        cls.set_member("__init__", Function("__init__", parameters=Parameters(itself, *fields), parent=cls))

    def on_package(self, *, pkg: Module, **kwargs: Any) -> None:
        """Leaves out the fields that signatures have, and tells of each argument."""
        leave_out_fields(pkg)
        one_by_one(pkg)


def as_written(annotation: ast.expr, parent: Any) -> Any:
    """The annotation with its strings, names in it resolved where the object stands."""
    return get_expression(annotation, parent=parent, parse_strings=False)


def leave_out_fields(scope: Module | Class) -> None:
    """Takes fields without a docstring from all dataclasses and named tuples in here."""
    for member in list(scope.members.values()):
        if member.is_alias or not (member.is_module or member.is_class):
            continue
        init = member.members.get("__init__") if member.is_class else None
        if init is not None and not init.is_alias and init.is_function:
            for parameter in init.parameters:
                field = member.members.get(parameter.name)
                if field is not None and field.is_attribute and not field.has_docstring:
                    member.del_member(parameter.name)
        leave_out_fields(member)


def one_by_one(scope: Module | Class) -> None:
    """Rewrites the docstrings in here so that each argument has a line, and its type with it."""
    for member in scope.members.values():
        if member.is_alias:
            continue
        if member.docstring is not None and (member.is_class or member.is_function):
            text = _FIELDS.sub("Args:", member.docstring.value) if member.is_class else member.docstring.value
            member.docstring.value = _SEVERAL.sub(_repeat, text)
        if member.is_module or member.is_class:
            one_by_one(member)


def _repeat(said: re.Match[str]) -> str:
    """What is said of several arguments, said of each."""
    return "\n".join(f"    {name}{said[2]}" for name in said[1].split(", "))
