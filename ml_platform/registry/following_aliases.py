"""Sets MLflow's aliases after decisions that were recorded without MLflow, such as a rollback."""

from ml_platform.registry.audit import AuditLog
from ml_platform.registry.models import ModelRegistry
from ml_platform.registry.outbox import is_connection_error
from ml_platform.registry.pending_aliases import models_with_pending_aliases
from ml_platform.registry.promotion import ChampionMissingError, reconcile


def set_pending_aliases(registry: ModelRegistry, audit: AuditLog) -> list[str]:
    """Set the aliases of every model with a note and return the models whose notes are done.

    The note of a model stays, for the next call, while the server is down or the champion is deleted in MLflow.
    """
    done = []
    for model in models_with_pending_aliases(audit.state):
        try:
            with audit.exclusive(model):
                reconcile(registry, audit, model)
        except ChampionMissingError:
            continue  # every use of the champion reports it, with the fix
        except Exception as error:
            if not is_connection_error(error):
                raise
            break
        done.append(model)
    return done
