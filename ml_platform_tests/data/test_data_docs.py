"""Data Docs: which page opens first, and that pages need no other server."""

from pathlib import Path

from ml_platform.data.data_docs import make_self_contained, results_page
from ml_platform.data.data_docs_views import IndexView, PageView


def page(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<html></html>")
    return path


def test_latest_results_are_opened_first(tmp_path: Path) -> None:
    page(tmp_path, "index.html")
    page(tmp_path, "validations/flights/2013-03/20130321T000000.000000Z/staged.html")
    latest = page(tmp_path, "validations/flights/2013-03/20130322T000000.000000Z/staged.html")
    assert results_page(tmp_path) == latest


def test_without_results_the_index_is_opened(tmp_path: Path) -> None:
    assert results_page(tmp_path) == tmp_path / "index.html"


PAGE = """<html><head>
<link rel="stylesheet" href="https://maxcdn.bootstrapcdn.com/bootstrap.min.css"/>
<link rel="shortcut icon" href="../static/favicon.ico"/>
<script src="https://code.jquery.com/jquery.min.js" crossorigin="anonymous"></script>
<script>const own = 1;</script>
</head><body>
<a href="../index.html">Home</a> <img src="https://example.com/logo.png?d=1" alt="logo">
<table><tr><td>arr_delay</td><td><i class="fas fa-check-circle text-success"></i></td></tr></table>
<footer>
  <p>Stay current with our newsletter <a href="https://example.com/newsletter">Subscribe</a></p>
</footer>
</body></html>"""


def test_page_loses_references_to_other_servers_and_keeps_its_own_content(tmp_path: Path) -> None:
    written = page(tmp_path, "validations/flights.html")
    written.write_text(PAGE)
    make_self_contained(tmp_path)
    text = written.read_text()
    assert "https://" not in text
    assert "newsletter" not in text
    for kept in ("const own = 1;", "../index.html", "../static/favicon.ico", "<td>arr_delay</td>", "fa-check-circle"):
        assert kept in text
    assert text.count("<style>") == 1


def test_templates_are_compiled_once_for_all_sites() -> None:
    compiled = {id(PageView().env), id(PageView(custom_styles_directory=None).env), id(IndexView().env)}
    assert len(compiled) == 1
