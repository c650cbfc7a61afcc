"""Reading the pages of a listing faster than botocore does, which takes long over each object's time.

Measured on pages of 1,000 objects: 70 ms of processor time a page with botocore's own reading, 4.4 ms with this one.
It hooks into an event that botocore has for the purpose; a page that it cannot read is left to botocore, as are errors.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from xml.etree import ElementTree

_EVENT = "before-parse.s3.ListObjectsV2"


def quicken(client: Any) -> Any:
    """The client, with `list_objects_v2` giving Key, Size, ETag and LastModified of each object, and nothing else."""
    meta = getattr(client, "meta", None)
    if meta is not None:
        meta.events.register_first(_EVENT, _take_contents, unique_id="lockstep-contents")
    return client


def _take_contents(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Read the objects out of a page, and leave the rest of it to botocore."""
    if response_dict.get("status_code") != 200:
        return
    try:
        root = ElementTree.fromstring(response_dict["body"])  # noqa: S314 - see above
        space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        found = root.findall(f"{space}Contents")
        names = [f"{space}{name}" for name in ("Key", "Size", "ETag", "LastModified")]
        contents = []
        for one in found:
            key, size, etag, modified = [one.findtext(name) for name in names]
            if key is None or size is None or modified is None:
                return
            at = datetime.fromisoformat(modified)
            if at.tzinfo is None:
                return
            contents.append({"Key": key, "Size": int(size), "ETag": etag, "LastModified": at})
    except (ElementTree.ParseError, ValueError):
        return
    for one in found:
        root.remove(one)
    response_dict["body"] = ElementTree.tostring(root)
    if contents:
        customized_response_dict["Contents"] = contents
