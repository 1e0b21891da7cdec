"""Landing of the penguins: the file that the package palmerpenguins carries, as published."""

from ml_platform.data.landing import LandedFile, Landing
from ml_platform.data.package_files import package_file


def land(landing: Landing, through: str = "") -> list[LandedFile]:
    """Land the whole table; ``through`` has no meaning, because the table has no partitions."""
    return [landing.land("penguins", None, package_file("palmerpenguins", "data/penguins.csv"), "csv")]
