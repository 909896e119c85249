//! The folders of the program, and which of them may use which. Reads `use` declarations and paths that begin with `crate::`.

use std::{fs, path::Path};

use super::rules::rust_files;
use crate::error::{Context as _, Result, failed};

/// The folders of `host-harness/src`. A folder uses itself and those after it.
const FOLDERS: [&str; 4] = ["cli", "api", "daemon", "store"];

/// No folder of the program uses one before it.
pub(super) fn check_layers(program: &Path) -> Result<()> {
    let mut problems = Vec::new();
    for (index, folder) in FOLDERS.iter().enumerate() {
        let mut files = rust_files(&program.join(folder))?;
        files.push(program.join(folder).with_extension("rs"));
        for file in files {
            let text = fs::read_to_string(&file).context(|| format!("read {}", file.display()))?;
            let used = FOLDERS[..index].iter().filter(|above| uses(&text, above));
            problems.extend(used.map(|above| format!("{} uses crate::{above}", file.display())));
        }
    }
    if problems.is_empty() { Ok(()) } else { failed(problems.join(", ")) }
}

/// Whether the code in `text` names the folder: `crate::folder`, also in `use crate::{folder, …}`. Comments do not count.
fn uses(text: &str, folder: &str) -> bool {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    code.split("crate::").skip(1).any(|path| match path.strip_prefix('{') {
        None => first_name(path) == folder,
        Some(group) => names_in_group(group).any(|name| name == folder),
    })
}

/// The first names of the paths in a group of `use`, which begins after its brace. Groups inside it do not count.
fn names_in_group(group: &str) -> impl Iterator<Item = &str> {
    let depth_after = |depth: i32, c: char| depth + i32::from(c == '{') - i32::from(c == '}');
    let mut depth = 1;
    let is_end = |c: char| {
        depth = depth_after(depth, c);
        depth == 0
    };
    let end = group.find(is_end).unwrap_or(group.len());
    let mut depth = 0;
    let is_separator = move |c: char| {
        depth = depth_after(depth, c);
        c == ',' && depth == 0
    };
    group[..end].split(is_separator).map(|path| first_name(path.trim_start()))
}

fn first_name(path: &str) -> &str {
    path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_found_in_every_form() {
        for (name, text, expected) in [
            ("use", "use crate::cli::Exit;", true),
            ("group", "use crate::{\n    api,\n    cli::Exit,\n};", true),
            ("after a group in the group", "use crate::{store::{Store, StoreError}, cli::Exit};", true),
            ("inside a group in the group", "use crate::{store::{cli, api}};", false),
            ("after the group", "use crate::{store::Store}; use other::{cli};", false),
            ("path", "fn f() { crate::cli::f() }", true),
            ("longer name", "use crate::client::Client;", false),
            ("comment", "// use crate::cli::Exit;", false),
            ("below", "use crate::store::Store;", false),
        ] {
            assert_eq!(uses(text, "cli"), expected, "{name}");
        }
    }

    #[test]
    fn a_planted_violation_is_reported_with_its_file() {
        let program = std::env::temp_dir().join(format!("xtask-layers-{}", std::process::id()));
        for folder in FOLDERS {
            fs::create_dir_all(program.join(folder)).expect("the temporary folder is ours");
            fs::write(program.join(folder).with_extension("rs"), "").expect("the temporary folder is ours");
        }
        let write = |name: &str, text: &str| fs::write(program.join(name), text).expect("the temporary folder is ours");
        write("cli/run.rs", "use crate::daemon::App;");
        check_layers(&program).expect("the command line may use the daemon");
        write("store/schema.rs", "use crate::daemon::App;");
        let error = check_layers(&program).expect_err("the store may not").to_string();
        assert!(error.contains("store/schema.rs uses crate::daemon") && !error.contains("run.rs"), "{error}");
        fs::remove_dir_all(program).expect("the temporary folder is ours");
    }
}
