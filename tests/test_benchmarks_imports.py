"""What may be imported where. import-linter checks what is forbidden; this checks the one list of what alone is allowed."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"planner": {"planner", "pydantic"}, "erecap": {"erecap", "torch", "transformers", "tokenizers", "safetensors", "numpy"}}
_ANSWERING = (Path(f"erecap/answering/{name}.py") for name in ("local", "engine", "formats", "session", "stock", "stock_session"))
KNOW_THE_PLANNER = {Path("erecap/backend.py"), Path("erecap/backend_options.py"), *_ANSWERING}
FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    """Top-level names of the modules that ``path`` imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_nothing_but_what_is_allowed(path):
    name = path.relative_to(ROOT)
    allowed = ALLOWED[name.parts[0]] | ({"planner"} if name in KNOW_THE_PLANNER else set())
    assert set(imported(path)) - set(sys.stdlib_module_names) <= allowed
