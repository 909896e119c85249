//! How a registry is talked to: requests, challenges, tokens, limits, and the batched rounds that tie them
//! together. Knows nothing of targets or decisions.

pub(crate) mod cache;
pub(crate) mod challenge;
pub(crate) mod document;
pub(crate) mod limit;
pub(crate) mod request;
pub(crate) mod resolve;
pub(crate) mod tags;
pub(crate) mod token;
pub(crate) mod unfinished;

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;
