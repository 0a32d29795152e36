"""The imports between folders are those drawn in docs/ARCHITECTURE.md, and no others."""

import ast
import graphlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
PACKAGES = ("trainer", "bot", "sandbox")
ARROW = re.compile(r"^ +(\w+)((?: & \w+)*) --> (\w+)((?: & \w+)*)$", re.MULTILINE)
# Modules beside the folders that build and start the others; all other modules there import no folder.
TOP = {"bot.__main__", "bot.app", "bot.check", "trainer.__main__"}
SEAM = {
    "trainer.errors",
    "trainer.config",
    "trainer.web.connections",
    "trainer.web.fetch",
    "trainer.web.local_server",
    "trainer.web.sockets",
    "trainer.confinement",
    "trainer.quoting",
    "trainer.photos.contributions",
    "trainer.photos.decode",
    "trainer.photos.figure",
    "trainer.photos.images",
    "trainer.photos.views",
    "trainer.registry.serving",
    "trainer.review_state",
}
# Library -> the folders that may import it, within the package given first.
KNOWN_ONLY_TO = {
    ("bot", "mastodon"): {"bot.instance"},
    ("bot", "websockets"): {"bot.instance"},
    ("bot", "sqlite3"): {"bot.storage"},
    ("bot", "apscheduler"): {"bot.admin"},
    ("bot", "keras"): set(),
    ("bot", "tensorflow"): set(),
    ("bot", "openvino"): set(),
    ("bot", "minisign"): set(),
    ("trainer", "mastodon"): set(),
    ("trainer", "sqlite3"): {"trainer.photos"},
    ("trainer", "keras"): {"trainer.vgg16", "trainer.head"},
    ("trainer", "tensorflow"): {"trainer.vgg16"},
    ("trainer", "minisign"): {"trainer.registry"},
    ("trainer", "openvino"): {"trainer.vgg16"},
    ("trainer", "nncf"): {"trainer.vgg16"},
    ("trainer", "requests"): {"trainer.web"},
    ("trainer", "threadpoolctl"): {"trainer.head", "trainer.review", "trainer.training"},
    ("bot", "cv2"): set(),
    ("trainer", "cv2"): {"trainer.photos"},
    ("bot", "ray"): set(),
    ("trainer", "ray"): {"trainer.vgg16"},
    ("bot", "pyarrow"): set(),
    ("trainer", "pyarrow"): {"trainer.bucket"},
}
LONGEST_MODULE = 400
MEDIAN_LENGTH = (80, 220)


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of a package."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imported(path: Path) -> Iterator[str]:
    """The dotted name of everything a file imports, anywhere in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # "from trainer.photos import images" may import a module, so the full name is needed.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "import_module"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def our_imports(path: Path) -> set[str]:
    """This project's modules that a file imports, by full name."""
    known = [name for package in PACKAGES for name in modules(package)]
    found = set()
    for name in imported(path):
        candidates = [module for module in known if name == module or name.startswith(f"{module}.")]
        found |= {max(candidates, key=len)} if candidates else set()
    return found - {"trainer"}  # its version


def folder(module: str) -> str | None:
    """bot.photos for bot.photos.decode; None for a module beside the folders."""
    package, name, *_ = [*module.split("."), ""]
    return f"{package}.{name}" if (ROOT / package / name).is_dir() and name else None


def drawn(package: str) -> set[tuple[str, str]]:
    """The arrows between folders in the document's drawing of a package."""
    drawing = re.search(rf"## {package}/.*?```mermaid\n(.*?)```", DOC, re.DOTALL)
    assert drawing is not None
    return {
        (f"{package}.{caller}", f"{package}.{callee}")
        for callers, more_callers, callees, more_callees in ARROW.findall(drawing[1])
        for caller in re.findall(r"\w+", callers + more_callers)
        for callee in re.findall(r"\w+", callees + more_callees)
    }


