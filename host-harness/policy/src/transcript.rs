//! A transcript: what policies were asked and answered, call by call, with what the world told them, so
//! that another policy can be tried on the same days. Written by `run --record`, played by `plugin replay`.
//!
//! A file of JSON lines. It holds no credential and no token: the cache is left out, and so is every header
//! that proves something and every token that a token server gave.

mod compare;
mod player;
mod recorder;
mod redact;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use imagewatch_abi::{Answer, Containers, HttpBatch, HttpResponses, Orders, Placed, Selector};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

pub use compare::{Difference, Said};
pub use player::{Replayed, play};
pub use recorder::Recorder;

/// Grows when a file can no longer be read by the version before.
const FORMAT: u32 = 1;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// A policy begins, or takes another's place.
    Policy(PolicyLine),
    /// It was called.
    Call(Box<CallLine>),
}

/// Which policy the following calls of a manifest are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLine {
    /// The file's format.
    pub format: u32,
    /// The manifest's name.
    pub manifest: String,
    /// The module's, in hex.
    pub sha256: String,
    /// As the guest got it.
    pub config: BTreeMap<String, String>,
    /// As granted.
    pub allowed_hosts: Vec<String>,
}

/// One call of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallLine {
    /// The manifest's name.
    pub manifest: String,
    /// The export.
    pub export: String,
    /// What went in, without the cache.
    pub input: Value,
    /// What the policy asked of the world meanwhile, in its order.
    pub asked: Vec<Exchange>,
    /// What came out, without the cache; null when the call was ended.
    pub output: Value,
    /// Why the call was ended, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// One use of a host function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exchange {
    /// `http_send`.
    Http {
        /// What was sent, without what proves something.
        batch: HttpBatch,
        /// What came back, without tokens.
        answer: Answer<HttpResponses>,
    },
    /// `docker_containers`.
    Containers {
        /// Which.
        selector: Selector,
        /// Those that there were.
        answer: Answer<Containers>,
    },
    /// `docker_refresh`.
    Refresh {
        /// What was ordered.
        orders: Orders,
        /// What the host took.
        answer: Answer<Placed>,
    },
}

/// A transcript cannot be written, read or played.
#[derive(Debug, Error)]
pub enum TranscriptError {
    /// The system refused.
    #[error("{what} transcript {file}: {source}; check the path and its permissions")]
    File {
        /// `open`, `read`.
        what: &'static str,
        /// The file.
        file: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("read transcript {file}: line {line} is none of `imagewatch run --record` ({reason})")]
    Malformed {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What was found.
        reason: String,
    },
    /// Several manifests are in it, or not the one asked for.
    #[error("replay transcript {file}: it holds {known}; choose one with --manifest")]
    Which {
        /// The file.
        file: String,
        /// The manifests in it.
        known: String,
    },
}

/// What was recorded of one manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcript {
    /// Its policy when the recording began.
    pub policy: PolicyLine,
    /// In their order.
    pub calls: Vec<CallLine>,
}

impl Transcript {
    /// Reads what `file` holds of `manifest`, or of the only one in it. Lines that a kill cut short are left out.
    ///
    /// # Errors
    /// When it cannot be read, is no transcript, or holds no such manifest.
    pub fn read(file: &Path, manifest: Option<&str>) -> Result<Self, TranscriptError> {
        let shown = file.display().to_string();
        let refused = |what, source| TranscriptError::File { what, file: shown.clone(), source };
        let opened = std::fs::File::open(file).map_err(|source| refused("open", source))?;
        let lines: Vec<String> = BufReader::new(opened)
            .split(b'\n')
            .map(|line| line.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
            .collect::<Result<_, _>>()
            .map_err(|source| refused("read", source))?;
        let mut found: BTreeMap<String, Self> = BTreeMap::new();
        for (index, text) in lines.iter().enumerate() {
            let line = match parse_line(text) {
                Ok(line) => line,
                // Cut short by a kill; what another recording added begins on a line of its own.
                Err(_) if index > 0 && is_cut_short(text) => continue,
                Err(reason) => return Err(TranscriptError::Malformed { file: shown, line: index + 1, reason }),
            };
            match line {
                Line::Policy(policy) => {
                    let name = policy.manifest.clone();
                    found.entry(name).or_insert_with(|| Self { policy, calls: Vec::new() });
                }
                Line::Call(call) => {
                    if let Some(transcript) = found.get_mut(&call.manifest) {
                        transcript.calls.push(*call);
                    }
                }
            }
        }
        let known = found.keys().cloned().collect::<Vec<_>>().join(", ");
        let chosen = match manifest {
            Some(name) => found.remove(name),
            None if found.len() == 1 => found.pop_first().map(|(_, transcript)| transcript),
            None => None,
        };
        let known = if known.is_empty() { "nothing".to_owned() } else { known };
        chosen.ok_or(TranscriptError::Which { file: shown, known })
    }
}

fn is_cut_short(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_err_and(|error| error.is_eof())
}

fn parse_line(text: &str) -> Result<Line, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match &line {
        Line::Policy(policy) if policy.format != FORMAT => {
            Err(format!("it has format {}, this imagewatch reads format {FORMAT}", policy.format))
        }
        _ => Ok(line),
    }
}
