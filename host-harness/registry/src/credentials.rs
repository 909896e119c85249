//! Who may log in where: the credentials that the operator gave this program, by registry.
//! Gathers and looks up; decides nothing about who may be given one, and never shows a password.

mod cache;
mod docker_config;
mod ecr;
pub mod env;
mod environment;
pub mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod helper;
pub mod store;
