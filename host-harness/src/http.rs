//! The requests that a policy plugin makes, and no others. `egress` decides what may be sent
//! where, `client` sends it. Nothing here knows what a registry's answers mean.

pub mod client;
pub mod egress;
