//! Code on a page is code that is tested: a fenced block under `<!-- from FILE -->` stands in that file, word for word.

use std::{fs, path::Path};

use crate::error::{Context as _, Result, failed};

/// The pages that show code of ours.
const PAGES: [&str; 2] = ["docs/embed.md", "plugin/README.md"];

const FROM: &str = "<!-- from ";

/// Every marked block of every page stands in the file that it names.
pub(super) fn check_snippets(workspace: &Path) -> Result<()> {
    let mut problems = Vec::new();
    for page in PAGES {
        let text = read(&workspace.join(page))?;
        let snippets = snippets(&text);
        if snippets.is_empty() {
            problems.push(format!("{page} shows no code of ours"));
        }
        for (file, code) in snippets {
            if code.is_empty() || !read(&workspace.join(file))?.contains(&code) {
                let first = code.lines().next().unwrap_or("nothing");
                problems.push(format!("{page} shows what {file} does not have, at {first:?}"));
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { failed(problems.join("; ")) }
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).context(|| format!("read {}", file.display()))
}

/// The file and the text of each marked block; empty when no block follows a mark.
fn snippets(page: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(file) = line.strip_prefix(FROM).and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        let is_block = lines.next().is_some_and(|line| line.starts_with("```"));
        let code = lines.by_ref().take_while(|line| *line != "```").filter(|_| is_block);
        found.push((file, code.flat_map(|line| [line, "\n"]).collect()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_blocks_are_found_with_their_files() {
        let page = "Text.\n\n<!-- from a/b.py -->\n```python\none\n\n  two\n```\n\n```\nunmarked\n```\n<!-- from c.rs -->\nno block\n";
        assert_eq!(snippets(page), [("a/b.py", "one\n\n  two\n".to_owned()), ("c.rs", String::new())]);
    }

    #[test]
    fn a_block_that_its_file_does_not_have_is_named() {
        let folder = std::env::temp_dir().join(format!("xtask-snippets-{}", std::process::id()));
        for page in PAGES {
            let file = folder.join(page);
            fs::create_dir_all(file.parent().expect("it has one")).expect("ours");
            fs::write(file, "<!-- from code -->\n```\nlet it = 1;\n```\n").expect("ours");
        }
        fs::write(folder.join("code"), "fn f() {\nlet it = 1;\n}\n").expect("ours");
        check_snippets(&folder).expect("both pages show what is there");
        fs::write(folder.join("code"), "fn f() {\nlet it = 2;\n}\n").expect("ours");
        let error = check_snippets(&folder).expect_err("it changed").to_string();
        assert!(error.contains("docs/embed.md shows what code does not have, at \"let it = 1;\""), "{error}");
        fs::remove_dir_all(folder).expect("it is ours");
    }
}
