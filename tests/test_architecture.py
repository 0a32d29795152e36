"""docs/ARCHITECTURE.md says who may import whom; the code keeps to it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
PACKAGES = ("trainer", "bot", "sandbox")
SEAM = {"errors", "config", "connections", "fetch", "images", "serving"}
ROW = re.compile(r"^\| (?P<name>[^|]+) \| [^|]+ \| (?P<imports>[^|]+) \|$", re.MULTILINE)


def section(package: str) -> str:
    """The part of the document about one package."""
    return re.split(r"^## ", DOC.split(f"\n## {package}/", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def plan(package: str) -> dict[str, set[str]]:
    """Module -> the modules it may import, as "trainer.fetch" or "bot.client", read off the document's table."""
    allowed: dict[str, set[str]] = {}
    for row in ROW.finditer(section(package)):
        names = re.findall(r"([a-z_]+)(?:\.py|/|`\.py)", row["name"].replace("`__main__`", "__main__"))
        if not names:
            continue
        words = row["imports"].strip()
        if words == "nothing":
            imports = set()
        elif words == "all of the above":
            imports = set(allowed) | {name for names_ in allowed.values() for name in names_}
        else:
            imports = {word if "." in word else f"{package}.{word}" for word in re.findall(r"[a-z_.]+", words)}
        for name in names:
            allowed[f"{package}.{name}"] = imports
    return allowed


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Every module of a package, those of an inner package under that package's name."""
    for path in sorted((ROOT / package).rglob("*.py")):
        inner = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if inner != "__init__":
            yield f"{package}.{inner}", path


def imports_of(path: Path) -> set[str]:
    """What a file imports of ours, two names deep, wherever in the file the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = node.module in PACKAGES  # "from trainer import images" imports trainer.images
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if inside else {node.module}
    ours = {".".join(name.split(".")[:2]) for name in found if name.split(".")[0] in PACKAGES}
    return {name for name in ours if not name.endswith(".__version__")}


@pytest.mark.parametrize("package", ["trainer", "bot"])
def test_every_module_stands_in_the_document_and_none_else(package: str) -> None:
    assert {name for name, _ in modules(package)} == set(plan(package))


@pytest.mark.parametrize("package", ["trainer", "bot"])
def test_a_module_imports_only_what_the_document_allows(package: str) -> None:
    allowed = plan(package)
    broken = {
        f"{path.relative_to(ROOT)} imports {name}"
        for module, path in modules(package)
        for name in imports_of(path) - allowed.get(module, set()) - {module}
    }
    assert not broken


def test_the_bot_sees_only_the_seam_of_the_trainer() -> None:
    seen = {name for _, path in modules("bot") for name in imports_of(path) if name.startswith("trainer.")}
    assert seen <= {f"trainer.{name}" for name in SEAM}


def test_the_trainer_knows_neither_bot_nor_sandbox() -> None:
    seen = {name.split(".")[0] for _, path in modules("trainer") for name in imports_of(path)}
    assert seen <= {"trainer"}


def test_the_sandbox_knows_neither_bot_nor_trainer() -> None:
    seen = {name.split(".")[0] for _, path in modules("sandbox") for name in imports_of(path)}
    assert seen <= {"sandbox"}
