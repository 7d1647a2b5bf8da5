"""The generated tables of docs/cuda.md: each between `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
import os

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/cuda.md")


def text(header, rows):
    lines = [header, ["---"] * len(header)] + rows
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def split(document, name):
    before, rest = document.split(f"<!-- {name}: begin -->\n")
    table, after = rest.split(f"<!-- {name}: end -->")
    return before, table, after


def read(document, name):
    """Rows as dictionaries by the header."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in split(document, name)[1].strip().splitlines()]
    return [dict(zip(lines[0], line)) for line in lines[2:]]


def write(name, table):
    with open(DOCS) as file:
        before, _, after = split(file.read(), name)
    with open(DOCS, "w") as file:
        file.write(f"{before}<!-- {name}: begin -->\n{table}\n<!-- {name}: end -->{after}")
