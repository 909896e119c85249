//! What keeps a move back that the registry's answer alone would make; a file for each gate.

pub(crate) mod quarantine;
