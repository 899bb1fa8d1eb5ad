"""Which room may open which door: an arrow is an allowed import (see the README of the code)."""

import ast
from functools import cache
from pathlib import Path

import dino_cli

ROOT = Path(dino_cli.__file__).parent
STANDARD_ONLY = {"config", "errors", "progress"}
ALLOWED = {
    "core": {"core"},
    "data": {"core", "data", "runtime"},
    "store": {"core", "store", "runtime"},
    "tasks": {"tasks", "core", "data", "store", "runtime"},
    "cli": {"cli", "tasks"},
    "runtime": {"runtime"},
    "__main__": {"cli"},
    "library": {
        "library",
        "tasks",
        "core",
        "data",
        "store",
        "runtime",
    },  # the commands' work, for Python
    "__init__": {"library"},  # inside a function: `import dino_cli` costs nothing
}
HEAVY = {"torch", "timm", "torchvision", "numpy", "PIL", "cv2", "matplotlib", "safetensors"}


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def statements(node, late=False):
    """Each statement below `node`, and whether it runs later than the import, or never."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.stmt):
            yield inner, late
        if isinstance(inner, ast.stmt | ast.ExceptHandler | ast.match_case):
            function = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            never = isinstance(inner, ast.If) and "TYPE_CHECKING" in ast.unparse(inner.test)
            yield from statements(inner, late or function or never)


@cache
def imports_from(path):
    return [(s, late) for s, late in statements(tree_of(path)) if isinstance(s, ast.ImportFrom)]


@cache
def imports(path):
    """(module, at import time) of every import statement."""
    found = []
    for node, late in statements(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, not late) for alias in node.names]
    for node, late in imports_from(path):
        assert node.level == 0, f"{path}: relative import"
        names = [node.module]
        if node.module == "dino_cli":
            names = [f"dino_cli.{alias.name}" for alias in node.names]
        found += [(name, not late) for name in names]
    return found


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def modules():
    return [p for p in sorted(ROOT.rglob("*.py")) if "_weights" not in p.parts]


def test_imports_follow_the_arrows():
    wrong = []
    for path in modules():
        here = room(path)
        for name, _ in imports(path):
            parts = name.split(".")
            if parts[0] != "dino_cli":
                continue
            target = parts[1] if len(parts) > 1 else "__init__"
            free = STANDARD_ONLY | {"__version__", "__init__"}
            allowed = STANDARD_ONLY if here in STANDARD_ONLY else ALLOWED[here] | free
            if target not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_the_command_line_starts_without_heavy_libraries():
    wrong = []
    for path in modules():
        if room(path) in STANDARD_ONLY | {"cli", "__main__", "__init__"}:
            for name, at_start in imports(path):
                if at_start and name.split(".")[0] in HEAVY:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
                if at_start and name.startswith("dino_cli.tasks"):
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_typer_and_rich_live_in_cli_only():
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        if room(path) != "cli"
        for name, _ in imports(path)
        if name.split(".")[0] in {"typer", "rich", "click"}
    ]
    assert wrong == []


def dotted(path):
    return ".".join(("dino_cli", *path.relative_to(ROOT).with_suffix("").parts))


@cache
def offered(path):
    """Names in `__all__`, None for a module without one."""
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def test_modules_take_of_each_other_only_what_these_offer():
    files = {dotted(path): path for path in modules()}
    files |= {name.removesuffix(".__init__"): path for name, path in files.items()}
    wrong = []
    for path in modules():
        for node, _ in imports_from(path):
            if node.module not in files:
                continue
            names = offered(files[node.module])
            for name in (alias.name for alias in node.names):
                hidden = names is not None and name not in names
                if hidden and f"{node.module}.{name}" not in files and name != "__version__":
                    wrong.append(f"{path.relative_to(ROOT)} takes {name} of {node.module}")
    assert wrong == []


def test_tests_take_no_private_names():
    wrong = [
        f"{path.name} takes {alias.name} of {node.module}"
        for path in sorted(Path(__file__).parent.rglob("*.py"))
        for node, _ in imports_from(path)
        if (node.module or "").startswith("dino_cli.")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert wrong == []


def test_no_module_is_too_long_for_one_noun():
    long = {
        str(p.relative_to(ROOT)): n
        for p in modules()
        if (n := len(p.read_text().splitlines())) > 400
    }
    assert long == {}
