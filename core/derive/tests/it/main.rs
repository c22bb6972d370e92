//! What the derive macros write, and what they refuse.
