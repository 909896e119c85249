//! The rules of the house that no tool knows: how long a file may be, and who may depend on whom.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Context as _, Result, failed},
    process::capture,
    session::Session,
};

/// A longer file holds two things and wants to be two files.
const MOST_LINES: usize = 500;

/// Which crates of the workspace each may depend on, by whatever way. The host is without `imagewatch-core`, so that
/// it cannot take a decision natively.
const MAY_DEPEND_ON: [(&str, &[&str]); 12] = [
    ("imagewatch-abi", &[]),
    ("imagewatch-core", &["imagewatch-abi"]),
    ("imagewatch-plugin", &["imagewatch-core", "imagewatch-abi"]),
    // Another hand's policy: what it needs of us is the boundary.
    ("imagewatch-weekdays", &["imagewatch-abi"]),
    ("imagewatch-base", &["imagewatch-abi"]),
    ("imagewatch-engine", &["imagewatch-base", "imagewatch-abi"]),
    ("imagewatch-registry", &["imagewatch-base", "imagewatch-abi"]),
    ("imagewatch-policy", &["imagewatch-base", "imagewatch-abi"]),
    ("imagewatch-rollout", &["imagewatch-engine", "imagewatch-base", "imagewatch-abi"]),
    ("imagewatch", &HOST),
    ("imagewatch-tests", &TESTS),
    ("xtask", &[]),
];

/// The crates below the program.
const HOST: [&str; 6] = [
    "imagewatch-abi",
    "imagewatch-base",
    "imagewatch-engine",
    "imagewatch-policy",
    "imagewatch-registry",
    "imagewatch-rollout",
];

/// The tests know the program, and the decisions as an oracle.
const TESTS: [&str; 8] = {
    let [abi, base, engine, policy, registry, rollout] = HOST;
    ["imagewatch", "imagewatch-core", abi, base, engine, policy, registry, rollout]
};

/// No Rust file of ours has more lines than that.
pub(super) fn check_lengths(workspace: &Path) -> Result<()> {
    let mut long = Vec::new();
    for file in rust_files(workspace)? {
        let text = fs::read_to_string(&file).context(|| format!("read {}", file.display()))?;
        let lines = text.lines().count();
        if lines > MOST_LINES {
            long.push(format!("{} has {lines} lines", file.display()));
        }
    }
    if long.is_empty() { Ok(()) } else { failed(format!("more than {MOST_LINES} lines: {}", long.join(", "))) }
}

/// Every `.rs` file below the folder, builds and hidden folders left out.
pub(super) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).context(|| format!("list {}", folder.display()))? {
        let entry = entry.context(|| format!("list {}", folder.display()))?;
        let (path, name) = (entry.path(), entry.file_name());
        let is_skipped = name == "target" || name.to_string_lossy().starts_with('.');
        if path.is_dir() && !is_skipped {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}

/// No crate of ours depends on one that it may not know, directly or through another.
pub(super) fn check_dependencies(session: &Session) -> Result<()> {
    let mut problems = Vec::new();
    for (package, allowed) in MAY_DEPEND_ON {
        let mut cargo = session.cargo("tree");
        // Every target: the plugin has dependencies on wasm only.
        let tree = capture(cargo.args(["-p", package, "-e", "normal", "--prefix", "none", "--target", "all"]));
        let Some(tree) = tree else { return failed(format!("`cargo tree -p {package}` failed")) };
        problems.extend(forbidden(&tree, package, allowed).map(|other| format!("{package} depends on {other}")));
    }
    if problems.is_empty() { Ok(()) } else { failed(problems.join(", ")) }
}

/// The crates of ours in a printed tree that are neither the package itself nor allowed to it.
fn forbidden<'a>(tree: &'a str, package: &'a str, allowed: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let ours = names.filter(|name| MAY_DEPEND_ON.iter().any(|(known, _)| known == name));
    ours.filter(move |name| *name != package && !allowed.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "\
imagewatch v0.1.0 (/w/host-harness)
imagewatch-abi v0.1.0 (/w/plugin/abi)
serde v1.0.0
imagewatch-core v0.1.0 (/w/plugin/core)
imagewatch-abi v0.1.0 (/w/plugin/abi) (*)
";

    #[test]
    fn a_crate_that_may_not_be_known_is_found_wherever_it_stands_in_the_tree() {
        let found: Vec<_> = forbidden(TREE, "imagewatch", &["imagewatch-abi"]).collect();
        assert_eq!(found, ["imagewatch-core"]);
        assert_eq!(forbidden(TREE, "imagewatch", &["imagewatch-abi", "imagewatch-core"]).count(), 0);
    }

    #[test]
    fn a_file_that_is_too_long_is_named_and_builds_are_not_looked_at() {
        let folder = std::env::temp_dir().join(format!("xtask-lengths-{}", std::process::id()));
        for name in ["src/deep", "target", ".git"] {
            fs::create_dir_all(folder.join(name)).expect("ours");
        }
        let write = |name: &str, lines: usize| fs::write(folder.join(name), "//\n".repeat(lines)).expect("ours");
        write("src/deep/fits.rs", MOST_LINES);
        write("target/built.rs", MOST_LINES + 1);
        write(".git/odd.rs", MOST_LINES + 1);
        check_lengths(&folder).expect("all files fit");
        write("src/deep/long.rs", MOST_LINES + 1);
        let error = check_lengths(&folder).expect_err("one is too long").to_string();
        assert!(error.contains("src/deep/long.rs has 501 lines") && !error.contains("fits"), "{error}");
        fs::remove_dir_all(folder).expect("it is ours");
    }
}
