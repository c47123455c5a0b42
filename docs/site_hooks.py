"""Some pages of the site lie elsewhere in the repository, where everybody looks for them: the README, for one.

mkdocs wants all pages in one directory. So these are added to those in docs/, under the names in `PAGES`, and the links
between them follow. The README is the first page of the site; the list of all pages, docs/index.md, has another name
there. The files of the examples, to which pages link, are in the site as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

#: Each page that has another place in the site than in the repository.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "docs/index.md": "contents.md",
    "examples/README.md": "examples/index.md",
    "examples/json_server/README.md": "examples/json_server.md",
    "examples/isso/README.md": "examples/isso.md",
    "examples/devpi/README.md": "examples/devpi.md",
}

#: What pages link to, besides pages.
EXAMPLES = [path for kind in ("py", "conf") for path in sorted((ROOT / "examples").glob(f"**/*.{kind}"))]

LINK = re.compile(r"\]\((?!https?:)([^)#\s]+\.(?:md|py|conf|png))")


def on_files(files: Files, config: Any) -> Files:
    for file in [file for file in files if f"docs/{file.src_uri}" in PAGES]:
        files.remove(file)
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for path in EXAMPLES:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Have each link lead to where its page is in the site. What has no page stays as it is, and is complained of."""
    uri = page.file.src_uri
    source = next((source for source, name in PAGES.items() if name == uri), f"docs/{uri}")

    def moved(link: re.Match[str]) -> str:
        target = ((ROOT / source).parent / link[1]).resolve()
        if not target.is_relative_to(ROOT):
            return link[0]
        name = target.relative_to(ROOT).as_posix()
        place = PAGES.get(name, name.removeprefix("docs/"))
        return "](" + "../" * uri.count("/") + place

    return LINK.sub(moved, markdown)
