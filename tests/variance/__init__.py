"""Tests of the room variance."""
