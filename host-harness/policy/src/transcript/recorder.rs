//! Writes a transcript while policies run. If a write fails (for example, on a full disk), only the recording stops.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use imagewatch_abi::{Answer, Containers, HttpBatch, HttpResponses, LogLine, Orders, OrdersAccepted, Selector};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::error;

use super::{CallLine, Exchange, FORMAT, Line, PolicyLine, TranscriptError, redact};
use crate::{CallCost, CallError, Compiled, Denied, Effects, PluginManifest, call};
use imagewatch_base::secret::redact_tokens;

/// An open transcript file. All manifests share it.
#[derive(Debug)]
pub struct Recorder {
    /// `None` after a write has failed.
    file: Mutex<Option<File>>,
    /// The path, for messages.
    shown: String,
}

impl Recorder {
    /// Creates the transcript `file`, or opens it to append. Only the owner can access the file (mode 600).
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(file: &Path) -> Result<Self, TranscriptError> {
        let shown = file.display().to_string();
        let opened =
            open(file).map_err(|source| TranscriptError::File { what: "open", file: shown.clone(), source })?;
        Ok(Self { file: Mutex::new(Some(opened)), shown })
    }

    /// Records that the module with hash `sha256` now decides for `manifest`.
    pub fn note_policy(&self, manifest: &PluginManifest, sha256: &str) {
        self.write(&Line::Policy(PolicyLine {
            format: FORMAT,
            manifest: manifest.name.clone(),
            sha256: sha256.to_owned(),
            config: manifest.config.clone(),
            allowed_hosts: manifest.allowed_hosts.clone(),
        }));
    }

    /// Calls `manifest`'s policy like [`call`], and records the call.
    ///
    /// # Errors
    /// The call failed. A failed write to the transcript is not an error.
    pub fn call<I: Serialize, O: Serialize + DeserializeOwned>(
        &self,
        manifest: &str,
        compiled: &Compiled,
        export: &'static str,
        input: &I,
        effects: Arc<dyn Effects>,
    ) -> Result<(O, CallCost), CallError> {
        let tape = Arc::new(Tape { effects, asked: Mutex::default() });
        let called = call(compiled, export, input, tape.clone());
        let (output, fault) = match &called {
            Ok((output, _)) => (as_value(output), None),
            Err(fault) => (Value::Null, Some(fault.to_string())),
        };
        self.write(&Line::Call(Box::new(CallLine {
            manifest: manifest.to_owned(),
            export: export.to_owned(),
            input: redact::without_cache(as_value(input)),
            asked: tape.take(),
            output: redact::without_cache(output),
            fault,
        })));
        called
    }

    fn write(&self, line: &Line) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = file.as_mut() else { return };
        let written = serde_json::to_string(line).map_err(std::io::Error::from).and_then(|text| {
            // Redact tokens in the whole line, because a registry may repeat them anywhere.
            let text = redact_tokens(&text) + "\n";
            // Write the line with one call, so that a kill can truncate only the last line.
            open.write_all(text.as_bytes())
        });
        if let Err(source) = written {
            error!("failed to write transcript {}: {source}; the recording has stopped", self.shown);
            *file = None;
        }
    }
}

/// Opens the file to append. If a kill left the last line incomplete, it adds a line break, so that new lines can be
/// read.
fn open(file: &Path) -> std::io::Result<File> {
    let mut opened = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(file)?;
    opened.set_permissions(Permissions::from_mode(0o600))?;
    let mut last = *b"\n";
    if opened.metadata()?.len() > 0 {
        opened.seek(SeekFrom::End(-1))?;
        opened.read_exact(&mut last)?;
    }
    if last != *b"\n" {
        opened.write_all(b"\n")?;
    }
    Ok(opened)
}

fn as_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Passes host function calls to the effects of one call, and records them.
struct Tape {
    effects: Arc<dyn Effects>,
    asked: Mutex<Vec<Exchange>>,
}

impl Tape {
    fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, exchange: Exchange) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
    }
}

impl Effects for Tape {
    fn http_send(&self, batch: HttpBatch, room: usize) -> Answer<HttpResponses> {
        let sent = batch.clone();
        let answer = self.effects.http_send(batch, room);
        self.record(Exchange::Http { answer: redact::responses(&sent, &answer), batch: redact::batch(&sent) });
        answer
    }

    fn docker_containers(&self, selector: Selector) -> Answer<Containers> {
        let answer = self.effects.docker_containers(selector.clone());
        self.record(Exchange::Containers { selector, answer: answer.clone() });
        answer
    }

    fn docker_refresh(&self, orders: Orders) -> Answer<OrdersAccepted> {
        let answer = self.effects.docker_refresh(orders.clone());
        self.record(Exchange::Refresh { orders, answer: answer.clone() });
        answer
    }

    fn log(&self, line: LogLine) {
        self.effects.log(line);
    }

    fn denied(&self, what: Denied, count: u64, message: &str) {
        self.effects.denied(what, count, message);
    }
}
