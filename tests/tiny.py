"""Write tiny notebooks for the tests of reports, studies and the command line, and execute any."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mentorlib.lab.batch.notebook import execute_notebook
from mentorlib.lab.batch.parameters import read_notebook


def notebook(file: Path, parameters: str, *cells: str) -> Path:
    """A notebook with a parameters cell, then ``cells``: code, or markdown where one begins with "#"."""
    node = new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[
            new_markdown_cell("# Tiny\n\nWhat happens?"),
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        ],
    )
    node.cells += [new_markdown_cell(c) if c.startswith("#") else new_code_cell(c) for c in cells]
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(node, file)
    return file


def executed(notebook: Path, output: Path, **parameters: object) -> nbformat.NotebookNode:
    """Run a notebook as ``run_notebook`` does, its kernel on sockets that no other test can pick, without a report."""
    execute_notebook(read_notebook(notebook), output, parameters, print)
    return nbformat.read(output, 4)
