"""Prompt templates: texts with one place for a class name."""

from collections.abc import Sequence

from harness.system.errors import ConfigurationError


def check_templates(templates: Sequence[str], setting: str) -> tuple[str, ...]:
    """The templates, each with its one place for a name.

    Args:
        templates: As a user gave them.
        setting: What the user calls them.

    Raises:
        ConfigurationError: There is none, or one has not exactly one ``{}``.
    """
    if not templates:
        raise ConfigurationError(f"{setting} needs at least one template")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigurationError(f"{setting}: {template!r} needs exactly one {{}} for the name")
    return tuple(templates)
