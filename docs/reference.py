"""Write the API reference, from the docstrings, into docs/api: ``make docs``."""

import pkgutil
import warnings
from pathlib import Path

import pdoc

import mentorlib

PAGES = Path(__file__).parent / "api"


def main(pages: Path = PAGES) -> None:
    """The public names come first, on the package's page; each module has a page of its own."""
    for name in mentorlib.__all__:  # pdoc reads the module's dict, where names loaded on first use are not yet
        setattr(mentorlib, name, getattr(mentorlib, name))
    mentorlib.__all__ += [module.name for module in pkgutil.iter_modules(mentorlib.__path__) if module.name[0] != "_"]
    pdoc.render.configure(docformat="google", footer_text="mentorlib")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Error parsing type annotation")  # of jupyter_client's
        pdoc.pdoc("mentorlib", output_directory=pages)
    print(f"API reference: {pages / 'index.html'}")


if __name__ == "__main__":
    main()
