//! Who may log in where: the credentials that the operator gave this program, by registry.
//! Gathers and looks up; sends nothing anywhere and never shows a password.

pub mod env;
pub mod error;
pub mod store;
