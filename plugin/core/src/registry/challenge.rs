//! `WWW-Authenticate`, read leniently: what real registries send is worse than RFC 9110.
//! Several headers, several challenges in one, quoted and unquoted values, blanks around `=`,
//! missing commas, unclosed quotes; see the table of cases in the tests. Decides only which
//! challenge to take.

use std::collections::BTreeMap;

use super::cache::Challenge;

/// Words that start a challenge wherever they stand. A word that is none of them starts one only
/// at the beginning, so that `Bearer realm="…",service` loses no more than `service`.
const SCHEMES: [&str; 5] = ["basic", "bearer", "digest", "negotiate", "ntlm"];

/// What a token for a repository is good for, when it changes nothing there; the last two are Azure's. A host takes these.
const READING: [&str; 3] = ["pull", "content_read", "metadata_read"];

/// One challenge: its scheme and parameter names in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) scheme: String,
    pub(crate) params: BTreeMap<String, String>,
}

/// All challenges of one header value, in their order. Never fails: what makes no sense is left out.
pub(crate) fn parse_challenges(header: &str) -> Vec<Parsed> {
    let mut challenges: Vec<Parsed> = Vec::new();
    let mut rest = skip(header, ", \t");
    while !rest.is_empty() {
        let (word, after) = read_value(rest, ", \t=");
        let Some(word) = word else { break };
        let after = skip(after, " \t");
        let name = word.to_ascii_lowercase();
        match (after.strip_prefix('='), challenges.last_mut()) {
            (Some(after), current) => {
                let (value, after) = read_value(skip(after, " \t"), ", \t");
                if let (Some(value), Some(challenge)) = (value.filter(|_| !name.is_empty()), current) {
                    challenge.params.entry(name).or_insert(value);
                }
                rest = skip(after, ", \t");
            }
            (None, current) => {
                if current.is_none() || SCHEMES.contains(&name.as_str()) {
                    challenges.push(Parsed { scheme: name, params: BTreeMap::new() });
                }
                rest = skip(after, ", \t");
            }
        }
    }
    challenges
}

fn skip<'a>(text: &'a str, what: &str) -> &'a str {
    text.trim_start_matches(|c| what.contains(c))
}

/// A quoted string, or what stands before the first of `ends`; `None` for an unclosed quote, and
/// for a value that is missing altogether.
fn read_value<'a>(text: &'a str, ends: &str) -> (Option<String>, &'a str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c| ends.contains(c)).unwrap_or(text.len());
        // A stray `=` must not stand still.
        let word = &text[..end];
        let is_given = !word.is_empty() || text.starts_with('=');
        return (is_given.then(|| word.to_owned()), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (Some(value), &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (None, "")
}

/// What a 401 asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) challenge: Challenge,
    /// The scope of this one repository that it names.
    pub(crate) scope: Option<String>,
    /// Why the token that was sent is not enough: `invalid_token`, `insufficient_scope`.
    pub(crate) error: Option<String>,
}

/// The challenge to answer among those of all headers: Bearer before Basic, others ignored.
pub(crate) fn choose(headers: &[&str]) -> Option<Asked> {
    let challenges: Vec<Parsed> = headers.iter().flat_map(|header| parse_challenges(header)).collect();
    let bearer = challenges.iter().filter(|c| c.scheme == "bearer").find_map(|c| {
        let param = |name: &str| c.params.get(name).filter(|value| !value.is_empty()).cloned();
        let scope = param("scope");
        let is_of_repository = scope.as_ref().is_some_and(|scope| scope.starts_with("repository:"));
        let (own, general) = if is_of_repository { (scope.map(|scope| to_read(&scope)), None) } else { (None, scope) };
        let challenge = Challenge::Bearer { realm: param("realm")?, service: param("service"), scope: general };
        Some(Asked { challenge, scope: own, error: param("error") })
    });
    let is_basic = || challenges.iter().any(|c| c.scheme == "basic");
    bearer.or_else(|| is_basic().then_some(Asked { challenge: Challenge::Basic, scope: None, error: None }))
}

/// Scopes of repositories, without the actions that change something there. Some registries name those for a read as well;
/// a watcher needs none of them, and a host need not let a policy ask for any.
fn to_read(scopes: &str) -> String {
    let narrowed = scopes.split(' ').filter_map(|scope| {
        let (resource, actions) = scope.rsplit_once(':').filter(|(resource, _)| resource.starts_with("repository"))?;
        let reading: Vec<&str> = actions.split(',').filter(|action| READING.contains(action)).collect();
        Some(format!("{resource}:{}", if reading.is_empty() { "pull".to_owned() } else { reading.join(",") }))
    });
    narrowed.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
