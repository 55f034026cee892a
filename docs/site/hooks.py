"""What mkdocs is told beyond mkdocs.yml: generated pages, pages from outside of docs/, links between all of them."""

from pathlib import PurePosixPath
from typing import Any

import generated
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made into the navigation, behind those that mkdocs.yml names."""
    assert config.nav is not None
    sections: dict[str, list[Any]] = {title: pages for entry in config.nav for title, pages in entry.items()}
    made = list(generated.pages())
    sections["Reference"] += [
        "reference/commands.md",
        {"Components": [page for page in made if PurePosixPath(page).parent.name == "reference"][1:]},
        {"Python": [page for page in made if page.startswith("reference/python/")]},
    ]
    plugins = [page for page in generated.copies().values() if page.startswith("plugins/")]
    sections["Examples"] += ["examples.md", {"Plugins": plugins}]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and those that stand elsewhere in the repository."""
    for path, text in generated.pages().items():
        files.append(File.generated(config, path, content=text))
    for source, path in generated.copies().items():
        text = (generated.ROOT / source).read_text(encoding="utf-8")
        shown = generated.relinked(text, source, path) if path.endswith(".md") else text
        files.append(File.generated(config, path, content=shown))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page in docs/ lead to where the site shows what they name."""
    if page.file.generated_by:
        return markdown
    path = page.file.src_uri
    return generated.relinked(markdown, f"docs/{path}", path)
