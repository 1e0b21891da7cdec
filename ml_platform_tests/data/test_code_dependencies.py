"""The digest of code covers exactly what an entry point depends on, and nothing that does not change what it does."""

import importlib
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_platform.data.code_dependencies import code_dependencies, code_digest, imported_modules
from ml_platform_tests.conftest import Importable

ENTRY = "domain.views:view"
Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, importable: Importable) -> Write:
    """A function that writes modules of the packages `domain` and `other`: `write(views="…", lib__rates="…")`.

    Two underscores separate packages, and the module `init` is the package itself.
    """
    importable(tmp_path, "domain", "other")

    def write(package: str = "domain", **modules: str) -> None:
        for name, source in {"init": None, **modules}.items():
            *folders, module = name.split("__")
            path = tmp_path.joinpath(package, *folders, "__init__.py" if module == "init" else f"{module}.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.relative_to(tmp_path).parents[:-1]:
                (tmp_path / folder / "__init__.py").touch()
            if source is not None:
                path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    return write


@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("from .rates import RATE", id="relative module"),
        pytest.param("from . import rates\nRATE = rates.RATE", id="module from a relative package"),
        pytest.param("from domain.rates import RATE", id="absolute"),
        pytest.param("import domain.rates\nRATE = domain.rates.RATE", id="dotted module"),
        pytest.param("import domain.rates as r\nRATE = r.RATE", id="module under another name"),
        pytest.param("from domain import rates\nRATE = rates.RATE", id="module from a package"),
        pytest.param("from domain.rates import *", id="star"),
        pytest.param("try:\n    from .rates import RATE\nexcept ImportError:\n    RATE = 0", id="in try"),
        pytest.param("import sys\nif sys.maxsize:\n    from .rates import RATE", id="in if"),
        pytest.param("import importlib\nRATE = importlib.import_module('domain.rates').RATE", id="import_module"),
        pytest.param(
            "import importlib\nRATE = importlib.import_module('.rates', __package__).RATE", id="relative import_module"
        ),
    ],
)
def test_imported_module_counts_however_it_is_imported(write: Write, imports: str) -> None:
    write(views=f"{imports}\ndef view(s):\n    return RATE\n", rates="RATE = 3\n")
    before = code_digest([ENTRY])
    write(rates="RATE = 4\n")
    assert code_digest([ENTRY]) != before


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("from .rates import RATE\n    return RATE", id="relative"),
        pytest.param("from . import rates\n    return rates.RATE", id="relative module"),
        pytest.param("import domain.rates\n    return domain.rates.RATE", id="absolute"),
        pytest.param("import domain.rates as r\n    return (lambda: [r.RATE for _ in s])()", id="used in a lambda"),
        pytest.param(
            "from importlib import import_module\n    return import_module('domain.rates')", id="import_module"
        ),
        pytest.param("return load_function('domain.rates:rate')()", id="named in a string"),
    ],
)
def test_import_inside_a_function_counts(write: Write, body: str) -> None:
    write(views=f"def view(s):\n    {body}\n", rates="RATE = 3\ndef rate():\n    return RATE\n")
    before = code_digest([ENTRY])
    write(rates="RATE = 4\ndef rate():\n    return RATE\n")
    assert code_digest([ENTRY]) != before


def test_relative_import_of_a_parent_package_counts(write: Write) -> None:
    write(
        lib__deep__views="from ...rates import RATE\nfrom ..steps import STEP\ndef view(s):\n    return RATE * STEP\n"
    )
    write(rates="RATE = 3\n", lib__steps="STEP = 1\n")
    digests = [code_digest(["domain.lib.deep.views:view"])]
    write(rates="RATE = 4\n")
    digests.append(code_digest(["domain.lib.deep.views:view"]))
    write(lib__steps="STEP = 2\n")
    digests.append(code_digest(["domain.lib.deep.views:view"]))
    assert len(set(digests)) == 3


