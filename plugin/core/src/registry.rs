//! How a registry is talked to: requests, challenges, tokens, and the batched rounds that tie them
//! together. Knows nothing of targets or decisions.

pub(crate) mod challenge;
pub(crate) mod request;
pub(crate) mod resolve;
pub(crate) mod tags;
pub(crate) mod token;
