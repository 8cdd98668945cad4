"""Prompt templates: texts with one ``{}`` for a class name."""

from collections.abc import Sequence

from harness.system.errors import ConfigurationError


def check_templates(templates: Sequence[str], setting: str) -> tuple[str, ...]:
    """Check that every template has exactly one ``{}``.

    Args:
        templates: The templates of a configuration.
        setting: The name of the setting, for the message.

    Returns:
        The templates, unchanged.

    Raises:
        ConfigurationError: There is no template, or one does not have exactly one ``{}``.
    """
    if not templates:
        raise ConfigurationError(f"{setting} needs at least one template")
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigurationError(f"{setting}: {template!r} needs exactly one {{}} for the name")
    return tuple(templates)
