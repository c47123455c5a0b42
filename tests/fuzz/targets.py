"""All decoders, in the order in which bytes meet them."""

from __future__ import annotations

from tests.fuzz import (
    checkpoint_targets,
    core_targets,
    file_targets,
    job_targets,
    log_targets,
    seal_targets,
    settings_targets,
    web_targets,
)
from tests.fuzz.engine import Target

__all__ = ["TARGETS"]

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (
        core_targets,
        file_targets,
        log_targets,
        seal_targets,
        checkpoint_targets,
        web_targets,
        settings_targets,
        job_targets,
    )
    for target in module.TARGETS
}
