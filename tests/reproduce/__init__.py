"""Tests of the room reproduce."""
