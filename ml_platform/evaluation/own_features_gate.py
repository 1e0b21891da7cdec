"""The result that says on which feature values a verdict rests, where a version has other views than today's."""

from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gate_result import GateResult

OWN_FEATURES = "own_features"
"""Name of the result."""


def own_features_result(evidence: Evidence) -> GateResult | None:
    """Return the result about the features of ``evidence``; None when all versions read the rows as they stand.

    It is passed when each version was scored on its own values. A champion that could not be scored so makes it
    undecided, unless it is declared that the candidate is then judged alone.
    """
    missing = evidence.unscored_champion
    if missing is None and not evidence.feature_notes:
        return None
    texts = [f"{note}." for note in evidence.feature_notes]
    if missing is not None:
        rule = (
            "As declared (evaluation.unscored_champion: judge_alone), the candidate was judged without it."
            if missing.judged_alone
            else "As declared (evaluation.unscored_champion: hold), nothing is promoted without the comparison."
        )
        texts.append(f"The champion was not scored. {missing.reason} {rule}")
    passed = missing is None or missing.judged_alone
    return GateResult(name=OWN_FEATURES, passed=passed, numbers={}, reason=" ".join(texts), undecided=not passed)
