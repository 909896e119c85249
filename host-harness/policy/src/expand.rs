//! Expands variables in the values of a manifest, as in a shell.
//!
//! - `${NAME}` is the value of the environment variable.
//! - `${NAME:-default}` is the default if the variable is unset or empty.
//! - `${NAME-default}` is the default if the variable is unset.
//! - A default may contain further variables.
//! - `$$` is a dollar sign.

/// Returns the value of an environment variable. Tests provide their own function.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces every variable in `text`.
///
/// # Errors
/// A fragment that says which variable is not set, or what is malformed.
pub(super) fn expand(text: &str, env: Environment<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let end = closing_brace(after).ok_or_else(|| format!("{text:?} has `${{` without a matching `}}`"))?;
            out.push_str(&value_of(&after[..end], env)?);
            rest = &after[end + 1..];
        } else {
            return Err(format!("{text:?} has a `$` that is not part of `${{NAME}}`; write `$$` for a dollar sign"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn value_of(variable: &str, env: Environment<'_>) -> Result<String, String> {
    let end = variable.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(variable.len());
    let (name, default) = variable.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("`${{{variable}}}` does not name an environment variable"));
    }
    let (default, empty_counts) = match (default.strip_prefix(":-"), default.strip_prefix('-')) {
        (Some(default), _) => (Some(default), false),
        (_, Some(default)) => (Some(default), true),
        _ if default.is_empty() => (None, true),
        _ => return Err(format!("`${{{variable}}}` has neither `:-` nor `-` after its name")),
    };
    match (env(name).filter(|value| empty_counts || !value.is_empty()), default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => expand(default, env),
        (None, None) => Err(format!("environment variable {name} is not set; set it, or write `${{{name}:-default}}`")),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[rstest]
    #[case::plain("no variable", "no variable")]
    #[case::set("x${A}y", "xalphay")]
    #[case::set_ignores_default("${A:-d}", "alpha")]
    #[case::unset_takes_default("${NO:-d/e}", "d/e")]
    #[case::empty_takes_colon_default("${EMPTY:-d}", "d")]
    #[case::empty_keeps_plain_default("${EMPTY-d}", "")]
    #[case::unset_takes_plain_default("${NO-d}", "d")]
    #[case::empty_default("${NO:-}", "")]
    #[case::nested("${NO:-${NO2:-${A}}}", "alpha")]
    #[case::dollar("$$A", "$A")]
    #[case::template_braces("${NO:-p}/{name}", "p/{name}")]
    fn variables_expand_as_in_a_shell(#[case] text: &str, #[case] expanded: &str) {
        assert_eq!(expand(text, &env).as_deref(), Ok(expanded));
    }

    #[rstest]
    #[case::unset("${NO}", "NO is not set")]
    #[case::unclosed("${A", "without a matching")]
    #[case::bare("$A", "is not part of")]
    #[case::no_name("${}", "does not name")]
    #[case::digit("${1}", "does not name")]
    #[case::operator("${A?x}", "neither")]
    fn errors_about_malformed_variables_say_what_is_wrong(#[case] text: &str, #[case] part: &str) {
        let error = expand(text, &env).expect_err("malformed");
        assert!(error.contains(part), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn expand_never_panics(text in "[${}A:a-]{0,24}") {
            let _ = expand(&text, &env);
        }
    }
}
