"""A project with the penguins alone, whose model a person must approve, and a home with two versions of it.

The species of the first table are partly wrong, so the second version is better without a doubt. The third table has
fewer rows, and its version is as good as the second.
"""

from pathlib import Path

import dagster as dg
import polars as pl

from assets.penguins.landing import land
from ml_platform.components.project import load_definitions_of
from ml_platform.console.materialize import bring_up_to_date
from ml_platform.data.landing import Landing
from ml_platform_tests.components.project_loading import PROJECT_FILE
from resources.home import Home
from resources.orchestration import open_instance
from resources.profiles import resources_of_profile

MODEL = "penguin_species"
DECLARED = Path(__file__).resolve().parents[2] / "assets" / "penguins" / "defs.yaml"
WORKSPACE = (
    "load_from:\n  - python_module: {{module_name: shop_definitions, working_directory: {root}, location_name: shop}}\n"
)
STEPS = ("training_set", "candidate_lightgbm", "evaluation", "model_card", "champion", "bento", "rollout")
WRONG_SHARE, FEWER_ROWS = 0.3, 9


def project_definitions(root: Path) -> dg.Definitions:
    """Return the definitions of the project at ``root``, as :mod:`ml_platform.definitions` makes those of this one."""
    shared = dg.Definitions(resources=resources_of_profile(), executor=dg.in_process_executor)
    project, definitions = load_definitions_of(root, shared)
    project.require_all()
    return definitions


def write_project(root: Path) -> None:
    """Write the project: the penguins with an approval, no limit that the first table breaks, and no margin.

    Without a margin, a version that is only as good as the champion stays on HOLD.
    """
    declared = DECLARED.read_text()
    for present, instead in (
        ("metric: accuracy, limit: 0.9", "metric: accuracy, limit: 0.4"),
        ("metric: log_loss, margin: 0.05", "metric: log_loss, margin: 0.0"),
        ("  time: none\n", "  time: none\n  approval: {mode: manual}\n"),
    ):
        assert declared.count(present) == 1
        declared = declared.replace(present, instead)
    (root / "shop" / "penguins").mkdir(parents=True)
    (root / "shop" / "__init__.py").touch()
    (root / "shop" / "penguins" / "defs.yaml").write_text(declared)
    (root / "pyproject.toml").write_text(PROJECT_FILE)
    (root / "workspace.yaml").write_text(WORKSPACE.format(root=root))
    (root / "shop_definitions.py").write_text(
        "from pathlib import Path\n\n"
        "from ml_platform_tests.browser.approval_project import project_definitions\n\n"
        "defs = project_definitions(Path(__file__).parent)\n"
    )


def make_two_versions(home: Home, root: Path) -> None:
    """Make version 1 champion, version 2 a challenger that waits for an approval, and the training set of a third."""
    definitions = project_definitions(root)
    landing = Landing(home.landing)
    with open_instance(home) as instance:
        land_partly_wrong(landing)
        _materialize(definitions, instance, home, ("penguins",), STEPS)
        job = definitions.get_job_def(f"{MODEL}_approve")
        decision = {"version": 1, "decided_by": "ada@example.org", "reason": "the first one"}
        done = job.execute_in_process(
            run_config={"ops": {f"{MODEL}_approve_step": {"config": decision}}}, instance=instance
        )
        assert done.success
        _materialize(definitions, instance, home, (), ("bento", "rollout"))
        (file,) = land(landing)
        _materialize(definitions, instance, home, ("penguins",), STEPS[:5])
        fewer = "".join(file.path.read_text().splitlines(keepends=True)[:-FEWER_ROWS])
        landing.land_bytes("penguins", None, fewer.encode(), "csv")
        _materialize(definitions, instance, home, ("penguins",), STEPS[:1])


def land_partly_wrong(landing: Landing) -> None:
    """Land the penguins with a share of their species moved to other rows."""
    (file,) = land(landing)
    rows = pl.read_csv(file.path, infer_schema=False)
    moved = rows["species"].sample(fraction=1.0, shuffle=True, seed=3)
    wrong = pl.int_range(rows.height, eager=True).sample(fraction=1.0, shuffle=True, seed=4) < WRONG_SHARE * rows.height
    changed = rows.with_columns(species=pl.select(pl.when(wrong).then(moved).otherwise(rows["species"])).to_series())
    landing.land_bytes("penguins", None, changed.write_csv().encode(), "csv")


def _materialize(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    home: Home,
    datasets: tuple[str, ...],
    steps: tuple[str, ...],
) -> None:
    keys = [dg.AssetKey(["datasets", each]) for each in datasets] + [dg.AssetKey([MODEL, each]) for each in steps]
    bring_up_to_date(definitions, instance, home, keys, "")
