//! Collects all outputs and files, and searches them for secrets in every encoding.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use url::form_urlencoded::byte_serialize;

/// The collected texts, and the secrets that they must not contain.
pub(super) struct SecretScan {
    needles: Vec<(String, String)>,
    texts: Vec<(String, String)>,
}

impl SecretScan {
    pub(super) fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let needles = secrets
            .into_iter()
            .flat_map(|secret| forms(&secret).into_iter().map(move |form| (secret.clone(), form)).collect::<Vec<_>>());
        Self { needles: needles.collect(), texts: Vec::new() }
    }

    pub(super) fn add(&mut self, source: &str, text: String) {
        self.texts.push((source.to_owned(), text));
    }

    /// Adds all files below `folder` and returns their names.
    pub(super) fn add_files(&mut self, when: &str, folder: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.path().display().to_string());
            if path.is_dir() {
                names.extend(self.add_files(when, &path));
            } else if let Ok(bytes) = fs::read(&path) {
                // A running program may remove a file in the meantime.
                self.add(&format!("{name} {when}"), String::from_utf8_lossy(&bytes).into_owned());
                names.push(name);
            }
        }
        names
    }

    pub(super) fn assert_no_secret_found(&self) {
        assert!(self.texts.len() > 40 && self.texts.iter().any(|(_, text)| text.contains("first seen")));
        let mut shown = Vec::new();
        for (source, text) in &self.texts {
            for (secret, form) in &self.needles {
                if let Some(at) = text.find(form.as_str()) {
                    let start = text.floor_char_boundary(at.saturating_sub(200));
                    let end = text.ceil_char_boundary(at + form.len() + 40);
                    shown.push(format!("{secret} as {form} in {source}: …{}…", &text[start..end]));
                }
            }
        }
        assert!(shown.is_empty(), "{} times:\n{}", shown.len(), shown.join("\n"));
    }
}

/// The forms of a secret: unchanged, in JSON, in URLs, and in base64 at every offset.
pub(super) fn forms(secret: &str) -> Vec<String> {
    let json = serde_json::to_string(secret).expect("a string serializes to JSON");
    let percent: String = byte_serialize(secret.as_bytes()).collect();
    let mut forms = vec![secret.to_owned(), json.trim_matches('"').to_owned(), percent];
    for (shift, first) in [(0, 0), (1, 2), (2, 3)] {
        let bytes = [&[0; 2][..shift], secret.as_bytes()].concat();
        // The first characters depend on the preceding text, and the last one on the following text.
        let whole = bytes.len() * 8 / 6;
        forms.extend([&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].map(|base64| base64.encode(&bytes)[first..whole].to_owned()));
    }
    forms.sort();
    forms.dedup();
    forms
}

#[test]
fn a_secret_is_found_at_every_offset_of_an_encoded_text() {
    let secret = "canary~?>/+1";
    for before in ["", "a", "me", "me:", "{\"password\":\""] {
        for after in ["", "\"", "\"}", "\"}\n"] {
            for base64 in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let text = base64.encode(format!("{before}{secret}{after}"));
                assert!(forms(secret).iter().any(|form| text.contains(form.as_str())), "{before} {after} {text}");
            }
        }
    }
}
