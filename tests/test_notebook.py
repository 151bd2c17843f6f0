"""The notebook in docs/ runs from top to bottom, and its outputs are what a reader of it expects."""

import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The code cells of the notebook, executed by a kernel of their own."""
    if not NOTEBOOK.exists():
        pytest.skip("the tests lie apart from the project")
    for package in ("ipykernel", "pandas"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def data_of(cell, kind):
    return [output["data"][kind] for output in cell.outputs if kind in output.get("data", {})]


def found(cells, words):
    (cell,) = (cell for cell in cells if words in cell.source)
    return cell


# ipykernel gives a warning of its own where its event loop is another than it expects.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def test_no_output_is_kept_in_the_file():
    assert set(re.findall(r'"outputs": \[.*', NOTEBOOK.read_text("utf-8"))) == {'"outputs": [],'}


def test_no_cell_writes_a_warning_or_a_line_an_epoch(cells):
    assert [output for cell in cells for output in cell.outputs if output.output_type in ("stream", "error")] == []


def test_training_leaves_one_line_of_progress_and_its_scores(cells):
    progress, scores = data_of(found(cells, "onelayer.train("), "text/html")
    assert re.fullmatch(r"<code>epoch +\d+  train \d.* %; the validation loss has stopped falling</code>", progress)
    assert "<td>" in scores


def test_the_history_is_a_table_of_pandas(cells):
    (table,) = data_of(found(cells, "pd.DataFrame"), "text/html")
    assert "<th>validation_loss</th>" in table
    assert table.count("<tr>") == 5


def test_the_evaluation_is_good(cells):
    (text,) = data_of(found(cells, "onelayer.evaluate"), "text/plain")
    assert float(re.search(r"accuracy (\d+)", text)[1]) >= 94


def test_the_first_gradients_overflow_and_the_second_are_right(cells):
    first, second = (data_of(found(cells, f"function={name}"), "text/plain")[0] for name in ("cost_and", "stable"))
    assert first.startswith("cost, dW and db agree with every oracle at ordinary logits (")
    assert re.search(r"; wrong: cost is inf.*, large logits\)", first.splitlines()[0])
    assert second.startswith("cost, dW and db agree with every oracle (")
