"""Arithmetic that every other room may use."""
