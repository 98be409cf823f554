"""Fetch or generate what everything rests on; the only stage that talks to a hub."""
