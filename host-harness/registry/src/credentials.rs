//! The registry credentials that the operator gave to imagewatch. This module finds credentials by registry. It does
//! not decide which requests may use a credential, and it never shows a password.

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
