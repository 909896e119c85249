//! Which stored logins registries refused in pulls: registries lock accounts that try a bad one again and again. Kept for
//! as long as the process runs; knows a login by its id alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use imagewatch_abi::Reference;

use imagewatch_base::secret::Credential;

/// So many are kept. Beyond, all are forgotten, and each may be refused once more.
const MOST: usize = 1_000;

/// How an engine says that a login may not have the image.
const OF_THE_IMAGE: [&str; 2] = ["denied", "forbidden"];
/// How a registry says that it does not know a login at all. What merely says `unauthorized` may mean the image.
const WRONG: &str = "incorrect username or password";

/// Shared by all manifests.
#[derive(Debug, Default)]
pub struct RefusedLogins {
    /// By what the login was refused for (`ghcr.io`, or `ghcr.io/org/app`, which another may have) and its id: whether
    /// it is wrong, whatever it is sent for.
    refused: Mutex<BTreeMap<(String, String), bool>>,
}

impl RefusedLogins {
    /// Whether `login` was refused for `reference`, or for its registry as a whole. Another one, after a change, was not.
    pub(super) fn has(&self, reference: &Reference, login: &Credential) -> bool {
        let refused = self.lock();
        keys(reference, login).iter().any(|key| refused.contains_key(key))
    }

    /// Whether `login` is not worth another try for any image of the registry.
    pub(super) fn is_wrong(&self, reference: &Reference, login: &Credential) -> bool {
        let refused = self.lock();
        keys(reference, login).iter().any(|key| refused.get(key) == Some(&true))
    }

    /// Notes what the registry said of `login`, and answers for what it is left away from now on.
    pub(super) fn note(&self, reference: &Reference, login: &Credential, message: &str) -> String {
        let message = message.to_ascii_lowercase();
        let is_wrong = message.contains(WRONG);
        let [registry, repository] = keys(reference, login);
        let is_of_the_image = OF_THE_IMAGE.iter().any(|part| message.contains(part));
        let key = if is_of_the_image && !is_wrong { repository } else { registry };
        let mut refused = self.lock();
        if refused.len() >= MOST {
            refused.clear();
        }
        refused.insert(key.clone(), is_wrong);
        key.0
    }

    /// `login` came through after all.
    pub(super) fn forget(&self, reference: &Reference, login: &Credential) {
        let mut refused = self.lock();
        for key in keys(reference, login) {
            refused.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), bool>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Under what a login is noted: for the registry, and for the repository.
fn keys(reference: &Reference, login: &Credential) -> [(String, String); 2] {
    [reference.registry().to_owned(), reference.name()].map(|place| (place, login.id()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::wrong("unauthorized: incorrect username or password", "r.io", true)]
    #[case::perhaps_wrong("unauthorized: authentication required", "r.io", false)]
    #[case::of_the_image("denied: requested access to the resource is denied", "r.io/o/a", false)]
    #[case::of_the_image_in_one_word("error from registry: denied\ndenied", "r.io/o/a", false)]
    #[case::of_the_image_by_status("unexpected status from HEAD request to x: 403 Forbidden", "r.io/o/a", false)]
    fn what_is_refused_is_the_login_or_the_image(#[case] message: &str, #[case] place: &str, #[case] is_wrong: bool) {
        let (refused, login) = (RefusedLogins::default(), Credential::basic("me", "pw"));
        let [noted, same, beside, elsewhere] =
            ["r.io/o/a:1", "r.io/o/a:2", "r.io/o/b:1", "s.io/o/a:1"].map(|name| name.parse::<Reference>().unwrap());
        assert_eq!(refused.note(&noted, &login, message), place);
        assert!(refused.has(&noted, &login) && refused.has(&same, &login));
        assert_eq!(refused.has(&beside, &login), place == "r.io");
        assert_eq!((refused.is_wrong(&noted, &login), refused.is_wrong(&beside, &login)), (is_wrong, is_wrong));
        assert!(!refused.has(&elsewhere, &login) && !refused.has(&noted, &Credential::basic("me", "new")));
        refused.forget(&same, &login);
        assert!(!refused.has(&noted, &login) && !refused.is_wrong(&noted, &login));
    }

    #[test]
    fn what_is_noted_is_bounded() {
        let refused = RefusedLogins::default();
        for n in 0..=MOST {
            let login = Credential::basic("me", n.to_string());
            refused.note(&"r.io/a:1".parse().unwrap(), &login, "unauthorized");
        }
        assert_eq!(refused.lock().len(), 1);
    }
}