USES = {
    "helper at depth 3": ("from .a import first\ndef view(s):\n    return first(s)", "third"),
    "decorator": ("from .a import first\n@first\ndef view(s):\n    return s", "third"),
    "default argument": ("from .a import first\ndef view(s, rate=first(1)):\n    return s * rate", "third"),
    "module constant": ("from .a import first\nRATES = [first(1)]\ndef view(s):\n    return RATES", "third"),
    "constant changed later": (
        "from .a import first\nRATES = {}\nRATES['x'] = first\ndef view(s):\n    return RATES",
        "third",
    ),
    "constant extended by a call": (
        "from .a import first\nRATES = []\nRATES.append(first)\ndef view(s):\n    return RATES",
        "third",
    ),
    "class attribute": (
        "from .a import first\nclass Rates:\n    LOW = first(1)\ndef view(s):\n    return Rates.LOW",
        "third",
    ),
    "base class": (
        "from .a import Base\nclass Rates(Base):\n    pass\ndef view(s):\n    return Rates().rate()",
        "third",
    ),
    "method of another module": ("from .a import Base\ndef view(s):\n    return Base().rate()", "third"),
    "re-export": ("from .lib import exported\ndef view(s):\n    return exported(s)", "third"),
    "re-export of a module": ("from .lib import inner\ndef view(s):\n    return inner.third(s)", "third"),
    "annotation": ("from .a import Base\ndef view(s: Base):\n    return s.rate()", "third"),
    "nested function": (
        "from .a import first\ndef view(s):\n    def inner():\n        return first(s)\n    return inner()",
        "third",
    ),
    "comprehension": ("from .a import first\ndef view(s):\n    return [first(each) for each in s]", "third"),
    "global of a setter": (
        "from .a import first\nX = 0\ndef fill():\n    global X\n    X = first(1)\ndef view(s):\n    return X",
        "third",
    ),
    "module as an argument": ("from . import c\ndef view(s):\n    return getattr(c, s)()", "third"),
    "names by globals()": ("from .c import third\ndef view(s):\n    return globals()[s]()", "third"),
    "registered on import": ("from . import a, registered\ndef view(s):\n    return a.TABLE[s]()", "register"),
    "call on import": ("from . import side_effect\ndef view(s):\n    return s", "third"),
    "import of a package with code": ("from .lib import exported\ndef view(s):\n    return s", "configure"),
    "branch": (
        "from .a import first\nif __debug__:\n    f = first\nelse:\n    f = abs\ndef view(s):\n    return f(s)",
        "third",
    ),
}
MODULES = {
    "a": """
        from .b import second
        TABLE = {}
        def first(s): return second(s)
        def add(function): TABLE['f'] = function; return function
        class Base:
            def rate(self): return second(1)
        """,
    "b": "from . import c\ndef second(s): return c.third(s)\n",
    "c": "def third(s):\n    return s + 1\n",
    "lib__inner": "from ..c import third\n",
    "lib__init": (
        "from . import inner\nfrom ..b import second as exported\nfrom ..setup import configure\nconfigure(1)\n"
    ),
    "setup": "def configure(s):\n    return 1\n",
    "registered": "from .a import add\n@add\ndef register(s):\n    return 1\n",
    "side_effect": "from .c import third\nthird(1)\n",
}
CHANGED = {
    "third": {"c": "def third(s):\n    return s + 2\n"},
    "register": {"registered": "from .a import add\n@add\ndef register(s):\n    return 2\n"},
    "configure": {"setup": "def configure(s):\n    return 2\n"},
}


@pytest.mark.parametrize(("source", "changed"), USES.values(), ids=USES)
def test_changed_helper_changes_the_digest_however_it_is_used(write: Write, source: str, changed: str) -> None:
    write(**MODULES, views=f"{source}\n")
    before = code_digest([ENTRY])
    write(**CHANGED[changed])
    assert code_digest([ENTRY]) != before


@pytest.mark.parametrize(
    ("module", "source"),
    [
        pytest.param(
            "views", "from .c import third\ndef view(s):\n    return third(s)\ndef other(s):\n    return 2\n", id="own"
        ),
        pytest.param(
            "c", "def third(s):\n    return s + 1\ndef other(s):\n    return 2\nX = other(1)\n", id="imported"
        ),
        pytest.param("unused", "def view(s):\n    return 2\n", id="module"),
        pytest.param("c", "def third(s):\n    return s + 1\nother = 3\n", id="constant"),
    ],
)
def test_code_that_an_entry_point_does_not_use_leaves_its_digest(write: Write, module: str, source: str) -> None:
    write(
        views="from .c import third\ndef view(s):\n    return third(s)\ndef other(s):\n    return 1\n",
        c="def third(s):\n    return s + 1\ndef other(s):\n    return 1\n",
        unused="def view(s):\n    return 1\n",
    )
    before = code_digest([ENTRY])
    write(**{module: source})
    assert code_digest([ENTRY]) == before


def test_local_name_is_not_the_function_of_the_same_name(write: Write) -> None:
    source = (
        "def origin(s):\n    return {}\n\n"
        "def view(s, carrier=1):\n    origin = s + carrier\n    return [origin for system in s]\n"
    )
    write(views=source.format(1))
    before = code_digest([ENTRY])
    write(views=source.format(2))
    assert code_digest([ENTRY]) == before


def test_first_iterable_of_a_comprehension_is_outside_its_scope(write: Write) -> None:
    write(views="from .c import rows\ndef view(s):\n    return [rows for rows in rows]\n", c="rows = [1]\n")
    before = code_digest([ENTRY])
    write(c="rows = [2]\n")
    assert code_digest([ENTRY]) != before


