"""The task that saves what the web application has accepted, many events in one transaction.

taskyard worker events:yard --concurrency 1
"""

import json
import os
from typing import Any

from database import insert

from taskyard import Batch, Yard, current_context

yard = Yard(os.environ.get("TASKYARD_BROKER", "sqlite:///taskyard.db"))


@yard.task(queue="events", batch=Batch(size=500, within=0.2))
def save(events: list[dict[str, Any]]) -> None:
    # A batch may come twice, cut differently. The ids of its messages are the same, so the second
    # time nothing is inserted.
    ids = [message.id for message in current_context().messages]
    insert(zip(ids, map(json.dumps, events), strict=True))
