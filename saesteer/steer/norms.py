"""The typical norm of a site: a constant of the model, measured once on a text that ships here.

Edits that treat outlier tokens apart need to know what is typical. A batch's own median would make
a token's edit depend on its batch mates, and on how much of the text one cached pass contains.
"""

from __future__ import annotations

import weakref

from torch import nn

from saesteer.errors import PlanError
from saesteer.metrics.outliers import median_norm
from saesteer.models import Model, Site, TokenBatch, record
from saesteer.models.limits import finite_rows

_TEXT = (
    "The ferry left the harbour a little after seven, with the lamps still lit along the quay. "
    "Most of the passengers stood at the rail and watched the town grow small; a few had gone "
    "below, where there was coffee and somebody had opened a newspaper. It reported that the "
    "council would vote on the new bridge in March, that the cost had risen to 42 million, and "
    "that nobody could say how long the work would take. 'They said the same about the tunnel,' "
    "the captain remarked. By noon the wind had turned, and we could see the other shore."
)
_LENGTH = 128  # tokens read: the text is some 110, far more where a tokenizer spells it out
_MEASURED: weakref.WeakKeyDictionary[nn.Module, dict[Site, float]] = weakref.WeakKeyDictionary()


def typical_norm(model: Model, site: Site) -> float:
    """Median ‖h‖ at `site` over a built-in text, in the model's own scale.

    Raises:
        PlanError: the model has no tokenizer, or nothing at the site.
        DataError: it gives NaN or infinity there.
    """
    if model.tokenizer is None:
        raise PlanError(
            f"{model.name} has no tokenizer to measure a typical norm with; "
            "set typical_norm, as in add_scaled(site, vector, typical_norm=...)."
        )
    known = _MEASURED.setdefault(model.hf, {})
    if site not in known:
        whole = model.tokenize(_TEXT)
        batch = TokenBatch(whole.input_ids[:, :_LENGTH], whole.attention_mask[:, :_LENGTH])
        resid = finite_rows(record(model, batch, [site])[site], model, site)
        median = float(median_norm(resid, batch.attention_mask))
        if not median > 0:
            raise PlanError(
                f"{model.name}: the typical norm at {site} is {median}; set it by hand."
            )
        known[site] = median
    return known[site]
