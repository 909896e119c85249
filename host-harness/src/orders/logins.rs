//! Which stored logins registries refused for images that anybody may have: registries lock accounts that try a bad one
//! again and again. Kept for as long as the process runs; knows a login by its id alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::secret::Credential;

/// Shared by all manifests.
#[derive(Debug, Default)]
pub struct RefusedLogins {
    /// The id of the login by repository: what one is denied, another may have.
    by_repository: Mutex<BTreeMap<String, String>>,
}

impl RefusedLogins {
    /// Whether `login` was refused for `repository` (`ghcr.io/org/app`). Another one, after a change, was not.
    pub(super) fn has(&self, repository: &str, login: &Credential) -> bool {
        let refused = self.by_repository.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(repository).is_some_and(|id| *id == login.id())
    }

    pub(super) fn note(&self, repository: &str, login: &Credential) {
        let mut refused = self.by_repository.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(repository.to_owned(), login.id());
    }
}

/// Whether that is how an engine passes on that a registry did not take a login, or did not let it have the image.
pub(super) fn is_refusal(message: &str) -> bool {
    let message = message.to_ascii_lowercase().replace("permission denied", "");
    ["unauthorized", "denied: ", "authentication required", "incorrect username or password"]
        .iter()
        .any(|sign| message.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_what_else_may_go_wrong() {
        for (message, expected) in [
            ("Head \"https://r.io/v2/a/manifests/1\": unauthorized: incorrect username or password", true),
            ("Error response from daemon: denied: denied", true),
            ("pull access denied for a/b, repository does not exist or may require 'docker login': denied: x", true),
            ("unauthorized: authentication required", true),
            ("manifest unknown", false),
            ("open /var/lib/docker/tmp/x: permission denied", false),
            ("mkdir /var/lib/x: permission denied: unknown", false),
            ("no space left on device", false),
        ] {
            assert_eq!(is_refusal(message), expected, "{message}");
        }
    }
}
