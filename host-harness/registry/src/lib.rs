//! HTTP to registries: the requests that a policy makes, and the credentials for them. `egress` decides which request may
//! go to which host, and `network` to which addresses. `realms` remembers which token servers the registries named.
//! `client` sends the requests, `deferred` keeps those that take long, and `credentials` finds the logins of the operator.
//! Nothing here knows what the answer of a registry means.

pub mod client;
pub mod credentials;
pub mod deferred;
pub mod egress;
pub mod network;
pub mod realms;
#[cfg(test)]
mod testing;
