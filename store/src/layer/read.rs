//! Reads a foreign tar: entries, checked and within limits.
