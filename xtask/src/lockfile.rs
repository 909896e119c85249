//! Reads versions out of Cargo.lock. Only the two lines it needs, by hand: xtask has no TOML parser.

/// The version that `lock` (the text of Cargo.lock) has of a package; the first, when there are several.
pub(crate) fn version_of<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let mut lines = lock.lines();
    lines.find(|line| quoted(line, "name") == Some(package))?;
    lines.take_while(|line| !line.is_empty()).find_map(|line| quoted(line, "version"))
}

fn quoted<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"version = 4

[[package]]
name = "wasm-bindgen-macro"
version = "0.2.1"

[[package]]
name = "wasm-bindgen"
version = "0.2.130"
source = "registry+https://github.com/rust-lang/crates.io-index"
dependencies = [
 "wasm-bindgen-macro",
]

[[package]]
name = "last"
"#;

    #[test]
    fn the_version_is_the_one_under_the_whole_name() {
        for (name, package, expected) in [
            ("a name that others begin with", "wasm-bindgen", Some("0.2.130")),
            ("the longer name", "wasm-bindgen-macro", Some("0.2.1")),
            ("not in the lock", "wasm", None),
            ("without a version", "last", None),
        ] {
            assert_eq!(version_of(LOCK, package), expected, "{name}");
        }
    }

    #[test]
    fn the_workspace_lock_has_the_wasm_test_library() {
        let lock = include_str!("../../Cargo.lock");
        assert!(version_of(lock, "wasm-bindgen").is_some_and(|version| version.starts_with("0.2.")));
    }
}
