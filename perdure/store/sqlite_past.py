"""Waypoints in the embedded store: its statements."""

from __future__ import annotations

PUT_WAYPOINT = "INSERT OR REPLACE INTO waypoint (oid, seq, version, body) VALUES (?, ?, ?, ?)"
GET_WAYPOINT = """
SELECT oid, seq, version, body FROM waypoint
 WHERE oid = ? AND seq <= ? AND version = ? ORDER BY seq DESC LIMIT 1"""
WAYPOINTS = "SELECT seq, length(body) FROM waypoint WHERE oid = ? ORDER BY seq"
DROP_WAYPOINTS = "DELETE FROM waypoint WHERE oid = ? AND seq >= ? AND seq < ?"

DROP_OBJECT = (
    "DELETE FROM waypoint WHERE oid = ?",
    "DELETE FROM promise WHERE oid = ?",
    "DELETE FROM calls WHERE oid = ?",
    "DELETE FROM indexed WHERE oid = ?",
    # Those that no turn names yet are on their way to the one that takes its place.
    "DELETE FROM blob WHERE oid = ? AND seq > 0",
    "DELETE FROM segment WHERE oid = ?",
    "DELETE FROM suspended WHERE oid = ?",
    "DELETE FROM snapshot WHERE oid = ?",
    "DELETE FROM calls WHERE oid = ?",
    "DELETE FROM indexed WHERE oid = ?",
    "DELETE FROM object WHERE oid = ?",
)
"""All that is stored of an object but what is in the log."""
