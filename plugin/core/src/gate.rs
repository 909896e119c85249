//! Gates that hold a move although the registry has a new digest. Each gate has its own file.

pub(crate) mod quarantine;
