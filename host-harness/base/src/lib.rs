//! What several host crates of imagewatch share: credentials that stay secret, text that is safe to print, the names of
//! hosts and registries, and the clock. Knows no engine, no registry and no policy.

pub mod clock;
pub mod hosts;
pub mod registry_name;
pub mod secret;
pub mod text;
