//! The policies under other control planes: the packages `extism` for Python and `@extism/extism` for Node. Installs
//! what `tests/control-planes` pins, below the build folder, and plays the scripts there. What cannot be installed is
//! an error: a test that is left out proves nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Context as _, Result, failed},
    files, packages,
    plugin::Policies,
    process,
    session::{NATIVE, Session, WITHOUT_XTASK},
};

/// The folders of the control planes, the scripts and what they wrote.
pub(crate) struct ControlPlanes<'a> {
    session: &'a Session,
    policies: &'a Policies,
}

/// The hosts whose outputs are compared, the native one first.
const HOSTS: [&str; 3] = ["native", "python", "node"];

impl<'a> ControlPlanes<'a> {
    pub(crate) fn new(session: &'a Session) -> Self {
        Self { session, policies: session.policies() }
    }

    /// Everything about Python: a virtual environment with the pinned packages, then the scripts.
    pub(crate) fn play_in_python(&self) -> Result<()> {
        let source = self.source("python");
        let environment = self.folder("python-venv");
        let python = environment.join("bin/python");
        let requirements = source.join("requirements.txt");
        if !is_stamped(&environment, &requirements) {
            let system = packages::provide_python()?;
            process::run(Command::new(system).args(["-m", "venv", "--clear"]).arg(&environment))?;
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r"]);
            install(pip.arg(&requirements), "PyPI")?;
            stamp(&environment, &requirements)?;
        }
        let mut play = self.session.program(&python);
        play.arg("-B").arg(source.join("play.py")).arg(self.fresh_outputs("python")?);
        process::run(play.args(self.subjects()))
    }

    /// Everything about Node: the pinned packages beside a copy of the runner, then the scripts.
    pub(crate) fn play_in_node(&self) -> Result<()> {
        let (node, npm) = (packages::provide_node()?, packages::provide_npm()?);
        let (source, folder) = (self.source("node"), self.folder("node"));
        for file in ["package.json", "package-lock.json", "imagewatch-policy.mjs", "play.mjs"] {
            let bytes = fs::read(source.join(file)).context(|| format!("read {file} in {}", source.display()))?;
            files::write_if_changed(&folder.join(file), &bytes)?;
        }
        let lock = folder.join("package-lock.json");
        if !is_stamped(&folder, &lock) {
            let mut ci = Command::new(npm);
            ci.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder);
            install(&mut ci, "npm")?;
            stamp(&folder, &lock)?;
        }
        let mut play = self.session.program(&node);
        // Every worker would say that WASI is experimental.
        play.env("NODE_NO_WARNINGS", "1").arg(folder.join("play.mjs")).arg(self.fresh_outputs("node")?);
        play.arg(self.session.workspace().join("plugin/abi/schema"));
        process::run(play.args(self.subjects()))
    }

    /// Every policy's outputs are the same bytes under each host that played it, the native one for the default policy.
    pub(crate) fn compare(&self) -> Result<()> {
        let native = self.fresh_outputs("native")?;
        fs::create_dir_all(&native).context(|| format!("create {}", native.display()))?;
        process::run(self.session.cargo("build").args(NATIVE).args(WITHOUT_XTASK).args(["--example", "outputs"]))?;
        let program = self.session.built("debug", "examples/outputs");
        process::run(self.session.program(&program).arg(native.join("imagewatch.txt")))?;
        for (policy, hosts) in [("imagewatch", &HOSTS[..]), ("weekdays", &HOSTS[1..])] {
            let outputs = |host: &str| {
                let file = self.outputs(host).join(policy).with_extension("txt");
                fs::read_to_string(&file).context(|| format!("read {}", file.display()))
            };
            let expected = outputs(hosts[0])?;
            for host in &hosts[1..] {
                if let Some(difference) = find_difference(&expected, &outputs(host)?) {
                    return failed(format!("policy {policy} under {} and {host}: {difference}", hosts[0]));
                }
            }
        }
        Ok(())
    }

    fn source(&self, host: &str) -> PathBuf {
        self.session.workspace().join("tests/control-planes").join(host)
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.session.target().join("control-planes").join(name)
    }

    fn outputs(&self, host: &str) -> PathBuf {
        self.folder("outputs").join(host)
    }

    /// Where a host is to write; what an earlier run left there is gone, so that it cannot be compared.
    fn fresh_outputs(&self, host: &str) -> Result<PathBuf> {
        let folder = self.outputs(host);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(|| format!("remove {}", folder.display()))
            }
            _ => Ok(folder),
        }
    }

    /// Each policy with the folder of its scripts.
    fn subjects(&self) -> [PathBuf; 4] {
        let workspace = self.session.workspace();
        [
            self.policies.imagewatch.clone(),
            workspace.join("plugin/core/scripts"),
            self.policies.weekdays.clone(),
            workspace.join("tests/policies/weekdays/scripts"),
        ]
    }
}

fn install(command: &mut Command, registry: &str) -> Result<()> {
    process::run(command).or_else(|error| {
        failed(format!("{error}; the control planes are tested with what {registry} has, so it must be reached once"))
    })
}

/// The copy of the pinned list that an installation was made from; written last, so a broken one is made again.
fn stamp_of(folder: &Path) -> PathBuf {
    folder.join("installed-from")
}

fn is_stamped(folder: &Path, list: &Path) -> bool {
    matches!((fs::read(stamp_of(folder)), fs::read(list)), (Ok(made), Ok(wanted)) if made == wanted)
}

fn stamp(folder: &Path, list: &Path) -> Result<()> {
    fs::copy(list, stamp_of(folder)).context(|| format!("copy {}", list.display())).map(drop)
}

/// The first line in which two files of outputs differ, shortened to where they do.
fn find_difference(one: &str, other: &str) -> Option<String> {
    if one == other {
        return None;
    }
    let pair =
        one.lines().chain(std::iter::repeat("(nothing)")).zip(other.lines().chain(std::iter::repeat("(nothing)")));
    let (one, other) = pair.take(one.lines().count().max(other.lines().count())).find(|(one, other)| one != other)?;
    let same = one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count();
    let script: String = one.chars().take_while(|c| *c != '{').collect();
    let part = |line: &str| line.chars().skip(same.saturating_sub(20)).take(120).collect::<String>();
    Some(format!("step {}: …{} and …{}", script.trim(), part(one), part(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_shown_with_its_step() {
        for (name, one, other, expected) in [
            ("the same", "a 0 {}\n", "a 0 {}\n", None),
            (
                "another output",
                "a 0 {}\na 1 {\"x\":1}\n",
                "a 0 {}\na 1 {\"x\":2}\n",
                Some("step a 1: …a 1 {\"x\":1} and …a 1 {\"x\":2}"),
            ),
            ("one ends early", "a 0 {}\n", "", Some("step a 0: …a 0 {} and …(nothing)")),
            ("one has more", "", "b 3 {}\n", Some("step (nothing): …(nothing) and …b 3 {}")),
        ] {
            assert_eq!(find_difference(one, other).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn an_installation_is_kept_for_as_long_as_its_list_stays() {
        let folder = std::env::temp_dir().join(format!("xtask-stamp-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder of ours");
        let list = folder.join("list");
        fs::write(&list, "one").expect("a file of ours");
        assert!(!is_stamped(&folder, &list), "nothing was installed");
        stamp(&folder, &list).expect("a file of ours");
        assert!(is_stamped(&folder, &list));
        fs::write(&list, "two").expect("a file of ours");
        assert!(!is_stamped(&folder, &list), "the list changed");
        fs::remove_dir_all(folder).expect("it is ours");
    }
}
