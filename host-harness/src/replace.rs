//! Replacing a container by one on a newer image. Decides nothing about whether to.

pub mod plan;
pub mod transaction;
