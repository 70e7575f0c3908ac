//! The canonical tar profile: same tree, same bytes.
