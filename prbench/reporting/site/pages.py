"""A page of the site from its template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import prbench
from prbench.reporting.page import _json, _slug

if TYPE_CHECKING:
    import jinja2

Link = dict[str, str]
"""`at`, the address from the site's first page, `title` and `kind` of a page."""


def render(template: str, root: str, links: Sequence[Link], **values: Any) -> str:
    """The page of a template, from which `root` leads to the site's folder; `links` are those of its search box."""
    targets = [{**link, "at": root + link["at"]} for link in links]
    return (
        _environment()
        .get_template(template)
        .render(root=root, version=prbench.__version__, links_json=_json(targets), **values)
    )


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("prbench.reporting.site"), jinja2.PackageLoader("prbench.reporting.page")]
    )
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def asset(name: str) -> Markup:
        """A file of the templates' folders as it is."""
        return Markup(loader.get_source(environment, name)[0])

    environment.globals["asset"] = asset
    environment.filters["slug"] = _slug
    return environment
