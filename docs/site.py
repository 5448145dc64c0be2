"""Hook of mkdocs: the documents and figures that lie outside docs/ become pages too, where their links expect them."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "experiments/**/*.md", "experiments/**/*.png", "perturb/weights/nano/*.md", "analysis/**/*.md")
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them. README.md is what docs/index.md says already."""
    for pattern in PATTERNS:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if name != "README.md" and files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between documents as they lie in the repository → as they lie on the site; what is no page becomes text."""
    del config
    here = Path(page.file.src_path).parent
    in_docs = (ROOT / "docs" / page.file.src_path).is_file()

    def place(match: re.Match[str]) -> str:
        image, text, link = match.groups()
        target, _, anchor = link.partition("#")
        lies = (ROOT / ("docs" if in_docs else ".") / here / target).resolve().relative_to(ROOT)
        name = lies.relative_to("docs").as_posix() if lies.parts[:1] == ("docs",) else lies.as_posix()
        if name == "README.md":
            name = "index.md"
        if files.get_file_from_path(name) is None:  # code, or a folder: its name is all that a reader of the site needs
            return text
        place = len(here.parts) * "../" + name + (f"#{anchor}" if anchor else "")
        return f"{image}[{text}]({place})"

    return LINK.sub(place, markdown)
