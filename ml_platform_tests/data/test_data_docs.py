"""Which page of the Data Docs is opened first."""

from pathlib import Path

from ml_platform.data.data_docs import results_page


def page(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<html></html>")
    return path


def test_newest_results_are_opened_first(tmp_path: Path) -> None:
    page(tmp_path, "index.html")
    page(tmp_path, "validations/flights/2013-03/20130321T000000.000000Z/staged.html")
    newest = page(tmp_path, "validations/flights/2013-03/20130322T000000.000000Z/staged.html")
    assert results_page(tmp_path) == newest


def test_without_results_the_index_is_opened(tmp_path: Path) -> None:
    assert results_page(tmp_path) == tmp_path / "index.html"
