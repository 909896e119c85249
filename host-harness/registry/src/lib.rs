//! The requests that a policy plugin makes, and no others. `egress` decides what may be sent where,
//! `network` at which addresses, `realms` remembers whom registries named for their tokens, `client`
//! sends, `deferred` keeps what takes long. Nothing here knows what a registry's answers mean.

pub mod client;
pub mod credentials;
pub mod deferred;
pub mod egress;
pub mod network;
pub mod realms;
