//! Types that several host crates of imagewatch share: secret credentials, printable text, names of hosts and
//! registries, and the clock. This crate depends on no engine, no registry and no policy.

pub mod clock;
pub mod hosts;
pub mod registry_name;
pub mod secret;
pub mod text;
