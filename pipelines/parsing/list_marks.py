"""How a line of plain text begins when it is an item of a list."""

from __future__ import annotations

import re

BULLET = re.compile(r"^\s*(?:[•◦▪‣·●○■□–—*+-]|\uf0b7|\uf0a7)\s+(?=\S)")
NUMBER = re.compile(r"^\s*\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)]\s+(?=\S)")
