//! Transcripts: recordings of policy calls, with their inputs, their outputs, and all host function calls.
//!
//! `run --record` writes a transcript. `plugin replay` replays it, to try another policy on the same data.
//!
//! A transcript is a file of JSON lines. It contains no credentials and no tokens. The cache is omitted. Headers with
//! credentials, and the tokens of token servers, are redacted.

mod compare;
mod recorder;
mod redact;
mod replay;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use imagewatch_abi::{Answer, Containers, HttpBatch, HttpResponses, Orders, OrdersAccepted, Selector};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

pub use compare::{Decision, Difference};
pub use recorder::Recorder;
pub use replay::{Replayed, play};

/// The format version. It increases when the previous version cannot read new files.
const FORMAT: u32 = 1;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// A policy starts, or replaces another one.
    Policy(PolicyLine),
    /// A call of a policy.
    Call(Box<CallLine>),
}

/// The policy that made the calls of a manifest that follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLine {
    /// The format version of the file.
    pub format: u32,
    /// The manifest's name.
    pub manifest: String,
    /// SHA-256 of the module in hex.
    pub sha256: String,
    /// The config that the policy got.
    pub config: BTreeMap<String, String>,
    /// The hosts that the manifest allows.
    pub allowed_hosts: Vec<String>,
}

/// One call of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallLine {
    /// The manifest's name.
    pub manifest: String,
    /// The export that was called.
    pub export: String,
    /// The input, without the cache.
    pub input: Value,
    /// The host function calls, in order.
    pub asked: Vec<Exchange>,
    /// The output, without the cache. Null if the call failed.
    pub output: Value,
    /// Why the call failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// One call of a host function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exchange {
    /// `http_send`.
    Http {
        /// The requests, without credentials.
        batch: HttpBatch,
        /// The responses, without tokens.
        answer: Answer<HttpResponses>,
    },
    /// `docker_containers`.
    Containers {
        /// The selector.
        selector: Selector,
        /// The containers.
        answer: Answer<Containers>,
    },
    /// `docker_refresh`.
    Refresh {
        /// The orders.
        orders: Orders,
        /// The host's answer.
        answer: Answer<OrdersAccepted>,
    },
}

/// Why a transcript cannot be written, read or replayed.
#[derive(Debug, Error)]
pub enum TranscriptError {
    /// The operating system refused.
    #[error("{what} transcript {file}: {source}; check the path and its permissions")]
    File {
        /// What failed: `open` or `read`.
        what: &'static str,
        /// The file.
        file: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file is not a transcript, or has another format version.
    #[error(
        "read transcript {file}: line {line} is invalid ({reason}); use a file that `imagewatch run --record` wrote"
    )]
    Malformed {
        /// The file.
        file: String,
        /// The line number, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The transcript contains several manifests, or does not contain the requested one.
    #[error("replay transcript {file}: it contains {known}; choose a manifest with --manifest")]
    Which {
        /// The file.
        file: String,
        /// The manifests in the transcript.
        known: String,
    },
}

/// The recorded calls of one manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcript {
    /// The policy at the start of the recording.
    pub policy: PolicyLine,
    /// The calls, in order.
    pub calls: Vec<CallLine>,
}

impl Transcript {
    /// Reads the calls of `manifest` from `file`. Without `manifest`, the file must contain exactly one. Incomplete
    /// lines, which a kill leaves, are skipped.
    ///
    /// # Errors
    /// The file cannot be read, is not a transcript, or does not contain the manifest.
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
                // A kill left an incomplete line. A later recording starts on a new line.
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
            Err(format!("it has format {}, but this imagewatch reads format {FORMAT}", policy.format))
        }
        _ => Ok(line),
    }
}