@pytest.mark.parametrize(
    "source",
    [
        "if TYPE_CHECKING:\n    from .c import third",
        "if typing.TYPE_CHECKING:\n    from .c import third",
        "if not TYPE_CHECKING:\n    third = object\nelse:\n    from .c import third",
    ],
)
def test_import_for_type_checkers_only_does_not_count(write: Write, source: str) -> None:
    view = "import typing\nfrom typing import TYPE_CHECKING\n{}\ndef view(s: 'third'):\n    return s\n"
    write(views=view.format(source), c="third = 1\n")
    before = code_digest([ENTRY])
    write(c="third = 2\n")
    assert code_digest([ENTRY]) == before
    assert "domain.c" not in imported_modules("domain.views", inside_functions=True, in_strings=True)


def test_changed_import_of_a_library_changes_the_digest(write: Write) -> None:
    write(views="from statistics import mean as middle\ndef view(s):\n    return middle(s)\n")
    before = code_digest([ENTRY])
    write(views="from statistics import median as middle\ndef view(s):\n    return middle(s)\n")
    assert code_digest([ENTRY]) != before


def test_code_of_another_package_of_the_project_counts(write: Write) -> None:
    write(views="from other.rates import RATE\ndef view(s):\n    return RATE\n")
    write("other", rates="RATE = 3\n")
    before = code_digest([ENTRY])
    write("other", rates="RATE = 4\n")
    assert code_digest([ENTRY]) != before


def test_circle_of_imports_ends(write: Write) -> None:
    write(
        views="from .c import third\nRATE = 1\ndef view(s):\n    return third(s)\n",
        c="from . import views\nfrom .views import *\ndef third(s):\n    return views.RATE + NOWHERE\n",
    )
    before = code_digest([ENTRY])
    write(views="from .c import third\nRATE = 2\ndef view(s):\n    return third(s)\n")
    assert code_digest([ENTRY]) != before


def test_left_out_definition_and_the_code_that_only_it_uses_do_not_count(write: Write) -> None:
    write(
        views="from .c import TABLE, third\ndef view(s):\n    return TABLE[s], third\n",
        c="TABLE = {'other': 'domain.d:fourth'}\ndef third(s):\n    return 1\n",
        d="def fourth(s):\n    return 1\n",
    )
    parts = code_dependencies([ENTRY], leave_out=["domain.c:TABLE"])
    assert {"domain.views:view", "domain.c:third"} <= set(parts)
    assert not {"domain.c:TABLE", "domain.d:fourth"} & set(parts)
    assert {"domain.c:TABLE", "domain.d:fourth"} <= set(code_dependencies([ENTRY]))


def test_module_as_entry_point_counts_as_a_whole(write: Write) -> None:
    write(views="def view(s):\n    return 1\ndef other(s):\n    return 1\n")
    before = code_digest(["domain.views"])
    write(views="def view(s):\n    return 1\ndef other(s):\n    return 2\n")
    assert code_digest(["domain.views"]) != before


def test_no_module_of_the_entry_point_is_imported(write: Write) -> None:
    write(views="from .c import third\ndef view(s):\n    return third(s)\n", c="raise ValueError('imported')\n")
    write(init="raise ValueError('imported')\n")
    assert "domain.views:view" in code_dependencies([ENTRY])
    assert "domain" not in sys.modules


SOURCE = """
{0}
import functools
{1}
RATE = 3
{2}


class Rates:
    {3}
    LOW = 1
    {3}

    def low(self, factor=(1)):
        {4}
        return self.LOW * factor


@functools.cache
def view(s):
    {4}
    rates = Rates()
    if s:
        {4}
        return rates.low() + RATE + {5}
    raise ValueError(
        f"no rows"
    )
"""
TEXT = st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"]), max_size=20)


def as_comment(text: str) -> str:
    return f"# {text}"


def as_string(text: str) -> str:
    return repr(text)


NOTES = st.builds(lambda form, text: form(text), st.sampled_from([as_comment, as_string]), TEXT)
BODY_NOTES = st.builds(lambda text, note: f"{text!r}  # {note}", TEXT, TEXT) | st.just("pass") | st.just("...")


@given(
    notes=st.tuples(NOTES, NOTES, NOTES, NOTES, BODY_NOTES),
    number=st.sampled_from(["10_000", "10000", "(10000)", "\\\n        10000", "0x2710"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_comments_docstrings_and_layout_leave_the_digest(write: Write, notes: tuple[str, ...], number: str) -> None:
    write(views=SOURCE.format("", "", "", "", "pass", "10000"), init="")
    plain = code_digest([ENTRY])
    write(views=SOURCE.format(*notes, number), init=f'"""{notes[0][2:-1]}"""  # note\n')
    assert code_digest([ENTRY]) == plain
    write(views=SOURCE.format(*notes, "10001"))
    assert code_digest([ENTRY]) != plain