def arrows(package: str) -> dict[tuple[str, str], set[str]]:
    """(importing folder, imported folder) of a package -> the imports between them."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for module, path in modules(package).items():
        for name in our_imports(path):
            caller, callee = folder(module), folder(name)
            if caller and callee and caller != callee and name.startswith(f"{package}."):
                found[caller, callee].add(f"{module} imports {name}")
    return found


@pytest.mark.parametrize("package", ["trainer", "bot"])
def test_the_folders_call_each_other_as_drawn(package: str) -> None:
    found = arrows(package)
    assert {arrow: found[arrow] for arrow in found.keys() - drawn(package)} == {}
    assert drawn(package) - found.keys() == set()  # and no drawn arrow is missing in the code


@pytest.mark.parametrize("package", ["trainer", "bot"])
def test_the_document_lists_every_folder_with_its_docstring(package: str) -> None:
    for name, path in modules(package).items():
        if path.name == "__init__.py" and name != package:
            says = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert f"| `{'/'.join(name.split('.')[1:])}/` | {says} |" in DOC or name.count(".") > 1


@pytest.mark.parametrize("package", ["trainer", "bot"])
def test_neither_folders_nor_modules_import_in_a_circle(package: str) -> None:
    between: defaultdict[str, set[str]] = defaultdict(set)
    for caller, callee in arrows(package):
        between[caller].add(callee)
    graphlib.TopologicalSorter(between).prepare()  # raises CycleError
    graphlib.TopologicalSorter({name: our_imports(path) - {name} for name, path in modules(package).items()}).prepare()


@pytest.mark.parametrize("package", ["trainer", "bot"])
def test_modules_beside_the_folders_import_no_folder_unless_they_build_the_program(package: str) -> None:
    beside = {name: path for name, path in modules(package).items() if folder(name) is None and name not in TOP}
    broken = {f"{name} imports {each}" for name, path in beside.items() for each in our_imports(path) if folder(each)}
    assert broken == set()


@pytest.mark.parametrize("package", ["trainer", "bot"])
def test_only_the_starting_modules_import_those_that_build_the_program(package: str) -> None:
    builders = {name for name in TOP if name.startswith(package)}
    broken = {
        f"{name} imports {each}"
        for name, path in modules(package).items()
        for each in our_imports(path) & builders
        if name not in TOP
    }
    assert broken == set()


def test_the_bot_sees_only_the_seam_of_the_trainer() -> None:
    seen = {name for path in modules("bot").values() for name in our_imports(path) if name.startswith("trainer")}
    assert seen == SEAM


def test_the_trainer_imports_neither_bot_nor_sandbox() -> None:
    assert {name.split(".")[0] for path in modules("trainer").values() for name in our_imports(path)} == {"trainer"}


def test_the_sandbox_imports_neither_bot_nor_trainer() -> None:
    assert {name.split(".")[0] for path in modules("sandbox").values() for name in our_imports(path)} == {"sandbox"}


@pytest.mark.parametrize(("package", "library"), KNOWN_ONLY_TO)
def test_a_library_is_imported_only_where_it_belongs(package: str, library: str) -> None:
    knowing = {
        folder(module) or module
        for module, path in modules(package).items()
        for name in imported(path)
        if name.split(".")[0] == library
    }
    assert knowing <= KNOWN_ONLY_TO[package, library]


@pytest.mark.parametrize(("library", "knowing"), [("ray", "vgg16.engines.ray"), ("cv2", "photos.figure")])
def test_one_module_knows_a_library_that_may_be_missing(library: str, knowing: str) -> None:
    found = {
        module
        for module, path in modules("trainer").items()
        for name in imported(path)
        if name.split(".")[0] == library
    }
    assert found == {f"trainer.{knowing}"}


@pytest.mark.parametrize("package", ["trainer", "bot"])
def test_a_packages_init_exports_nothing(package: str) -> None:
    """A folder's `__init__` has only a docstring; `trainer` also has the version."""
    for name, path in modules(package).items():
        if path.name == "__init__.py" and name != "trainer":
            assert len(ast.parse(path.read_text(encoding="utf-8")).body) == 1, f"{name} holds more than its docstring"


@pytest.mark.parametrize("package", ["trainer", "bot"])
def test_strangers_files_are_decoded_in_confined_processes_alone(package: str) -> None:
    decoding = {"load_rgb", "prepare", "thumbnail", "measure", "find_figures"}
    found = {
        module
        for module, path in modules(package).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "trainer.photos.images"
            and decoding & {alias.name for alias in node.names}
        )
        or (isinstance(node, ast.Attribute) and ast.unparse(node.value) == "images" and node.attr in decoding)
        or (isinstance(node, ast.Attribute) and ast.unparse(node) == "Image.open")
    }
    assert found <= {"trainer.photos.images", "trainer.photos.decode_child"}


def test_modules_are_short_enough_to_read() -> None:
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for package in ("trainer", "bot", "sandbox", "benchmarks")
        for name, path in modules(package).items()
        if path.name != "__init__.py"
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_MODULE} == {}
    assert MEDIAN_LENGTH[0] <= sorted(lengths.values())[len(lengths) // 2] <= MEDIAN_LENGTH[1]
