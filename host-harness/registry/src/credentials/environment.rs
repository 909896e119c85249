//! Environment variables, passed as an argument. `Debug` shows names but no values, because many values are secrets.

use std::collections::BTreeMap;
use std::fmt;

/// Environment variables by name.
#[derive(Clone, Default)]
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The value of a variable without surrounding whitespace. `None` if the variable is absent or empty.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// All variables whose names begin with `prefix`.
    pub(super) fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let from = self.0.range(prefix.to_owned()..).take_while(move |(name, _)| name.starts_with(prefix));
        from.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The variables for whose names `is_wanted` returns `true`.
    pub(super) fn filtered(&self, is_wanted: impl Fn(&str) -> bool) -> Self {
        let wanted = self.0.iter().filter(|(name, _)| is_wanted(name));
        Self(wanted.map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
