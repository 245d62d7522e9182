"""Tests of the room optim."""
